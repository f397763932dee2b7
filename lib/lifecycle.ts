import { NotEnabledError } from './errors.js'

interface Steps {
  /** Connects and starts background work. May be called again after a failure. */
  start: () => Promise<void>
  /** Ends what `start` began. */
  stop: () => Promise<void>
}

/** Whether tokens work in this process. */
export interface Lifecycle {
  readonly isEnabled: boolean
  /** How often tokens were disabled. */
  readonly disables: number
  /**
   * Concurrent calls share one start. Stays disabled if it fails.
   * @throws NotEnabledError once the host closes
   */
  enable: () => Promise<void>
  /** Takes effect at once. */
  disable: () => void
  close: () => Promise<void>
}

export function createLifecycle ({ start, stop }: Steps): Lifecycle {
  let isWanted = false
  let isEnabled = false
  let disables = 0
  let starting: Promise<void> | undefined
  let closing: Promise<void> | undefined

  function disable (): void {
    isWanted = isEnabled = false
    disables++
  }

  async function close (): Promise<void> {
    disable()
    // A pending start would leave its connections open. The caller of `enable` gets its error.
    await starting?.catch(() => {})
    await stop()
  }

  return {
    get isEnabled () { return isEnabled },
    get disables () { return disables },
    async enable () {
      if (closing !== undefined) throw new NotEnabledError()
      isWanted = true
      await (starting ??= start().catch((error: unknown) => {
        starting = undefined
        throw error
      }))
      // `disable` or `close` may have been called since.
      isEnabled = isWanted
    },
    disable,
    async close () { await (closing ??= close()) }
  }
}
