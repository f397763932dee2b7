import { DeadlineError } from '../errors.js'
import type { Log } from '../types.js'

/**
 * How long a call may take, waiting for a client included, in milliseconds: a request gets its answer within a second.
 */
export const DEADLINE = 900

/**
 * Waits for an answer. One that has arrived but was not read yet counts: the process may have been busy, or stopped.
 * @param deadline in milliseconds
 * @throws DeadlineError
 */
export async function inTime<T> (answer: Promise<T>, deadline: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    // Not unref'ed: the caller waits, and a silent connection might not keep Node.js running.
    timer = setTimeout(setImmediate, deadline, () => { reject(new DeadlineError(deadline)) })
  })
  return await Promise.race([answer, late]).finally(() => { clearTimeout(timer) })
}

/** Waits for a connection to close, up to the deadline: a silent one never does. */
export async function closeByDeadline (closing: Promise<void>, log: Log): Promise<void> {
  await inTime(closing, DEADLINE).catch((error: unknown) => {
    log.warn({ err: error }, 'a connection to Postgres did not close in time')
  })
}
