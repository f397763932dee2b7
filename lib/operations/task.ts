import type { Log } from '../types.js'

/** A job that runs on a schedule and on demand, never twice at a time. */
export interface Task {
  /** Starts the schedule. */
  start: () => void
  /** Runs the job now, or once more when the run under way has ended. Returns at once. */
  trigger: () => void
  /** Ends the schedule; resolves when the run under way has ended. */
  close: () => Promise<void>
}

interface Options {
  job: () => Promise<void>
  /** Milliseconds between two runs; `undefined`: on demand alone. */
  interval?: number | undefined
  /** Logged with the error of a run that failed. The next run is the retry. */
  failure: string
  log: Log
}

export function createTask ({ job, interval, failure, log }: Options): Task {
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined
  let isDue = false

  async function run (): Promise<void> {
    try {
      while (isDue) {
        isDue = false
        await job()
      }
    } catch (err) {
      log.warn({ err }, failure)
    } finally {
      // In the same turn as the last check, so that no trigger is missed in between.
      running = undefined
    }
  }

  function trigger (): void {
    isDue = true
    running ??= run()
  }

  return {
    start () {
      if (interval !== undefined) timer ??= setInterval(trigger, interval).unref()
    },
    trigger,
    async close () {
      clearInterval(timer)
      await running
    }
  }
}
