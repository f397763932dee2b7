import type { Log } from '../types.js'
import { CHANNEL } from './migrations.js'

/** Milliseconds between two warnings: any user of the database can write to the channel. */
const INTERVAL = 60_000

type Notify = (channel: string, payload: string) => Promise<unknown>

export interface KeyCheck {
  /** The channel of the nodes of one schema. */
  channel: string
  /** Asks all other nodes. */
  ask: () => void
  hear: (payload: string) => void
}

/**
 * Warns the operator if another node signs with a secret that this one does not have. A node that starts asks
 * (`<fingerprint>?`), and those that sign with another secret answer (`<fingerprint>`), so that both can judge.
 * @param fingerprints of the secrets of this node; it signs with the first
 */
export function createKeyCheck (schema: string, fingerprints: readonly string[], notify: Notify, log: Log): KeyCheck {
  const channel = `${CHANNEL}_keys_${schema}`
  const own = fingerprints[0] as string
  let warnedAt = -Infinity
  let isAnswering = false
  let isAsked = false

  async function send (text: string): Promise<void> {
    // If it is lost, the listening connection is replaced, and the other nodes are asked again.
    await notify(channel, text).catch(() => {})
  }

  // An answer reaches all nodes: one under way and one after it are enough for any number of questions.
  async function answer (): Promise<void> {
    isAsked = true
    if (isAnswering) return
    isAnswering = true
    while (isAsked) {
      isAsked = false
      await send(own)
    }
    isAnswering = false
  }

  return {
    channel,
    ask () { void send(`${own}?`) },
    hear (payload) {
      const fingerprint = payload.replace('?', '')
      if (fingerprint === own) return
      if (payload !== fingerprint) void answer()
      const now = performance.now()
      if (fingerprints.includes(fingerprint) || now - warnedAt < INTERVAL) return
      warnedAt = now
      log.warn('another node signs tokens with a secret that this node does not know, so this node rejects them: ' +
        'give all nodes the same option "secret"; to replace it, let all verify with the new one before any signs ' +
        'with it')
    }
  }
}
