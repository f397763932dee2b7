import type { Log, Store } from '../types.js'
import { createTask, type Task } from './task.js'

/** The interval between two purges, in milliseconds: `seconds`, within these bounds. */
const PAUSE = { shortest: 1000, longest: 60_000 }

interface Parts {
  store: Pick<Store, 'purge'>
  /** How long expired tokens are kept, in seconds; `undefined`: until they are revoked. */
  seconds: number | undefined
  /** Called when some were removed. */
  onPurged: () => void
  log: Log
}

/** Removes tokens some time after they expired, on a schedule. `close` only waits for the statement under way. */
export function createPurge ({ store, seconds, onPurged, log }: Parts): Task {
  const grace = seconds === undefined ? undefined : seconds * 1000
  let isClosed = false

  async function job (): Promise<void> {
    while (await purgeSome()) onPurged()
  }

  /** Resolves with whether there may be more. */
  async function purgeSome (): Promise<boolean> {
    return !isClosed && await store.purge(new Date(Date.now() - Number(grace)).toISOString()) > 0
  }

  const interval = grace === undefined ? undefined : Math.min(Math.max(grace, PAUSE.shortest), PAUSE.longest)
  const task = createTask({ job, interval, failure: 'could not purge expired tokens; will retry', log })
  return {
    ...task,
    async close () {
      isClosed = true
      await task.close()
    }
  }
}
