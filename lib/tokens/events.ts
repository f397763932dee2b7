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
  /** Tells of this token, which ended, or of all that nobody told of; returns at once. */
  ended: (hash?: string) => void
  start: () => void
  /** Ends when all is told that was under way. */
  close: () => Promise<void>
}

export function createEvents (store: Store, onEvent: ((event: TokenEvent) => unknown) | undefined, log: Log): Events {
  const underWay = new Set<Promise<void>>()
  let timer: NodeJS.Timeout | undefined
  let isSweeping = false
  let isDue = false
  let second = 0
  let told = 0
  let suppressed = 0

  function tell (event: TokenEvent): void {
    log.info({ event }, MESSAGES[event.type])
    if (onEvent === undefined) return
    const fail = (err: unknown): void => { log.error({ err, event }, 'onEvent failed') }
    try {
      Promise.resolve(onEvent({ ...event })).catch(fail)
    } catch (error) {
      fail(error)
    }
  }

  function tellOfEnd ({ isPurged, ...about }: Ended): void {
    tell({ type: isPurged ? 'token.expired-purged' : 'token.revoked', ...about })
  }

  async function sweep (): Promise<void> {
    isDue = true
    if (isSweeping) return
    isSweeping = true
    try {
      while (isDue) {
        isDue = false
        for (let ended = await store.takeEnded(); ended.length > 0; ended = await store.takeEnded()) ended.forEach(tellOfEnd)
      }
    } finally {
      isSweeping = false
    }
  }

  function follow (work: Promise<void>): void {
    const done = work.catch((err: unknown) => { log.warn({ err }, 'could not tell of ended tokens; it is tried again') })
    underWay.add(done)
    done.finally(() => { underWay.delete(done) }).catch(() => {})
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
    ended (hash) {
      follow(hash === undefined ? sweep() : store.takeEnded(hash).then(ended => { ended.forEach(tellOfEnd) }))
    },
    start () {
      timer ??= setInterval(() => { follow(sweep()) }, INTERVAL).unref()
    },
    async close () {
      clearInterval(timer)
      await Promise.all(underWay)
    }
  }
}
