import type { FastifyRequest } from 'fastify'
import type { Options } from '../schemas/options.js'
import type { BootstrapEntry, CreateToken, IssuedToken, Token } from '../schemas/token.js'

export type { BootstrapEntry, CreateToken, IssuedToken, Token }

/** Who a request acts as, in the MMC's shape, which the host's guards expect. */
export interface TokenPrincipal {
  /** A user name, or `token:<name>`. */
  username: string
  roles: string[]
}

/** The part of a `pg` client that the plugin uses. */
export interface PostgresClient {
  query: (query: {
    text: string, values?: unknown[], name?: string, types?: { getTypeParser: () => (value: string) => unknown }
  }) => Promise<{ rows: unknown[] }>
  release: (destroy?: boolean | Error) => void
  on: (event: 'error', listener: (error: Error) => void) => unknown
  off: (event: 'error', listener: (error: Error) => void) => unknown
}

/** The part of a `pg` `Pool` that the plugin uses. A `Pool` of any copy of `pg` fits. */
export interface PostgresPool {
  connect: (callback: (error: unknown, client?: PostgresClient) => void) => unknown
  end: () => Promise<void>
  readonly totalCount: number
  on: (event: 'error', listener: (error: Error) => void) => unknown
  off: (event: 'error', listener: (error: Error) => void) => unknown
}

interface PostgresSettings {
  connectionString?: string | undefined
  host?: string | undefined
  port?: number | undefined
  database?: string | undefined
  user?: string | undefined
  password?: string | (() => string | Promise<string>) | undefined
  connectionTimeoutMillis?: number | undefined
}

// A union, since an interface, such as `PoolConfig`, has no index signature.
/** A configuration for `pg`, such as `{ host, port, user, password, database, ssl, max }`, or a `PoolConfig` of it. */
export type PostgresConfig = PostgresSettings | PostgresSettings & { [setting: string]: unknown }

/** Options of the plugin: `await app.register(tokensPlugin, options)`. */
export interface TokensPluginOptions
  extends Pick<Options, 'postgres' | 'secret'>, Partial<Omit<Options, 'postgres' | 'secret'>> {}

/** Who made a request or a change; `null` is unknown. */
export interface Origin {
  /** A user name, or `token:<name>`. */
  actor: string | null
  /** The address of the client. */
  address: string | null
  requestId: string | null
}

/** What happened to a token; `null` is unknown. */
export interface TokenEvent extends Origin {
  /** A UUID; the same when the event is reported again. */
  id: string
  /**
   * `token.issued`: `bootstrap` included. `token.revoked`: SQL included. `token.expired-purged`: `purgeExpiredAfter`.
   */
  type: 'token.issued' | 'token.revoked' | 'token.expired-purged' | 'authentication.rejected'
  /** The time, UTC, ISO 8601. */
  at: string
  name: string | null
  hash: string | null
  role: string | null
  /** The Postgres user that made the change, as Postgres knows it. That user sets `actor`, `address`, `requestId`. */
  databaseUser: string | null
  /** For `authentication.rejected`: why. The client does not see it. */
  reason?: string
  /** For `authentication.rejected`: how many of them the rate limit has dropped since the previous one. */
  suppressed?: number
}

/** Counters since the process started, and gauges, for a metrics collector. */
export interface Metrics {
  /** Requests with a token, and calls of `authenticate`, by result; `failed`: a 500, or a rejection. */
  authentications: Record<'accepted' | 'unknown' | 'expired' | 'invalid' | 'several' | 'failed', number>
  /** Tokens checked from memory. */
  cacheHits: number
  /** Lookups of tokens in Postgres. */
  lookups: number
  /** `held`: 1 while the process holds the lease, otherwise 0. `losses`: how often it has lost it. */
  lease: { held: number, losses: number }
  /** Uses not yet written as `lastUsed`, and the age of the oldest in seconds. */
  usage: { waiting: number, lagSeconds: number }
  /** Tokens in the database; `null` while disabled or while Postgres does not answer. */
  tokens: Array<{ role: string, state: 'active' | 'expired', count: number }> | null
}

/** The health of a process. */
export interface Health {
  enabled: boolean
  /** `held`: known tokens are accepted from memory. `lost`: every token is checked in Postgres. */
  lease: 'held' | 'lost'
}

/** A token that was authenticated without a request. */
export interface Authenticated { user: TokenPrincipal, token: Token }

/** Emits `close` when a connection ends, such as a socket or a response. */
export interface Closable {
  once: (event: 'close', listener: () => void) => unknown
  off: (event: 'close', listener: () => void) => unknown
  readonly closed?: boolean
}

/** `app.tokens`, for the host's own code. `issue`, `list`, `get` and `revoke` reject while the plugin is disabled. */
export interface ApplicationTokens {
  /** Whether tokens are enabled in this process. */
  readonly enabled: boolean
  /**
   * Creates a token. Its secret is returned only here.
   * @throws 400 `INVALID` for an invalid name, role, time or `requestedBy`; 409 `CONFLICT` for a name that exists
   */
  issue: (token: CreateToken & { requestedBy: string }) => Promise<IssuedToken>
  /**
   * Makes a token without storing it: its secret, and its entry for a bootstrap file. Works while disabled.
   * @throws 400 `INVALID` for an invalid name, role or time
   */
  mint: (token: CreateToken) => { token: string, entry: BootstrapEntry }
  /** All tokens, oldest first. */
  list: () => Promise<Token[]>
  /** The token with this hash, in any letter case, or `null`. Throws 400 `INVALID` for an invalid hash. */
  get: (hash: string) => Promise<Token | null>
  /**
   * Revokes the token with this hash, in any letter case; `false` if there was none.
   * @param by who revokes it, for the event
   * @throws 400 `INVALID` for an invalid hash or `revokedBy`
   */
  revoke: (hash: string, by?: { revokedBy: string }) => Promise<boolean>
  /**
   * Authenticates a token that arrived outside a Fastify request, such as in the first message of a socket. Resolves
   * with `null` if it is invalid or not the plugin's, or while disabled. Counts as a use of the token.
   * @param from the client, for the event if the token is refused
   * @throws if Postgres can't be queried
   */
  authenticate: (
    secret: string, from?: { address?: string | undefined, requestId?: string | undefined }
  ) => Promise<Authenticated | null>
  /**
   * A signal that aborts when the token of a request, or of a result of `authenticate`, is revoked, expires, or gets
   * another role or name, or when tokens are disabled. Its `reason` is an error with the `code` `MMC_TOKENS_REVOKED`,
   * `MMC_TOKENS_EXPIRED` or `MMC_TOKENS_DISABLED`. `null` for a request without a token. A request has one signal.
   * @param closable emits `close` when the signal is no longer needed; for a request, its response does
   * @throws `MMC_TOKENS_SIGNAL` for a result of `authenticate` without `closable`
   */
  signal: (of: AnyRequest | Authenticated, closable?: Closable) => AbortSignal | null
  /** The state of this process, without I/O. */
  health: () => Health
  /** Counters and gauges; asks Postgres for the number of tokens. */
  metrics: () => Promise<Metrics>
  /** Enables tokens in this process. Connects and migrates if needed; stays disabled if that fails. */
  enable: () => Promise<void>
  /** Disables tokens in this process, immediately. */
  disable: () => Promise<void>
  /**
   * Makes a guard for users and tokens with any of these roles; admins always pass. While the plugin is disabled it
   * checks sessions alone. It throws errors for the host's error handler: 401 `UNAUTHORIZED`, 403 `NOT_ALLOWED`.
   * @throws `MMC_TOKENS_GUARD` if called without a role
   */
  requireRole: (...roles: Array<string | readonly string[]>) => Guard
}

/** A guard, for `preHandler`. */
export type Guard = (request: AnyRequest) => Promise<void>

/** A request of a server over HTTP/1.1, HTTPS or HTTP/2, whose types differ. */
export type AnyRequest = Pick<FastifyRequest, 'applicationToken'>

declare module 'fastify' {
  interface FastifyInstance {
    tokens: ApplicationTokens
  }
  interface FastifyRequest {
    /** The token that authenticated this request, or `null`. */
    applicationToken: Token | null
  }
  interface FastifyContextConfig {
    /** `false`: this route ignores tokens. */
    applicationTokens?: boolean
  }
}
