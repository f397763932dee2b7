import type { FastifyBaseLogger } from 'fastify'
import type { Origin, Token } from './api.js'

export type * from './api.js'

/** The host's log. */
export type Log = FastifyBaseLogger

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

/** A token that ended, and by whom; `purged` where it had expired. */
export interface Ended extends Origin { hash: string, name: string, role: string, at: string, isPurged: boolean }

/** What a list is asked for. Times are as in a token. */
export interface Filter {
  /** Follow this token in the order of the list. */
  after?: Pick<Token, 'issueDate' | 'hash'> | undefined
  /** How many are asked for at a time, up to 500. */
  pageSize?: number | undefined
  /** Those that have not expired, or have. */
  state?: 'active' | 'expired' | undefined
  /** Those that were last used before. */
  unusedSince?: string | undefined
}

/** Who must hear that what is believed of tokens is void. */
export interface ChangeListener {
  /** This token ended or changed. */
  forget: (hash: string) => void
  /** Any token may have. */
  clear: () => void
}

/** What is believed of tokens, until they change. */
export interface Believed extends ChangeListener {
  /** Whether any of it was used since this was asked before. */
  wasUsed: () => boolean
  /** Asks again, by their hashes, for tokens that are in use and were not asked for of late. */
  refresh: (find: (hashes: string[]) => Promise<Token[]>) => Promise<void>
}

/** `taken`: another token has its name, as it looks; `twin`: one before it in the same list has. */
export type BootstrapOutcome = 'stored' | 'taken' | 'twin'

/** Where tokens are kept. Every call ends within a second. */
export interface Store {
  /**
   * Connects, brings the tables up to date (any number of nodes may do so at once), and tells of changes from then on.
   * @param onEnded called when tokens may have ended that nobody told of
   */
  start: (cache: Believed, onEnded?: () => void) => Promise<void>
  /** Whether the cache hears of every change by anybody within two seconds. `at` is a time of the monotonic clock: now. */
  isTrusted: (at?: number) => boolean
  /** The proof that changes are heard of: whether it holds, and how often it was lost. */
  lease: () => { isHeld: boolean, losses: number }
  /** Tells whether it was stored: not when the name is taken. */
  insert: (token: Token) => Promise<boolean>
  /** Stores tokens, each unless its hash is there, or once was stored so: then it has no outcome. Any number of nodes may do so at once. */
  bootstrap: (tokens: readonly Token[]) => Promise<ReadonlyMap<string, BootstrapOutcome>>
  find: (hash: string) => Promise<Token | null>
  /** Tokens, oldest first, in pages; nothing is held between them. `now` decides what has expired. */
  list: (filter: Filter, now: number) => AsyncIterable<Token[]>
  /** Tells whether there was one. */
  remove: (hash: string, origin: Origin) => Promise<boolean>
  /** Removes some of what expired before this time; tells how many. One node at a time: none where another is at it. */
  purge: (before: string) => Promise<number>
  /** Some of the tokens that ended and were not told of: each is given to one caller. */
  takeEnded: () => Promise<Ended[]>
  /** How many tokens there are of each role, by whether they have expired. */
  count: (now: number) => Promise<Array<{ role: string, state: 'active' | 'expired', count: number }>>
  /** Moves `lastUsed` forward, by hash; tokens that are gone stay gone. */
  touch: (uses: ReadonlyMap<string, string>) => Promise<void>
  close: () => Promise<void>
}
