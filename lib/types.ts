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

/** A cache of tokens that is refreshed in the background. */
export interface RefreshableCache extends ChangeListener {
  /** Whether it was used since the last call. */
  wasUsed: () => boolean
  /**
   * Looks up tokens that are in use and were not looked up lately. Resolves with the hashes of those that ended or
   * changed.
   */
  refresh: (find: (hashes: string[]) => Promise<Token[]>) => Promise<string[]>
}

/** `taken`: another token has its name, as it looks; `twin`: one before it in the same list has. */
export type BootstrapOutcome = 'stored' | 'taken' | 'twin'

/** Where tokens are kept. Every call ends within a second. */
export interface Store {
  /**
   * Connects, migrates (any number of nodes may do so concurrently), and reports changes from then on.
   * @param onActed called when there may be events that no node will report
   */
  start: (cache: RefreshableCache, onActed: () => void, others?: readonly ChangeListener[]) => Promise<void>
  /** Whether every change reaches the cache within two seconds. `at` and `date` are now, by either clock. */
  isTrusted: (at?: number, date?: number) => boolean
  /** Whether the lease is held, and how often it was lost. */
  lease: () => { isHeld: boolean, losses: number }
  /** Whether it was stored: not if the name is taken. */
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
  /** Whether there was one. */
  remove: (hash: string, origin: Origin) => Promise<boolean>
  /** Removes some of what expired before this time; resolves with how many. One node at a time: 0 on the others. */
  purge: (before: string) => Promise<number>
  /** Events of the outbox, oldest first. No other node gets them for a minute from the call on. */
  claimEvents: (limit: number) => Promise<StoredEvent[]>
  /** Deletes events from the outbox. */
  dropEvents: (ids: readonly string[]) => Promise<void>
  /** Returns events to the outbox, to be claimed again in some minutes, after so many more attempts. */
  deferEvents: (ids: readonly string[], by: { attempts: number, minutes: number }) => Promise<void>
  /** How many tokens there are of each role, by whether they have expired. */
  count: (now: number) => Promise<NonNullable<Metrics['tokens']>>
  /** Moves `lastUsed` forward, by hash; tokens that are gone stay gone. */
  touch: (uses: ReadonlyMap<string, string>) => Promise<void>
  close: () => Promise<void>
}
