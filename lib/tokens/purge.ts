import type { Log, Store } from '../types.js'

/** Between two purges, in milliseconds: as long as what expired may stay, within these bounds. */
const PAUSE = { shortest: 1000, longest: 60_000 }

export interface Purge {
  start: () => void
  /** Ends when what is under way has ended. */
  close: () => Promise<void>
}

/**
 * Removes tokens some time after they expired, on a schedule of its own.
 * @param seconds how long they stay; `undefined`: for good
 * @param onPurged called when some went
 */
export function createPurge (store: Store, seconds: number | undefined, onPurged: () => void, log: Log): Purge {
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined

  async function purge (grace: number): Promise<void> {
    try {
      while (await store.purge(new Date(Date.now() - grace).toISOString()) > 0) onPurged()
    } catch (error) {
      log.warn({ err: error }, 'could not purge expired tokens; it is tried again')
    }
  }

  return {
    start () {
      if (seconds === undefined) return
      const grace = seconds * 1000
      timer ??= setInterval(() => {
        running ??= purge(grace).finally(() => { running = undefined })
      }, Math.min(Math.max(grace, PAUSE.shortest), PAUSE.longest)).unref()
    },
    async close () {
      clearInterval(timer)
      await running
    }
  }
}
