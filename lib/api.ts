import type { FastifyRequest } from 'fastify'
import type { Options } from '../schemas/options.js'
import type { BootstrapEntry, CreateToken, IssuedToken, Token } from '../schemas/token.js'

export type { BootstrapEntry, CreateToken, IssuedToken, Token }

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
export interface PostgresPool {
  connect: (callback: (error: unknown, client?: PostgresClient) => void) => unknown
  end: () => Promise<void>
  readonly totalCount: number
  on: (event: 'error', listener: (error: Error) => void) => unknown
  off: (event: 'error', listener: (error: Error) => void) => unknown
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

/** Options of the plugin: `await app.register(tokensPlugin, options)`. */
export interface TokensPluginOptions
  extends Pick<Options, 'postgres' | 'secret'>, Partial<Omit<Options, 'postgres' | 'secret'>> {}

/** Who asks for something, as far as it is known. */
export interface Origin {
  /** A user name, or `token:<name>`. */
  actor: string | null
  /** The address of the client. */
  address: string | null
  requestId: string | null
}

/** What happened to a token; what is not known is `null`. */
export interface TokenEvent extends Origin {
  /** `token.issued` also by `bootstrap`, `token.revoked` also with SQL; `token.expired-purged` by `purgeExpiredAfter`. */
  type: 'token.issued' | 'token.revoked' | 'token.expired-purged' | 'authentication.rejected'
  /** When, in UTC, ISO 8601. */
  at: string
  name: string | null
  hash: string | null
  role: string | null
  /** Of a rejection: why, which the client is not told. */
  reason?: string
  /** Of a rejection: how many of them were not told of since the last, since they came too fast. */
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
   * Makes a token without storing it: its secret, and its entry for the file of the option `bootstrap`. Works while disabled.
   * @throws 400 `INVALID` for an invalid name, role or time
   */
  mint: (token: CreateToken) => { token: string, entry: BootstrapEntry }
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
