import { type Static, Type } from '@sinclair/typebox'
import { ROLES } from './token.js'

/** A hundred years in seconds: more is a number of milliseconds. */
const LONGEST = 100 * 365.25 * 24 * 60 * 60

// Each description continues the sentence "option <name> must be …".

/** The options of the plugin that are plain data; the rest, and what a schema can't say, is checked in lib/options.ts. */
export const OptionsSchema = Type.Object({
  secret: Type.Union([Type.String(), Type.Array(Type.String(), { minItems: 1, maxItems: 5 })], {
    description: 'a string of at least 32 random bytes, such as the output of "openssl rand -base64 32", or up to five of them: the first signs, all verify'
  }),
  issuer: Type.String({
    default: 'cedalo',
    pattern: '^[!#-\\[\\]-~]{1,255}$',
    description: 'a string of 1 to 255 printable ASCII characters without spaces, quotes and backslashes; it is the claim iss'
  }),
  roles: Type.Array(Type.String({ pattern: '^[!-~]{1,255}$' }), {
    default: [...ROLES],
    uniqueItems: true,
    contains: Type.Literal('admin'),
    description: 'a list of different names, "admin" among them, each of 1 to 255 printable ASCII characters without spaces'
  }),
  hook: Type.Union([Type.Literal('preHandler'), Type.Literal('onRequest')], {
    default: 'preHandler',
    description: '"preHandler", or "onRequest" for a host whose guards sit there'
  }),
  queryParameter: Type.Union([Type.String({ pattern: '^[A-Za-z0-9_.-]{1,255}$' }), Type.Literal(false)], {
    default: 'token',
    description: 'a name of letters, digits, "_", "." and "-" for the query form, or false to turn it off'
  }),
  versions: Type.Array(Type.Integer({ minimum: 1 }), {
    default: [1],
    minItems: 1,
    uniqueItems: true,
    description: 'a list of different whole numbers from 1 on, such as [1]'
  }),
  enabled: Type.Boolean({
    default: true,
    description: 'true or false; false starts the plugin switched off, without a database connection'
  }),
  prefix: Type.String({
    default: '',
    pattern: '^(/[^/?#*:]+)*$',
    description: 'the base path of the routes: empty, or a path that starts with a slash and does not end with one, such as "/mmc"'
  }),
  schema: Type.String({
    default: 'mmc_tokens',
    pattern: '^[A-Za-z_][A-Za-z0-9_]{0,44}$',
    description: 'the name of the Postgres schema that holds our tables: up to 45 letters, digits and underscores, no digit first'
  }),
  migrate: Type.Boolean({
    default: true,
    description: 'true, or false for an operator who brings the tables up to date before the nodes start'
  }),
  bootstrap: Type.Optional(Type.String({
    minLength: 1,
    description: 'the path of a JSON file, an array of { name, role, validUntil, hash }'
  })),
  bootstrapStrict: Type.Boolean({
    default: false,
    description: 'true, so that a bootstrap file or entry that is no good rejects the start, or false, so that the log tells of it'
  }),
  maxLifetime: Type.Optional(Type.Integer({
    minimum: 1,
    maximum: LONGEST,
    description: 'a whole number of seconds from 1 on, such as 7776000 for 90 days, and at most 100 years'
  })),
  tokensMayManageTokens: Type.Boolean({
    default: true,
    description: 'true, or false so that the four routes take a session'
  }),
  purgeExpiredAfter: Type.Optional(Type.Integer({
    minimum: 0,
    maximum: LONGEST,
    description: 'a whole number of seconds from 0 on, such as 2592000 for 30 days, and at most 100 years'
  })),
  expiryHeader: Type.Boolean({
    default: false,
    description: 'true or false; true tells in the header application-token-expires when the token of a request expires'
  })
}, { additionalProperties: false })

export type DataOptions = Static<typeof OptionsSchema>
