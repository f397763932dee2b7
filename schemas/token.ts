import { type Static, type TProperties, Type } from '@sinclair/typebox'

/** The roles of the MMC, from most to fewest rights. */
export const ROLES = ['admin', 'editor', 'viewer', 'connectionManager', 'monitoringViewer'] as const

/** The token of all examples, in requests and responses: its claims match, and `hash` is its SHA-256. */
const EXAMPLE = {
  token: [
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9',
    'eyJyb2xlIjoidmlld2VyIiwiaWF0Ijo0MDcwOTQ5MDg1LCJleHAiOjQxMDIzOTQ3MDAsImlzcyI6ImNlZGFsbyIsIm' +
    'p0aSI6IjdkMWYyYjBjLTVhODMtNGMxZS05ZjM2LTJhNGJlOGM5MGQxNyJ9',
    't0QXgL1QOAUduHq9mFwmPyP3qfbv1giI28FOh_DE-kc'
  ].join('.'),
  name: 'dashboard',
  hash: '0cf07d08b91fdedd4b02ad9ad54986fe0c33bb39e021a2b1852bc005ce352577',
  validUntil: '2099-12-31T10:05:00.000Z',
  role: 'viewer',
  requestedBy: 'cedalo',
  issueDate: '2099-01-01T11:11:25.113Z'
}

/** A hash, as it is stored. */
export const HASH = '^[0-9a-f]{64}$'

/** A pattern in place of the JSON Schema format `date-time`, which some validators refuse to compile. */
export const TIME = '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$'

const time = (description: string, example: string) => Type.String({
  pattern: TIME,
  description: `${description}; UTC, ISO 8601 with milliseconds and Z`,
  examples: [example]
})

/** An object of the first example of each property. */
function example (properties: TProperties) {
  return Object.fromEntries(Object.entries(properties).map(([name, { examples }]) => [name, (examples as string[])[0]]))
}

const properties = {
  name: Type.String({ description: 'Unique name', examples: [EXAMPLE.name] }),
  hash: Type.String({
    description: 'SHA-256 of the whole token string, lower-case hex',
    examples: [EXAMPLE.hash]
  }),
  validUntil: time('When it expires, a whole second', EXAMPLE.validUntil),
  role: Type.String({ description: 'What its holder may do', examples: [EXAMPLE.role] }),
  requestedBy: Type.String({
    description: 'Who created it: a user name, or token:<name>', examples: [EXAMPLE.requestedBy]
  }),
  issueDate: time('When it was created', EXAMPLE.issueDate),
  lastUsed: time('When it was last used; equals issueDate before the first use', EXAMPLE.issueDate)
}

/** The public record of a token: seven properties, in this order, never the secret. */
export const TokenSchema = Type.Object(properties, {
  description: 'An application token, without its secret', examples: [example(properties)]
})

export const TokensSchema = Type.Array(TokenSchema, {
  description: 'Application tokens, oldest first', examples: [[example(properties)]]
})

export type Token = Static<typeof TokenSchema>

const issued = {
  token: Type.String({ description: 'The secret: a JWT, returned only in this response', examples: [EXAMPLE.token] }),
  ...properties
}

/** The response to the request that creates a token; the secret is returned only there. */
export const IssuedTokenSchema = Type.Object(issued, {
  description: 'A new application token with its secret', examples: [example(issued)]
})

export type IssuedToken = Static<typeof IssuedTokenSchema>

// Each description continues the sentence "<property> must be …" of a 400. The rules are in lib/tokens.
export function createTokenSchema (roles: readonly string[]) {
  const properties = {
    name: Type.String({
      description: 'a string of well-formed Unicode with 1 to 255 characters after trimming, ' +
        'at least one of them visible, without control characters, line separators and misleading invisible characters',
      examples: [EXAMPLE.name]
    }),
    role: Type.String({
      enum: roles,
      description: `one of ${roles.join(', ')}`,
      examples: [roles.includes(EXAMPLE.role) ? EXAMPLE.role : roles.at(-1)]
    }),
    validUntil: Type.String({
      description: 'a time in the future, up to the year 9999, with a zone: ' +
        'an RFC 3339 date-time such as 2099-12-31T10:05:00Z',
      examples: ['2099-12-31T10:05:00Z', '2099-12-31 10:05:00000Z']
    })
  }
  return Type.Object(properties, {
    description: 'an object with name, role and validUntil', examples: [example(properties)]
  })
}

/** With the roles of the MMC. */
export const CreateTokenSchema = createTokenSchema(ROLES)

export type CreateToken = Static<typeof CreateTokenSchema>

/** The query of a list. */
export const ListQuerySchema = Type.Object({
  // A string, since TypeBox converts 1.5 and 1e9 to the integer 1.
  limit: Type.Optional(Type.String({
    pattern: '^([1-9][0-9]{0,2}|1000)$',
    description: 'an integer from 1 to 1000, the page size: the header Link has the next page'
  })),
  cursor: Type.Optional(Type.String({ description: 'a cursor from the header Link' })),
  state: Type.Optional(Type.String({
    enum: ['active', 'expired'], pattern: '^(active|expired)$', description: 'active or expired'
  })),
  unusedSince: Type.Optional(Type.String({
    description: 'an RFC 3339 date-time such as 2099-12-31T10:05:00Z: lists tokens last used before it'
  }))
})

export type ListQuery = Static<typeof ListQuerySchema>

/** An entry of a bootstrap file, without a secret. */
export const BootstrapEntrySchema = Type.Object({
  ...CreateTokenSchema.properties,
  role: Type.String({ description: 'one of the roles' }),
  hash: Type.String({ pattern: HASH, description: 'the SHA-256 of the token in 64 lower-case hexadecimal digits' })
}, { additionalProperties: false, description: 'an object with name, role, validUntil and hash, and nothing else' })

export type BootstrapEntry = Static<typeof BootstrapEntrySchema>

export const TokenParamsSchema = Type.Object({
  tokenHash: Type.String({
    description: 'The hash of the token, in any letter case', examples: properties.hash.examples as string[]
  })
})
