import type { Log, Store, Token } from '../types.js'

/** Milliseconds from a use to its UPDATE, which may take another second: other nodes see it within 5 s. */
const INTERVAL = 4000
/** Tokens whose use is not written yet; further ones are not recorded. */
const MAX_WAITING = 100_000
/** Tokens per statement, so that each ends well within its deadline. */
const BATCH = 1000
/** How long a row may be on its way from Postgres, in milliseconds: longer than the deadline of a call. */
const READ = 2000

export interface Usage {
  /** Records that a token was used. */
  note: (hash: string, now: number) => void
  /** The token with its recorded use. */
  apply: (token: Token) => Token
  /** How many uses are not written yet, and the age of the oldest. */
  lag: () => { waiting: number, lagSeconds: number }
  /** Writes what is recorded. */
  close: () => Promise<void>
}

/** `lastUsed`: collected in memory, written within 5 s in batches, never backwards in time. */
export function createUsage (store: Pick<Store, 'touch'>, log: Log): Usage {
  const waiting = new Map<string, number>()
  /**
   * What flushes wrote, and when by the monotonic clock: a row that was read before may still be on its way. Only the
   * last two flushes are in it: each removes what is older than `READ`.
   */
  const written = new Map<string, { at: number, since: number }>()
  /** When the oldest was recorded, by the monotonic clock. */
  let since = 0
  let timer: NodeJS.Timeout | undefined
  let flushing: Promise<void> | undefined
  let isClosed = false

  /** Resolves with those whose rows are locked. */
  async function writeAll (uses: Array<[string, number]>, waits: boolean): Promise<Array<[string, number]>> {
    const skipped: Array<[string, number]> = []
    for (let start = 0; start < uses.length; start += BATCH) {
      const batch = uses.slice(start, start + BATCH)
      const times = new Map(batch.map(([hash, at]) => [hash, new Date(at).toISOString()]))
      const locked = new Set(await store.touch(times, waits))
      for (const [hash, at] of batch) {
        if (locked.has(hash)) {
          skipped.push([hash, at])
        } else {
          written.set(hash, { at: Math.max(at, written.get(hash)?.at ?? at), since: performance.now() })
          if (waiting.get(hash) === at) waiting.delete(hash)
        }
      }
    }
    return skipped
  }

  async function write (): Promise<void> {
    const begun = performance.now()
    for (const [hash, { since }] of written) if (since < begun - READ) written.delete(hash)
    try {
      // A snapshot: a token in steady use would keep this busy forever.
      const locked = await writeAll([...waiting], false)
      // Last, so that they hold up no other. Most are free at once: another node wrote the same ones.
      await writeAll(locked, true)
      since = begun
    } catch (error) {
      log.warn({ err: error }, 'could not write lastUsed; will retry')
    }
    if (waiting.size > 0) schedule()
  }

  function flush (): Promise<void> {
    flushing ??= write().finally(() => { flushing = undefined })
    return flushing
  }

  function schedule (): void {
    if (isClosed) return
    timer ??= setTimeout(() => {
      timer = undefined
      void flush()
    }, INTERVAL).unref()
  }

  return {
    note (hash, now) {
      const before = waiting.get(hash)
      if (waiting.size === 0) since = performance.now()
      if (before === undefined ? waiting.size < MAX_WAITING : before < now) waiting.set(hash, now)
      schedule()
    },
    apply (token) {
      const at = Math.max(waiting.get(token.hash) ?? -Infinity, written.get(token.hash)?.at ?? -Infinity)
      if (at === -Infinity) return token
      const lastUsed = new Date(at).toISOString()
      return lastUsed > token.lastUsed ? { ...token, lastUsed } : token
    },
    lag: () => ({ waiting: waiting.size, lagSeconds: waiting.size === 0 ? 0 : (performance.now() - since) / 1000 }),
    async close () {
      isClosed = true
      await flushing
      await flush()
      clearTimeout(timer)
    }
  }
}
