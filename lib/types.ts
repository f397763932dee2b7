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

/** An event of the outbox, and how many attempts to report it have failed. */
export interface StoredEvent extends TokenEvent { attempts: number }

/** The filter of a list. Times have the format of those in a token. */
export interface Filter {
  /** Only tokens after this one, in the order of the list. */
  after?: Pick<Token, 'issueDate' | 'hash'> | undefined
  /** Tokens per page, up to 500. */
  pageSize?: number | undefined
  state?: 'active' | 'expired' | undefined
  /** Only tokens last used before this time. */
  unusedSince?: string | undefined
}

/** Receives cache invalidations. */
export interface ChangeListener {
  /** A token ended or changed. */
  forget: (hash: string) => void
  /** Any token may have ended or changed. */
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

/** Reports that a credential was refused. */
export type ReportRejection = (
  reason: string, token: { hash: string | null, name?: string, role?: string }, origin: Origin
) => void

/** `taken`: an existing token has a name that looks the same; `duplicate`: an earlier one in the same list has. */
export type BootstrapOutcome = 'stored' | 'taken' | 'duplicate'

/** Where tokens are kept. Every call but `start`, `bootstrap` and `close` ends within a second. */
export interface Store {
  /**
   * Connects, migrates (any number of nodes may do so concurrently), and reports changes from then on.
   * @param onEventsWaiting called when someone other than a node has changed tokens, so that events wait in the outbox
   */
  start: (cache: RefreshableCache, onEventsWaiting: () => void, others?: readonly ChangeListener[]) => Promise<void>
  /** Whether every change reaches the cache within two seconds. `at` and `date`: now, by monotonic and wall clock. */
  isTrusted: (at?: number, date?: number) => boolean
  lease: () => Metrics['lease']
  /** Resolves with whether the token was stored: `false` if its name is taken. */
  insert: (token: Token, origin: Origin) => Promise<boolean>
  /**
   * Stores tokens. One whose hash exists, or was bootstrapped before, is skipped and has no outcome. Any number of
   * nodes may call this concurrently.
   */
  bootstrap: (tokens: readonly Token[], origin: Origin) => Promise<ReadonlyMap<string, BootstrapOutcome>>
  find: (hash: string) => Promise<Token | null>
  /** The existing tokens with these hashes. */
  findAll: (hashes: readonly string[]) => Promise<Token[]>
  /** Tokens, oldest first, in pages; nothing is held between them. `now` decides what has expired. */
  list: (filter: Filter, now: number) => AsyncIterable<Token[]>
  /** Resolves with whether a token had this hash. */
  remove: (hash: string, origin: Origin) => Promise<boolean>
  /** Deletes a batch of tokens that expired before this time, except locked ones. Resolves with their number. */
  purge: (before: string) => Promise<number>
  /** Claims events of the outbox, oldest first: no other node gets them for a minute. */
  claimEvents: (limit: number) => Promise<StoredEvent[]>
  /** Deletes events from the outbox; one that is locked is claimed again when its claim has ended. */
  dropEvents: (ids: readonly string[]) => Promise<void>
  /** Returns events to the outbox, to be claimed again after `minutes`; adds `attempts` to theirs. */
  deferEvents: (ids: readonly string[], by: { attempts: number, minutes: number }) => Promise<void>
  /** How many tokens there are of each role, by whether they have expired. */
  count: (now: number) => Promise<NonNullable<Metrics['tokens']>>
  /**
   * Moves `lastUsed` forward, by hash. Ignores tokens that no longer exist. Skips rows that are locked, and resolves
   * with their hashes, unless it `waits` for them.
   */
  touch: (uses: ReadonlyMap<string, string>, waits?: boolean) => Promise<string[]>
  close: () => Promise<void>
}
