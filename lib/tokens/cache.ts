import { LruMap } from 'toad-cache'
import { OverloadError } from '../errors.js'
import type { RefreshableCache, Token } from '../types.js'

/** Cached digests. */
const SIZE = 10_000
/** Lookups under way at once; the next is an error. */
const MAX_LOADS = 10_000
/** How long "does not exist" is cached, in milliseconds: nothing notifies of new tokens. */
const MISSING_FOR = 1000
/** How long "exists" is cached. A token in use is refreshed in the background before that time is up. */
const EXISTS_FOR = 60_000
/** From one refresh of a token to the next, in milliseconds: after an answer, and after a failure. */
const REFRESH_AFTER = { answer: 30_000, failure: 10_000 }
/** Tokens refreshed in one statement. */
const REFRESH_SIZE = 1000
/** Properties that SQL may change, possibly without a notification. */
const MEMBERS = ['name', 'role', 'validUntil', 'requestedBy', 'issueDate'] as const

/** A valid token. Times are milliseconds since 1970. */
export interface CachedToken {
  token: Readonly<Token>
  /** When it expires: the earlier time of row and claim. */
  expiresAt: number
  /** The same as an HTTP-date (RFC 9110 §5.6.7). */
  httpDate: string
  /** When its claim expires. */
  claimExpiresAt: number
  lastUsed: number
}

/** Times are milliseconds of the clock. */
interface Entry { token: CachedToken | null, until: number, refreshAt: number, isUsed: boolean }

/** A lookup under way. Its result is cached only if it is still in `loads`: a change removes it. */
interface Load { result: Promise<CachedToken | null> }

/** The tokens that this process knows: by digest, never by secret. */
export interface Cache extends RefreshableCache {
  /** Synchronous; `undefined` where nothing is known. */
  get: (hash: string, date?: number) => CachedToken | null | undefined
  /** Looks up the token with `find`, once for all concurrent calls. */
  load: (hash: string, find: () => Promise<CachedToken | null>) => Promise<CachedToken | null>
}

/**
 * A change also invalidates lookups under way.
 * @param isTrusted whether every change is received in time; otherwise the cache is not used
 * @param clock milliseconds of a clock that only goes forward
 */
export function createCache (isTrusted: (at: number, date?: number) => boolean, clock: () => number): Cache {
  const entries = new LruMap<Entry>(SIZE)
  const loads = new Map<string, Load>()
  let isUsed = false

  async function ask (hash: string, load: Load, find: () => Promise<CachedToken | null>): Promise<CachedToken | null> {
    try {
      const asked = clock()
      const token = await find()
      const isStale = loads.get(hash) !== load
      const until = asked + (token === null ? MISSING_FOR : EXISTS_FOR)
      if (!isStale) entries.set(hash, { token, until, refreshAt: asked + REFRESH_AFTER.answer, isUsed: true })
      if (!isStale || token === null) return token
    } finally {
      if (loads.get(hash) === load) loads.delete(hash)
    }
    // It was read before a change: read it again.
    return await find()
  }

  return {
    get (hash, date) {
      const now = clock()
      if (!isTrusted(now, date)) return undefined
      const entry = entries.get(hash)
      if (entry === undefined || entry.until <= now) return undefined
      isUsed = entry.isUsed = true
      return entry.token
    },
    async load (hash, find) {
      const running = loads.get(hash)
      if (running !== undefined) return await running.result
      if (loads.size >= MAX_LOADS) throw new OverloadError()
      const load = {} as Load
      // Before the lookup begins, since a change may arrive meanwhile.
      loads.set(hash, load)
      load.result = ask(hash, load, find)
      return await load.result
    },
    forget (hash) {
      entries.delete(hash)
      loads.delete(hash)
    },
    clear () {
      entries.clear()
      loads.clear()
    },
    wasUsed () {
      const was = isUsed
      isUsed = false
      return was
    },
    async refresh (find) {
      const asked = clock()
      const due = new Map<string, Entry & { token: CachedToken }>()
      for (const { key, value } of entries.items.values()) {
        if (!value.isUsed || value.refreshAt > asked || value.until <= asked || !exists(value)) continue
        value.isUsed = false
        value.refreshAt = asked + REFRESH_AFTER.failure
        due.set(key as string, value)
        if (due.size === REFRESH_SIZE) break
      }
      if (due.size === 0) return []
      const found = new Map((await find([...due.keys()])).map(token => [token.hash, token]))
      return [...due].filter(([hash, entry]) => {
        // An entry that changed meanwhile was removed already, or replaced by a later lookup.
        if (entries.get(hash) !== entry) return false
        const token = found.get(hash)
        if (MEMBERS.some(member => token?.[member] !== entry.token.token[member])) return true
        entry.until = asked + EXISTS_FOR
        entry.refreshAt = asked + REFRESH_AFTER.answer
        return false
      }).map(([hash]) => hash)
    }
  }
}

function exists (entry: Entry): entry is Entry & { token: CachedToken } {
  return entry.token !== null
}

/**
 * The earlier expiry wins: an operator may shorten the row with SQL. The record is shared by requests, so it is frozen.
 */
export function toCachedToken (token: Token, claimExpiresAt: number): CachedToken {
  const expiresAt = Math.min(claimExpiresAt, Date.parse(token.validUntil))
  const known: CachedToken = {
    token: Object.freeze({ ...token, get lastUsed () { return new Date(known.lastUsed).toISOString() } }),
    expiresAt,
    httpDate: new Date(expiresAt).toUTCString(),
    claimExpiresAt,
    lastUsed: Date.parse(token.lastUsed)
  }
  return known
}
