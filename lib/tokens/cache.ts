import { LruMap } from 'toad-cache'
import { OverloadError } from '../errors.js'
import type { ChangeListener, Token } from '../types.js'

/** Digests of which something is believed. */
const SIZE = 10_000
/** Lookups under way at once; the next is an error. */
const MAX_LOADS = 10_000
/** How long "does not exist" is believed, in milliseconds: nobody tells of a new token. */
const MISSING_FOR = 1000

/** A token that holds. Times are milliseconds since 1970. */
export interface CachedToken {
  token: Readonly<Token>
  /** When it ends, by row and claim. */
  endsAt: number
  /** The same as an HTTP-date (RFC 9110 §5.6.7). */
  expires: string
  lastUsed: number
}

/** It counts while it is the one that is noted for its digest: a change takes the note away. */
interface Load { result: Promise<CachedToken | null> }

/** What this process believes of tokens: by digest, never by secret. */
export interface Cache extends ChangeListener {
  /** At once; `undefined` where nothing is believed. */
  get: (hash: string) => CachedToken | null | undefined
  /** Asks the store by `find`, once for all who ask meanwhile. */
  load: (hash: string, find: () => Promise<CachedToken | null>) => Promise<CachedToken | null>
}

/**
 * What is forgotten is also what a lookup under way may bring.
 * @param isTrusted whether every change is heard of in time; while it is not, nothing is believed
 * @param clock milliseconds of a clock that only goes forward
 */
export function createCache (isTrusted: () => boolean, clock: () => number): Cache {
  const entries = new LruMap<{ known: CachedToken | null, until: number }>(SIZE)
  const loads = new Map<string, Load>()

  async function ask (hash: string, load: Load, find: () => Promise<CachedToken | null>): Promise<CachedToken | null> {
    try {
      const known = await find()
      const isStale = loads.get(hash) !== load
      if (!isStale) entries.set(hash, { known, until: known === null ? clock() + MISSING_FOR : Infinity })
      if (!isStale || known === null) return known
    } finally {
      if (loads.get(hash) === load) loads.delete(hash)
    }
    // It was read before something changed: once more, after that.
    return await find()
  }

  return {
    get (hash) {
      if (!isTrusted()) return undefined
      const entry = entries.get(hash)
      return entry === undefined || entry.until <= clock() ? undefined : entry.known
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
    }
  }
}
