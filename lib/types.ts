import type { FastifyBaseLogger } from 'fastify'
import type { Metrics, Origin, Token, TokenEvent } from './api.js'

export type * from './api.js'

/** The host's log. */
export type Log = FastifyBaseLogger

/** What a request presents as a token, not yet verified. */
export interface Credential {
  secret: string
  /** Its digest. */
  hash: string
}

/** The claims of a token (RFC 7519 §4.1). */
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
  /** The claims, or `null` for another signature. Throws for another issuer; expiry is not checked. */
  verify: (secret: string) => Claims | null
}

/** An event of the outbox, and how often it could not be reported. */
export interface StoredEvent extends TokenEvent { attempts: number }

/** The filter of a list. Times are as in a token. */
export interface Filter {
  /** Those after this token, in the order of the list. */
  after?: Pick<Token, 'issueDate' | 'hash'> | undefined
  /** Tokens per page, up to 500. */
  pageSize?: number | undefined
  state?: 'active' | 'expired' | undefined
  /** Those last used before. */
  unusedSince?: string | undefined
}

/** Receives cache invalidations. */
export interface ChangeListener {
  /** A token ended or changed. */
  forget: (hash: string) => void
  /** Any token may have. */
  clear: () => void
}

/** What is believed of tokens, until they change. */
export interface Believed extends ChangeListener {
  /** Whether any of it was used since this was asked before. */
  wasUsed: () => boolean
  /**
   * Asks again, by their hashes, for tokens that are in use and were not asked for of late. Resolves with the hashes of
   * those that ended or changed.
   */
  refresh: (find: (hashes: string[]) => Promise<Token[]>) => Promise<string[]>
}

/** `taken`: another token has its name, as it looks; `twin`: one before it in the same list has. */
export type BootstrapOutcome = 'stored' | 'taken' | 'twin'

/** Where tokens are kept. Every call ends within a second. */
export interface Store {
  /**
   * Connects, migrates (any number of nodes may do so concurrently), and reports changes from then on.
   * @param onActed called when events may wait that no node knows of
   */
  start: (cache: Believed, onActed: () => void, others?: readonly ChangeListener[]) => Promise<void>
  /** Whether the cache hears of every change by anybody within two seconds. `at` is now, by the monotonic clock. */
  isTrusted: (at?: number, date?: number) => boolean
  /** The proof that changes are heard of: whether it holds, and how often it was lost. */
  lease: () => { isHeld: boolean, losses: number }
  /** Tells whether it was stored: not when the name is taken. */
  insert: (token: Token, origin: Origin) => Promise<boolean>
  /**
   * Stores tokens, each unless its hash is there, or once was stored so: then it has no outcome. Any number of nodes
   * may do so at once.
   */
  bootstrap: (tokens: readonly Token[], origin: Origin) => Promise<ReadonlyMap<string, BootstrapOutcome>>
  find: (hash: string) => Promise<Token | null>
  /** Those of these tokens that exist. */
  findAll: (hashes: readonly string[]) => Promise<Token[]>
  /** Tokens, oldest first, in pages; nothing is held between them. `now` decides what has expired. */
  list: (filter: Filter, now: number) => AsyncIterable<Token[]>
  /** Tells whether there was one. */
  remove: (hash: string, origin: Origin) => Promise<boolean>
  /** Removes some of what expired before this time; tells how many. One node at a time: none where another is at it. */
  purge: (before: string) => Promise<number>
  /** Events of the outbox, oldest first: nobody else is given them for a minute from the call on. */
  claimEvents: (limit: number) => Promise<StoredEvent[]>
  /** Takes an event out of the outbox. */
  dropEvent: (id: string) => Promise<void>
  /** Gives events back, to be claimed again in some minutes, after so many attempts more. */
  deferEvents: (ids: readonly string[], by: { attempts: number, minutes: number }) => Promise<void>
  /** How many tokens there are of each role, by whether they have expired. */
  count: (now: number) => Promise<NonNullable<Metrics['tokens']>>
  /** Moves `lastUsed` forward, by hash; tokens that are gone stay gone. */
  touch: (uses: ReadonlyMap<string, string>) => Promise<void>
  close: () => Promise<void>
}
