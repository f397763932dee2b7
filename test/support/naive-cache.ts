import type { Cache, CachedToken } from '../../lib/tokens/cache.js'

/** Looks up, then stores: the cache that everybody writes first. */
export function createNaiveCache (): Cache {
  const entries = new Map<string, CachedToken | null>()
  return {
    get: hash => entries.get(hash),
    async load (hash, find) {
      const found = await find()
      entries.set(hash, found)
      return found
    },
    forget: hash => { entries.delete(hash) },
    clear: () => { entries.clear() },
    wasUsed: () => true,
    refresh: async () => []
  }
}
