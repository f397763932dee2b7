import type { FastifyRequest } from 'fastify'
import type { DataOptions } from '../schemas/options.js'
import type { CreateToken, IssuedToken, Token } from '../schemas/token.js'

export type { CreateToken, IssuedToken, Token }

/** Who a request acts as: the MMC's own shape, as the host's guards know it. */
export interface TokenPrincipal {
  /** The user's name, or `token:<name>`. */
  username: string
  roles: string[]
}

/** What we use of a client of `pg`. */
export interface PostgresClient {
  query: (query: { text: string, values?: unknown[], name?: string, types?: { getTypeParser: () => (value: string) => unknown } }) => Promise<{ rows: unknown[] }>
  release: (destroy?: boolean | Error) => void
  on: (event: 'error', listener: (error: Error) => void) => unknown
  off: (event: 'error', listener: (error: Error) => void) => unknown
}

/** What we use of a `Pool` of `pg`. The package need not be the same copy as ours. */
export interface PostgresPool extends Pick<PostgresClient, 'on' | 'off'> {
  connect: (callback: (error: unknown, client?: PostgresClient) => void) => unknown
  end: () => Promise<void>
  readonly totalCount: number
}

/** A configuration for `pg`, such as `{ host, port, user, password, database, ssl, max }`. */
export interface PostgresConfig {
  connectionString?: string
  host?: string
  port?: number
  database?: string
  user?: string
  [setting: string]: unknown
}

/** How the plugin is registered: `await app.register(tokensPlugin, options)`. */
export interface TokensPluginOptions extends Partial<DataOptions> {
  /**
   * The signing secret: at least 32 random bytes as a string, the same on every node. What signs is a key derived from it. Several, up
   * to five: the first signs, all verify; so a new one takes over while tokens of the old one still work.
   */
  secret: string | string[]
  /** Where tokens live: a connection string, a configuration for `pg`, or the host's own pool, which it ends itself. */
  postgres: string | PostgresConfig | PostgresPool
  /**
   * A direct connection to the same database where `postgres` goes through a pooler such as PgBouncer, for what a pooler can't do.
   * Statements are then not prepared. Default: `postgres` is direct.
   */
  listen?: string | PostgresConfig
  /**
   * Who is logged in with the host's session; nobody is `null`. It is asked on our four routes and for the `data.session` of a 401.
   * Default: `request.user` as the host set it.
   */
  session?: (request: FastifyRequest) => TokenPrincipal | null | undefined | Promise<TokenPrincipal | null | undefined>
  /** The `iss` of our tokens, 1 to 255 printable ASCII characters. Default `cedalo`. */
  issuer?: string
  /** The roles a token may have, `admin` among them. Default: the MMC's five. */
  roles?: string[]
  /** When a token becomes `request.user`. A guard can only see what ran before it. Default `preHandler`. */
  hook?: 'preHandler' | 'onRequest'
  /** The name of the query form, or `false` to turn it off. Default `token`. */
  queryParameter?: string | false
  /** The versions that `Accept: application/json;version=N` may ask for on the four routes. Default `[1]`. */
  versions?: number[]
  /** Whether the plugin is switched on from the start. Default `true`. */
  enabled?: boolean
  /** The base path of the four routes, such as `/mmc`. Default: none. */
  prefix?: string
  /** The Postgres schema that holds our tables, made where it is missing. Default `mmc_tokens`. */
  schema?: string
  /** Whether to bring the tables up to date at the start. `false`: an outdated table rejects the start. Default `true`. */
  migrate?: boolean
  /**
   * Path of a JSON file with tokens that are to be there from the start, for machines that nobody logs in to: an array of
   * `{ name, role, validUntil, hash }`, as `app.tokens.sign` makes them. Each is stored once: a revoked one stays revoked. Default: none.
   */
  bootstrap?: string
  /** Whether a `bootstrap` file or entry that is no good rejects the start. Otherwise it is an error in the log. Default `false`. */
  bootstrapStrict?: boolean
  /** Called at least once per event, on one node: again, with the same `id`, where it fails. Default: none. */
  onEvent?: (event: TokenEvent) => unknown
  /** How long a new token may live, in seconds; a later `validUntil` is a 400. Default: as long as it likes. */
  maxLifetime?: number
  /** Whether a token with the role `admin` may use the four routes; `false`: each is a 403, and takes a session. Default `true`. */
  tokensMayManageTokens?: boolean
  /** How long an expired token stays in the list, in seconds. Default: until somebody revokes it. */
  purgeExpiredAfter?: number
  /** Whether answers to requests with a token tell when it expires, in the header `application-token-expires` (RFC 9110 §5.6.7). Default `false`. */
  expiryHeader?: boolean
}

/** Who asks for something, and from which address, as far as it is known. */
export interface Origin {
  /** A user name, or `token:<name>`. */
  actor: string | null
  address: string | null
  requestId: string | null
}

/** What happened to a token; what is not known is `null`. */
export interface TokenEvent extends Origin {
  /** A UUID, the same where the event is reported again. */
  id: string
  /** `token.issued` also by `bootstrap`, `token.revoked` also with SQL; `token.expired-purged` by `purgeExpiredAfter`. */
  type: 'token.issued' | 'token.revoked' | 'token.expired-purged' | 'authentication.rejected'
  /** When, in UTC, ISO 8601. */
  at: string
  name: string | null
  hash: string | null
  role: string | null
  /** Who acted, as Postgres says: nobody can choose it. `actor`, `address` and `requestId` are what that user says. */
  databaseUser: string | null
  /** Of a rejection: why, which the client is not told, and how many since the last came too fast to be reported. */
  reason?: string
  suppressed?: number
}

/** Counts since the process began, and states, for a collector of metrics. */
export interface Metrics {
  /** Requests with a token of ours by what became of them; `failed` were answered 500. */
  authentications: Record<'accepted' | 'unknown' | 'expired' | 'invalid' | 'several' | 'failed', number>
  /** Requests that were judged from memory. */
  cacheHits: number
  /** How often Postgres was asked for a token. */
  lookups: number
  /** Whether this process hears of revocations, 1 or 0, and how often it ceased to. */
  lease: { held: number, losses: number }
  /** Uses that are not yet written as `lastUsed`, and how long the first of them has waited, in seconds. */
  usage: { waiting: number, lagSeconds: number }
  /** How many tokens there are, on all nodes; `null` while disabled or while Postgres does not answer. */
  tokens: Array<{ role: string, state: 'active' | 'expired', count: number }> | null
}

/** What an operator wants to know of a process. */
export interface Health {
  enabled: boolean
  /** Whether this process hears of revocations: `held`, known tokens are let in from memory; `lost`, each request asks Postgres. */
  lease: 'held' | 'lost'
}

/** `app.tokens`: application tokens for the host's own code. While the plugin is disabled, `issue`, `list`, `get` and `revoke` reject. */
export interface ApplicationTokens {
  /** Whether tokens work in this process. */
  readonly enabled: boolean
  /**
   * Makes a token. Its secret is in the answer and can't be had again.
   * @throws 400 `INVALID` for a bad name, role, time or `requestedBy`; 409 `CONFLICT` for a name that is taken
   */
  issue: (token: CreateToken & { requestedBy: string }) => Promise<IssuedToken>
  /**
   * Mints a token without storing it, for the option `bootstrap`: the secret, and the entry for the file. No I/O; also while disabled.
   * @throws 400 `INVALID` for a bad name, role or time
   */
  sign: (token: CreateToken) => { token: string, entry: CreateToken & { hash: string } }
  /** All tokens, oldest first. */
  list: () => Promise<Token[]>
  /** The token with this hash, in any letter case, or `null`. Throws 400 `INVALID` for what is no hash. */
  get: (hash: string) => Promise<Token | null>
  /**
   * Ends the token with this hash, in any letter case; tells whether there was one.
   * @param by who does it, for the event
   * @throws 400 `INVALID` for what is no hash, or a bad `revokedBy`
   */
  revoke: (hash: string, by?: { revokedBy: string }) => Promise<boolean>
  /** How tokens fare in this process. */
  health: () => Health
  /** What a collector of metrics asks for. */
  metrics: () => Promise<Metrics>
  /** Switches tokens on in this process; connects and migrates if that was not done, and stays disabled when it fails. */
  enable: () => Promise<void>
  /** Switches tokens off in this process: each is powerless at once. */
  disable: () => Promise<void>
  /**
   * Makes a guard that lets in who has any of these roles, or is an admin, by token or by session. It also works while the plugin is
   * disabled, for sessions, and throws what the host's error handler answers: 401 `UNAUTHORIZED`, 403 `NOT_ALLOWED`.
   * @throws `MMC_TOKENS_GUARD` at once, without a role
   */
  requireRole: (...roles: Array<string | readonly string[]>) => Guard
}

/** A guard, for `preHandler`. */
export type Guard = (request: FastifyRequest) => Promise<void>

declare module 'fastify' {
  interface FastifyInstance {
    tokens: ApplicationTokens
  }
  interface FastifyRequest {
    /** The token that this request was authenticated with, or `null`. */
    applicationToken: Token | null
  }
  interface FastifyContextConfig {
    /** `false`: tokens do not exist for this route. */
    applicationTokens?: boolean
  }
}
