import { randomUUID } from 'node:crypto'
import type { Log, Origin, Store, StoredEvent, TokenEvent } from '../types.js'
import { createTask } from './task.js'

/** Rejections reported in a second; the next counts the rest. Whoever sends them chooses how many there are. */
const REJECTIONS = 10
/** How long a node reports nothing that others did, in milliseconds: a process that only migrates takes no events. */
const FIRST = 10_000
/** From one look at the outbox to the next, on average, in milliseconds. */
const INTERVAL = 60_000
/** Events that are claimed at a time. */
const BATCH = 100
/** How long claimed events are this node's, in milliseconds. */
const CLAIM = 60_000
/** How long `onEvent` may take, in milliseconds. */
const PATIENCE = 30_000
/** What must be left of a claim to begin with an event: `onEvent`, and a second to take the event out. */
const ENOUGH = PATIENCE + 1000
/** How long `close` waits for the report under way, in milliseconds. */
const GRACE = 1000
/** Minutes to the next attempt at most; the first is one, then twice as many each time. */
const LONGEST = 60
/** Attempts that fail before the last: their pauses are 7 days, 1 + 2 + … + 32 + 167 * 60 minutes. */
const ATTEMPTS = 173

const MESSAGES = {
  'token.issued': 'application token issued',
  'token.revoked': 'application token revoked',
  'token.expired-purged': 'expired application token purged',
  'authentication.rejected': 'application token refused'
} satisfies Record<TokenEvent['type'], string>

/** Reports acts, each at least once, to the log and to the host's `onEvent`. */
export interface Audit {
  rejected: (reason: string, token: { hash: string | null, name?: string, role?: string }, origin: Origin) => void
  /** Reports what waits in the outbox: this node acted. Returns at once. */
  report: () => void
  /** The same, because somebody else acted: not in the first seconds. */
  hear: () => void
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
  /** Reported, and not deleted yet: they are before more are claimed, so these are a hundred at most. */
  const reported: string[] = []
  let dropping: Promise<void> | undefined
  let second = 0
  let told = 0
  let suppressed = 0

  async function reportAll (): Promise<void> {
    while (await reportSome());
  }

  /** Tells whether there may be more. */
  async function reportSome (): Promise<boolean> {
    await dropReported()
    if (isClosed) return false
    const until = performance.now() + CLAIM
    const events = await store.claimEvents(BATCH)
    for (const [index, event] of events.entries()) {
      if (isClosed) return false
      if (until - performance.now() < ENOUGH) {
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
      await within(PATIENCE, onEvent?.({ ...event }))
    } catch (err) {
      if (isClosed) return
      if (attempts < ATTEMPTS) {
        log.error({ err, event }, 'onEvent failed; will retry')
        await store.deferEvents([event.id], { attempts: 1, minutes: Math.min(2 ** attempts, LONGEST) })
        return
      }
      log.error({ err, event }, 'onEvent failed for 7 days: this line is all that is left of the event')
    }
    reported.push(event.id)
    // The next one retries.
    dropReported().catch(() => {})
  }

  /** Deletes what is reported, at once; what is reported while Postgres does so, in one statement after it. */
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
      // In the same turn in which nothing was left.
      dropping = undefined
    }
  }

  /** In each minute once, so that nodes take turns. */
  function look (): void {
    isReady = true
    task.trigger()
    timer = setTimeout(look, INTERVAL * (0.5 + Math.random())).unref()
  }

  async function reportRejection (event: TokenEvent): Promise<void> {
    log.info({ event }, MESSAGES[event.type])
    await onEvent?.({ ...event })
  }

  return {
    rejected (reason, { hash, name = null, role = null }, origin) {
      const now = Date.now()
      if (Math.floor(now / 1000) !== second) {
        second = Math.floor(now / 1000)
        told = 0
      }
      if (told >= REJECTIONS) {
        suppressed++
        return
      }
      told++
      const at = new Date(now).toISOString()
      const about = { id: randomUUID(), type: 'authentication.rejected', at, name, hash, role, ...origin } as const
      const event = { ...about, databaseUser: null, reason, ...suppressed > 0 && { suppressed } }
      suppressed = 0
      reportRejection(event).catch((err: unknown) => { log.error({ err, event }, 'onEvent failed') })
    },
    report: task.trigger,
    hear () { if (isReady) task.trigger() },
    start () { timer ??= setTimeout(look, FIRST).unref() },
    async close () {
      clearTimeout(timer)
      await within(GRACE, task.close()).catch(() => {})
      isClosed = true
    }
  }
}

/** Settles as `work` does, or rejects when time is up. */
async function within (milliseconds: number, work: unknown): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => { reject(new Error(`it did not end within ${milliseconds} ms`)) }, milliseconds).unref()
  })
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
