import { randomUUID } from 'node:crypto'
import type { Log, ReportRejection, Store, StoredEvent, TokenEvent } from '../types.js'
import { createTask } from './task.js'

/** Rejections reported per second, since clients decide how many there are. The next one counts those dropped. */
const REJECTIONS = 10
/** How long a new node ignores the events of others, in milliseconds: a process that only migrates claims none. */
const FIRST_CLAIM = 10_000
/** The average interval between two checks of the outbox, in milliseconds. */
const INTERVAL = 60_000
/** Events that are claimed at a time. */
const BATCH = 100
/** How long a claim lasts, in milliseconds. */
const CLAIM = 60_000
/** How long `onEvent` may take, in milliseconds. */
const EVENT_TIMEOUT = 30_000
/** The time that must be left of a claim to start an event: for `onEvent`, and a second to delete the event. */
const MIN_CLAIM = EVENT_TIMEOUT + 1000
/** How long `close` waits for the report under way, in milliseconds. */
const GRACE = 1000
/** The longest pause before a retry, in minutes. The first pause is 1, and each is twice as long as the previous. */
const LONGEST_PAUSE = 60
/** Failed attempts that are retried. Their pauses add up to 7 days: 1 + 2 + … + 32 + 167 * 60 minutes. */
const ATTEMPTS = 173

const MESSAGES = {
  'token.issued': 'application token issued',
  'token.revoked': 'application token revoked',
  'token.expired-purged': 'expired application token purged',
  'authentication.rejected': 'application token rejected'
} satisfies Record<TokenEvent['type'], string>

/** Reports events to the log and to the host's `onEvent`: those of the outbox at least once, rejections once. */
export interface Audit {
  reportRejection: ReportRejection
  /** Reports the events in the outbox, after a change by this node. Returns immediately. */
  report: () => void
  /** The same, after a change by others. Does nothing in the first ten seconds. */
  onEventsWaiting: () => void
  start: () => void
  /** Resolves when the report under way has ended, or has taken too long. */
  close: () => Promise<void>
}

interface Parts {
  store: Pick<Store, 'claimEvents' | 'dropEvents' | 'deferEvents'>
  onEvent: ((event: TokenEvent) => unknown) | undefined
  log: Log
}

export function createAudit ({ store, onEvent, log }: Parts): Audit {
  const task = createTask({ job: reportAll, log, failure: 'could not reach the outbox; will retry' })
  let timer: NodeJS.Timeout | undefined
  let isReady = false
  let isClosed = false
  /** Reported, but not deleted yet. They are deleted before more are claimed, so there are at most a hundred. */
  const reported: string[] = []
  let dropping: Promise<void> | undefined
  let second = 0
  let rejections = 0
  let suppressed = 0

  async function reportAll (): Promise<void> {
    while (await reportSome());
  }

  /** Resolves with whether there may be more. */
  async function reportSome (): Promise<boolean> {
    await dropReported()
    if (isClosed) return false
    const until = performance.now() + CLAIM
    const events = await store.claimEvents(BATCH)
    for (const [index, event] of events.entries()) {
      if (isClosed) return false
      if (until - performance.now() < MIN_CLAIM) {
        await store.deferEvents(events.slice(index).map(({ id }) => id), { attempts: 0, minutes: 0 })
        return true
      }
      await reportOne(event)
    }
    await dropReported()
    return events.length === BATCH
  }

  async function reportOne ({ attempts, ...event }: StoredEvent): Promise<void> {
    try {
      if (attempts === 0 || onEvent === undefined) log.info({ event }, MESSAGES[event.type])
      await within(EVENT_TIMEOUT, onEvent?.({ ...event }))
    } catch (err) {
      if (isClosed) return
      if (attempts < ATTEMPTS) {
        log.error({ err, event }, 'onEvent failed; will retry')
        await store.deferEvents([event.id], { attempts: 1, minutes: Math.min(2 ** attempts, LONGEST_PAUSE) })
        return
      }
      log.error({ err, event }, 'onEvent failed for 7 days: this line is all that is left of the event')
    }
    reported.push(event.id)
    // The next one retries.
    dropReported().catch(() => {})
  }

  /** Deletes reported events immediately. Those reported while a statement runs are deleted by the next one. */
  async function dropReported (): Promise<void> {
    if (reported.length > 0) await (dropping ??= drop())
  }

  async function drop (): Promise<void> {
    try {
      while (reported.length > 0) {
        if (isClosed) return
        const ids = [...reported]
        await store.dropEvents(ids)
        reported.splice(0, ids.length)
      }
    } finally {
      // In the same turn as the last check, so that no event is added in between.
      dropping = undefined
    }
  }

  /** Once a minute on average, at random times, so that nodes take turns. */
  function look (): void {
    isReady = true
    task.trigger()
    timer = setTimeout(look, INTERVAL * (0.5 + Math.random())).unref()
  }

  async function send (event: TokenEvent): Promise<void> {
    log.info({ event }, MESSAGES[event.type])
    await onEvent?.({ ...event })
  }

  return {
    reportRejection (reason, { hash, name = null, role = null }, origin) {
      const now = Date.now()
      if (Math.floor(now / 1000) !== second) {
        second = Math.floor(now / 1000)
        rejections = 0
      }
      if (rejections >= REJECTIONS) {
        suppressed++
        return
      }
      rejections++
      const at = new Date(now).toISOString()
      const about = { id: randomUUID(), type: 'authentication.rejected', at, name, hash, role, ...origin } as const
      const event = { ...about, databaseUser: null, reason, ...suppressed > 0 && { suppressed } }
      suppressed = 0
      send(event).catch((err: unknown) => { log.error({ err, event }, 'onEvent failed') })
    },
    report: task.trigger,
    onEventsWaiting () { if (isReady) task.trigger() },
    start () { timer ??= setTimeout(look, FIRST_CLAIM).unref() },
    async close () {
      clearTimeout(timer)
      await within(GRACE, task.close(), true).catch(() => {})
      isClosed = true
    }
  }
}

/**
 * Settles as `work` does, or rejects when time is up.
 * @param isKept whether this keeps Node.js running, for a caller that has more to do
 */
async function within (milliseconds: number, work: unknown, isKept = false): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    const error = new Error(`onEvent did not finish within ${milliseconds} ms`)
    timer = setTimeout(reject, milliseconds, error)
    if (!isKept) timer.unref()
  })
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
