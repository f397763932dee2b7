import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { DataOptions } from '../schemas/options.js'
import type { CreateToken, IssuedToken, Token } from '../schemas/token.js'

export type { CreateToken, IssuedToken, Token }

/** The host's log. */
export type Log = FastifyBaseLogger

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
}

/** What an operator wants to know of a process. */
export interface Health {
  enabled: boolean
  /** Whether this process hears of revocations: `held`, known tokens are let in from memory; `lost`, each request asks Postgres. */
  lease: 'held' | 'lost'
}

/** `app.tokens`: application tokens for the host's own code. While the plugin is disabled, all but `enable` reject. */
export interface ApplicationTokens {
  /** Whether tokens work in this process. */
  readonly enabled: boolean
  /**
   * Makes a token. Its secret is in the answer and can't be had again.
   * @throws 400 `INVALID` for a bad name, role or time; 409 `CONFLICT` for a name that is taken
   */
  issue: (token: CreateToken & { requestedBy: string }) => Promise<IssuedToken>
  /** All tokens, oldest first. */
  list: () => Promise<Token[]>
  /** The token with this hash, or `null`. */
  get: (hash: string) => Promise<Token | null>
  /** Ends the token with this hash; tells whether there was one. */
  revoke: (hash: string) => Promise<boolean>
  /** How tokens fare in this process. */
  health: () => Health
  /** Switches tokens on in this process; connects and migrates if that was not done, and stays disabled when it fails. */
  enable: () => Promise<void>
  /** Switches tokens off in this process: each is powerless at once. */
  disable: () => Promise<void>
  /**
   * Makes a guard that lets in who has any of these roles, or is an admin, by token or by session. It also works while the plugin is
   * disabled, for sessions, and throws what the host's error handler answers: 401 `UNAUTHORIZED`, 403 `NOT_ALLOWED`.
   */
  requireRole: (...roles: string[]) => Guard
}

/** A guard, for `preHandler`. */
export type Guard = (request: FastifyRequest) => Promise<void>

/** What arrived in a request and claims to be ours. */
export interface Credential {
  secret: string
  /** Its digest. */
  hash: string
}

/** What a token states (RFC 7519 §4.1). */
export interface Claims {
  role: string
  /** Issued at, in seconds since 1970. */
  iat: number
  /** Expires, in seconds since 1970. */
  exp: number
  iss: string
  jti: string
}

/** Signs and verifies with the derived key. */
export interface Signer {
  sign: (claims: Claims) => string
  /** The claims, where signature and issuer hold; expiry is not judged. Throws otherwise. */
  verify: (secret: string) => Claims
}

/** Who must hear that what is believed of tokens is void. */
export interface ChangeListener {
  /** This token ended or changed. */
  forget: (hash: string) => void
  /** Any token may have. */
  clear: () => void
}

/** Where tokens are kept. Every call ends within a second. */
export interface Store {
  /** Connects, brings the tables up to date (any number of nodes may do so at once), and tells of changes from then on. */
  start: (listener: ChangeListener) => Promise<void>
  /** Whether the listener hears of every change by anybody within two seconds. */
  isTrusted: () => boolean
  /** Tells whether it was stored: not when the name is taken. */
  insert: (token: Token) => Promise<boolean>
  find: (hash: string) => Promise<Token | null>
  /** All tokens, oldest first, in pages; nothing is held between them. */
  list: () => AsyncIterable<Token[]>
  /** Tells whether there was one. */
  remove: (hash: string) => Promise<boolean>
  /** Moves `lastUsed` forward, by hash; tokens that are gone stay gone. */
  touch: (uses: ReadonlyMap<string, string>) => Promise<void>
  close: () => Promise<void>
}

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
