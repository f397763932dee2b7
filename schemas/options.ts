import type { FastifyRequest } from 'fastify'
import { type Static, Type } from '@sinclair/typebox'
import type { PostgresConfig, PostgresPool, TokenEvent, TokenPrincipal } from '../lib/api.js'
import { ROLES } from './token.js'

/** A hundred years in seconds: a larger number is probably in milliseconds. */
const LONGEST = 100 * 365.25 * 24 * 60 * 60

/**
 * The options of the plugin. Each description continues the sentence "option <name> must be …"; what a schema can't
 * check is checked in lib/options.ts.
 */
export const OptionsSchema = Type.Object({
  /**
   * Where tokens are stored: a connection string with special characters percent-encoded, a configuration for `pg`, or
   * the host's own pool, which the host ends.
   */
  postgres: Type.Unsafe<string | PostgresConfig | PostgresPool>(Type.Any({
    description: 'a connection string such as postgres://user:password@host:5432/database, ' +
      'a configuration object for pg, or a Pool of pg'
  })),
  /**
   * A direct connection to the same database, for a host whose `postgres` goes through a pooler such as PgBouncer.
   * Migrations and notifications use it; other statements are then not prepared. Default: none.
   */
  listen: Type.Optional(Type.Unsafe<string | PostgresConfig>(Type.Any({
    description: 'a connection string or a configuration object for pg that reaches Postgres directly, ' +
      'not through a pooler'
  }))),
  /**
   * The signing secret: at least 32 random bytes as a string, the same on every node. Tokens are signed with a key
   * derived from it. With up to five, the first signs and all verify, so that a secret can be replaced while its tokens
   * still work.
   */
  secret: Type.Union([Type.String(), Type.Array(Type.String(), { minItems: 1, maxItems: 5 })], {
    description: 'a string of at least 32 random bytes, such as the output of "openssl rand -base64 32", ' +
      'or an array of up to five: the first signs, all verify'
  }),
  /**
   * Who is logged in with the host's session, `null` for nobody; called on the four routes, by the guards of
   * `requireRole`, and for `data.session` of a 401. Default: `request.user` as the host set it.
   */
  session: Type.Optional(Type.Unsafe<
    (request: FastifyRequest) => TokenPrincipal | null | undefined | Promise<TokenPrincipal | null | undefined>
      >(Type.Any({
        description: 'a function that takes the request and returns { username, roles } or null, or a promise of it'
      }))),
  /**
   * The `iss` claim of tokens, 1 to 255 printable ASCII characters. Only JWTs that name it are handled. Default
   * `cedalo`.
   */
  issuer: Type.String({
    default: 'cedalo',
    pattern: '^[!#-\\[\\]-~]{1,255}$',
    description: 'a string of 1 to 255 printable ASCII characters without spaces, quotes and backslashes; ' +
      'it is the iss claim'
  }),
  /** The roles that a token may have, `admin` among them. Default: the five of the MMC. */
  roles: Type.Array(Type.String({ pattern: '^[!-~]{1,255}$' }), {
    default: [...ROLES],
    uniqueItems: true,
    contains: Type.Literal('admin'),
    description: 'an array of different names, "admin" among them, ' +
      'each of 1 to 255 printable ASCII characters without spaces'
  }),
  /** The hook that sets `request.user`: a guard can only see what ran before it. Default `preHandler`. */
  hook: Type.Union([Type.Literal('preHandler'), Type.Literal('onRequest')], {
    default: 'preHandler',
    description: '"preHandler", or "onRequest" for a host whose guards run in that hook'
  }),
  /** The name of the query parameter that may carry a token, or `false` for none. Default `token`. */
  queryParameter: Type.Union([Type.String({ pattern: '^[A-Za-z0-9_.-]{1,255}$' }), Type.Literal(false)], {
    default: 'token',
    description: 'a name of letters, digits, "_", "." and "-", or false to ignore tokens in the query'
  }),
  /** The versions that `Accept: application/json;version=N` may ask for on the four routes. Default `[1]`. */
  versions: Type.Array(Type.Integer({ minimum: 1 }), {
    default: [1],
    minItems: 1,
    uniqueItems: true,
    description: 'an array of different positive integers, such as [1]'
  }),
  /** Whether tokens are enabled from the start. Disabled, the plugin opens no database connection. Default `true`. */
  enabled: Type.Boolean({
    default: true,
    description: 'true or false; false starts the plugin disabled, without a database connection'
  }),
  /** The base path of the four routes, such as `/mmc`. Default: none. */
  prefix: Type.String({
    default: '',
    pattern: '^(/[^/?#*:]+)*$',
    description: 'a base path: empty, or a path that starts with a slash and does not end with one, such as "/mmc"'
  }),
  /** The Postgres schema of the plugin's tables, created if missing. Default `mmc_tokens`. */
  schema: Type.String({
    default: 'mmc_tokens',
    pattern: '^[A-Za-z_][A-Za-z0-9_]{0,44}$',
    description: 'the name of a Postgres schema: up to 45 letters, digits and underscores, not starting with a digit'
  }),
  /** Whether to migrate the tables at the start. With `false`, outdated tables reject the start. Default `true`. */
  migrate: Type.Boolean({
    default: true,
    description: 'true, or false if an operator migrates the tables before the nodes start'
  }),
  /**
   * The path of a JSON file with tokens that exist from the start, an array of `{ name, role, validUntil, hash }` as
   * `app.tokens.mint` returns them. Each is stored once: a revoked one stays revoked. Default: none.
   */
  bootstrap: Type.Optional(Type.String({
    minLength: 1,
    description: 'the path of a JSON file, an array of { name, role, validUntil, hash }'
  })),
  /**
   * Reject the start if the bootstrap file or an entry is invalid. Otherwise it is logged as an error. Default `false`.
   */
  bootstrapStrict: Type.Boolean({
    default: false,
    description: 'true to reject the start if the bootstrap file or an entry is invalid, or false to log it'
  }),
  /**
   * Called at least once per event, on one node, one event after another. If it throws, rejects or takes longer than 30
   * s, it is called again later, with the same `id`. Default: events are only logged.
   */
  onEvent: Type.Optional(Type.Unsafe<(event: TokenEvent) => unknown>(Type.Any({
    description: 'a function that takes an event, such as { type: "token.issued", name, … }'
  }))),
  /** The maximum lifetime of a new token, in seconds; a later `validUntil` is a 400. Default: unlimited. */
  maxLifetime: Type.Optional(Type.Integer({
    minimum: 1,
    maximum: LONGEST,
    description: 'a positive integer in seconds, such as 7776000 for 90 days, and at most 100 years'
  })),
  /**
   * Whether a token with the role `admin` may use the four routes. With `false` they require a logged-in session.
   * Default `true`.
   */
  tokensMayManageTokens: Type.Boolean({
    default: true,
    description: 'true, or false so that the four routes require a logged-in session'
  }),
  /** How long expired tokens are kept, in seconds. Default: until they are revoked. */
  purgeExpiredAfter: Type.Optional(Type.Integer({
    minimum: 0,
    maximum: LONGEST,
    description: 'an integer in seconds from 0, such as 2592000 for 30 days, and at most 100 years'
  })),
  /**
   * Whether responses to requests with a token carry `application-token-expires`, an HTTP date (RFC 9110 §5.6.7).
   * Default `false`.
   */
  expiryHeader: Type.Boolean({
    default: false,
    description: 'true or false; true adds the header application-token-expires to responses to requests with a token'
  })
}, { additionalProperties: false })

/** The options with their defaults. */
export type Options = Static<typeof OptionsSchema>
