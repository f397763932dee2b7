import { LruMap } from 'toad-cache'
import { OverloadError } from '../errors.js'
import type { Believed, Token } from '../types.js'

/** Digests of which something is believed. */
const SIZE = 10_000
/** Lookups under way at once; the next is an error. */
const MAX_LOADS = 10_000
/** How long "does not exist" is believed without asking, in milliseconds: nobody tells of a new token. */
const MISSING_FOR = 1000
/** The same for "exists"; a token in use is asked for again before, in the background. */
const EXISTS_FOR = 60_000
/** From when a token was asked for to when it is again: where that was answered, and where not. */
const AGAIN_AFTER = { answer: 30_000, failure: 10_000 }
/** Tokens that are asked for again at once. */
const REFRESH_SIZE = 1000
/** What a change by SQL may have changed without a notification. */
const MEMBERS = ['name', 'role', 'validUntil', 'requestedBy', 'issueDate'] as const

/** A token that holds. Times are milliseconds since 1970. */
export interface CachedToken {
  token: Readonly<Token>
  /** When it ends, by row and claim. */
  endsAt: number
  /** The same as an HTTP-date (RFC 9110 §5.6.7). */
  expires: string
  lastUsed: number
}

/** Times are milliseconds of the clock. */
interface Entry { token: CachedToken | null, until: number, againAt: number, isUsed: boolean }

/** It counts while it is the one that is noted for its digest: a change takes the note away. */
interface Load { result: Promise<CachedToken | null> }

/** What this process believes of tokens: by digest, never by secret. */
export interface Cache extends Believed {
  /** At once; `undefined` where nothing is believed. */
  get: (hash: string, date?: number) => CachedToken | null | undefined
  /** Asks the store by `find`, once for all who ask meanwhile. */
  load: (hash: string, find: () => Promise<CachedToken | null>) => Promise<CachedToken | null>
}

/**
 * What is forgotten is also what a lookup under way may bring.
 * @param isTrusted whether every change is heard of in time; while it is not, nothing is believed
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
      if (!isStale) entries.set(hash, { token, until, againAt: asked + AGAIN_AFTER.answer, isUsed: true })
      if (!isStale || token === null) return token
    } finally {
      if (loads.get(hash) === load) loads.delete(hash)
    }
    // It was read before something changed: once more, after that.
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
      // Noted first: a change may come while it begins.
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
        if (!value.isUsed || value.againAt > asked || value.until <= asked || !exists(value)) continue
        value.isUsed = false
        value.againAt = asked + AGAIN_AFTER.failure
        due.set(key as string, value)
        if (due.size === REFRESH_SIZE) break
      }
      if (due.size === 0) return []
      const found = new Map((await find([...due.keys()])).map(token => [token.hash, token]))
      return [...due].filter(([hash, entry]) => {
        // What changed meanwhile is known to be void, or was asked for later.
        if (entries.get(hash) !== entry) return false
        const token = found.get(hash)
        if (MEMBERS.some(member => token?.[member] !== entry.token.token[member])) return true
        entry.until = asked + EXISTS_FOR
        entry.againAt = asked + AGAIN_AFTER.answer
        return false
      }).map(([hash]) => hash)
    }
  }
}

function exists (entry: Entry): entry is Entry & { token: CachedToken } {
  return entry.token !== null
}
