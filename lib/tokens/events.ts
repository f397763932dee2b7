import type { Ended, Log, Origin, Store, Token, TokenEvent } from '../types.js'

/** Rejections told of in a second; the next tells how many were not. They come in floods, and whoever sends them chooses how many. */
const REJECTIONS = 10
/** Milliseconds between two looks for what nobody told of. */
const INTERVAL = 60_000

const MESSAGES = {
  'token.issued': 'application token issued',
  'token.revoked': 'application token revoked',
  'token.expired-purged': 'expired application token purged',
  'authentication.rejected': 'application token refused'
} satisfies Record<TokenEvent['type'], string>

/** Of whom nothing is known. */
export const NOBODY: Origin = { actor: null, address: null, requestId: null }

/** Acts, each told of once: to the log, and to the host where it listens. */
export interface Events {
  issued: (token: Token, origin: Origin) => void
  rejected: (reason: string, token: { hash: string | null, name?: string, role?: string }, origin: Origin) => void
  /** Tells of tokens that ended and that nobody told of; returns at once. */
  ended: () => void
  start: () => void
  /** Ends when all is told that was under way. */
  close: () => Promise<void>
}

export function createEvents (store: Store, onEvent: ((event: TokenEvent) => unknown) | undefined, log: Log): Events {
  let timer: NodeJS.Timeout | undefined
  let sweeping: Promise<void> | undefined
  let isDue = false
  let second = 0
  let told = 0
  let suppressed = 0

  function tell (event: TokenEvent): void {
    log.info({ event }, MESSAGES[event.type])
    if (onEvent === undefined) return
    const fail = (err: unknown): void => { log.error({ err, event }, 'onEvent failed') }
    try {
      Promise.resolve(onEvent(event)).catch(fail)
    } catch (error) {
      fail(error)
    }
  }

  function tellOfEnd ({ isPurged, ...about }: Ended): void {
    tell({ type: isPurged ? 'token.expired-purged' : 'token.revoked', ...about })
  }

  async function sweep (): Promise<void> {
    try {
      while (isDue) {
        isDue = false
        for (let some = await store.takeEnded(); some.length > 0; some = await store.takeEnded()) some.forEach(tellOfEnd)
      }
    } catch (error) {
      log.warn({ err: error }, 'could not tell of ended tokens; it is tried again')
    } finally {
      // In the same turn in which nothing was due any more.
      sweeping = undefined
    }
  }

  function ended (): void {
    isDue = true
    sweeping ??= sweep()
  }

  return {
    issued ({ name, hash, role, issueDate: at }, origin) {
      tell({ type: 'token.issued', at, name, hash, role, ...origin })
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
      tell({ type: 'authentication.rejected', at: new Date(now).toISOString(), name, hash, role, ...origin, reason, ...suppressed > 0 && { suppressed } })
      suppressed = 0
    },
    ended,
    start () {
      timer ??= setInterval(ended, INTERVAL).unref()
    },
    async close () {
      clearInterval(timer)
      await sweeping
    }
  }
}
