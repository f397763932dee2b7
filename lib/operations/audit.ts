import type { Ended, Log, Origin, Store, Token, TokenEvent } from '../types.js'
import { createTask } from './task.js'

/** Rejections told of in a second; the next tells how many were not. They come in floods, and whoever sends them chooses how many. */
const REJECTIONS = 10
/** Milliseconds between two looks for tokens that ended and were not reported. */
const INTERVAL = 60_000

const MESSAGES = {
  'token.issued': 'application token issued',
  'token.revoked': 'application token revoked',
  'token.expired-purged': 'expired application token purged',
  'authentication.rejected': 'application token refused'
} satisfies Record<TokenEvent['type'], string>

/** Reports each act once: to the log, and to the host's `onEvent`. */
export interface Audit {
  issued: (token: Token, origin: Origin) => void
  rejected: (reason: string, token: { hash: string | null, name?: string, role?: string }, origin: Origin) => void
  /** Reports tokens that ended and were not reported yet. Returns at once. */
  ended: () => void
  start: () => void
  /** Resolves when the report under way has ended. */
  close: () => Promise<void>
}

interface Parts {
  store: Pick<Store, 'takeEnded'>
  onEvent: ((event: TokenEvent) => unknown) | undefined
  log: Log
}

export function createAudit ({ store, onEvent, log }: Parts): Audit {
  const sweep = createTask({ job: reportEnded, interval: INTERVAL, failure: 'could not report ended tokens; will retry', log })
  let second = 0
  let told = 0
  let suppressed = 0

  function report (event: TokenEvent): void {
    log.info({ event }, MESSAGES[event.type])
    if (onEvent === undefined) return
    const fail = (err: unknown): void => { log.error({ err, event }, 'onEvent failed') }
    try {
      Promise.resolve(onEvent(event)).catch(fail)
    } catch (error) {
      fail(error)
    }
  }

  function reportEnd ({ isPurged, ...about }: Ended): void {
    report({ type: isPurged ? 'token.expired-purged' : 'token.revoked', ...about })
  }

  async function reportEnded (): Promise<void> {
    for (let some = await store.takeEnded(); some.length > 0; some = await store.takeEnded()) some.forEach(reportEnd)
  }

  return {
    issued ({ name, hash, role, issueDate: at }, origin) {
      report({ type: 'token.issued', at, name, hash, role, ...origin })
    },
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
      report({ type: 'authentication.rejected', at: new Date(now).toISOString(), name, hash, role, ...origin, reason, ...suppressed > 0 && { suppressed } })
      suppressed = 0
    },
    ended: sweep.trigger,
    start: sweep.start,
    close: sweep.close
  }
}
