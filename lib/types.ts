import type { FastifyBaseLogger } from 'fastify'
import type { Origin, Token, TokenEvent } from './api.js'

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

/** An event of the outbox, and how often it could not be reported. */
export interface StoredEvent extends TokenEvent { attempts: number }

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

/** `taken`: another token has its name, as it looks; `twin`: one before it in the same list has. */
export type BootstrapOutcome = 'stored' | 'taken' | 'twin'

/** Where tokens are kept. Every call ends within a second. */
export interface Store {
  /**
   * Connects, brings the tables up to date (any number of nodes may do so at once), and tells of changes from then on.
   * @param onActed called when events may wait that no node knows of
   */
  start: (listener: ChangeListener, onActed?: () => void) => Promise<void>
  /** Whether the listener hears of every change by anybody within two seconds. */
  isTrusted: () => boolean
  /** The proof that changes are heard of: whether it holds, and how often it was lost. */
  lease: () => { isHeld: boolean, losses: number }
  /** Tells whether it was stored: not when the name is taken. */
  insert: (token: Token, origin: Origin) => Promise<boolean>
  /** Stores tokens, each unless its hash is there, or once was stored so: then it has no outcome. Any number of nodes may do so at once. */
  bootstrap: (tokens: readonly Token[], origin: Origin) => Promise<ReadonlyMap<string, BootstrapOutcome>>
  find: (hash: string) => Promise<Token | null>
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
  count: (now: number) => Promise<Array<{ role: string, state: 'active' | 'expired', count: number }>>
  /** Moves `lastUsed` forward, by hash; tokens that are gone stay gone. */
  touch: (uses: ReadonlyMap<string, string>) => Promise<void>
  close: () => Promise<void>
}
