import type { Log } from '../types.js'
import { CHANNEL } from './migrations.js'

/** Milliseconds between two warnings: any user of the database can write to the channel. */
const INTERVAL = 60_000

type Notify = (channel: string, payload: string) => Promise<unknown>

export interface KeyCheck {
  /** Where nodes tell what they sign with: those of one schema. */
  channel: string
  /** Asks all others. */
  greet: () => void
  hear: (payload: string) => void
}

/**
 * Tells the operator where another node signs with a secret that this one does not have. A node that starts asks
 * (`<fingerprint>?`), and those that sign with another secret answer (`<fingerprint>`), so that both can judge.
 * @param fingerprints of the secrets of this node; it signs with the first
 */
export function createKeyCheck (schema: string, fingerprints: readonly string[], notify: Notify, log: Log): KeyCheck {
  const channel = `${CHANNEL}_keys_${schema}`
  const own = fingerprints[0] as string
  let warnedAt = -Infinity
  let isAnswering = false
  let isAsked = false

  async function say (text: string): Promise<void> {
    // Where nobody hears it, the connection that listens is replaced, and the others are asked again.
    await notify(channel, text).catch(() => {})
  }

  // All hear an answer, so that one under way and one after it are enough for any number who ask.
  async function answer (): Promise<void> {
    isAsked = true
    if (isAnswering) return
    isAnswering = true
    while (isAsked) {
      isAsked = false
      await say(own)
    }
    isAnswering = false
  }

  return {
    channel,
    greet () { void say(`${own}?`) },
    hear (payload) {
      const fingerprint = payload.replace('?', '')
      if (fingerprint === own) return
      if (payload !== fingerprint) void answer()
      const now = performance.now()
      if (fingerprints.includes(fingerprint) || now - warnedAt < INTERVAL) return
      warnedAt = now
      log.warn('another node signs tokens with a secret that this node does not know, and they are refused here: ' +
        'give all nodes the same option "secret"; to replace it, let all verify with the new one before any signs ' +
        'with it')
    }
  }
}
