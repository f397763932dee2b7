import type { Log } from '../types.js'
import { CHANNEL } from './migrations.js'

type Notify = (channel: string, payload: string) => Promise<unknown>

export interface Neighbours {
  /** Where nodes tell what they sign with: those of one schema. */
  channel: string
  /** Asks all others. */
  greet: () => void
  hear: (payload: string) => void
}

/**
 * Tells the operator where a node that runs signs with a secret that this one does not know. Whoever comes asks (`<fingerprint>?`), and
 * those who sign with another secret answer (`<fingerprint>`), so that both can judge. Nothing is stored: who has gone is no neighbour.
 * @param fingerprints of the secrets of this node; it signs with the first
 */
export function createNeighbours (schema: string, fingerprints: readonly string[], notify: Notify, log: Log): Neighbours {
  const channel = `${CHANNEL}_keys_${schema}`
  const own = fingerprints[0] as string
  let lastStranger: string | undefined

  function say (text: string): void {
    // Where this fails heartbeats do, too, and once they return the others are asked again.
    notify(channel, text).catch(() => {})
  }

  return {
    channel,
    greet () { say(`${own}?`) },
    hear (payload) {
      const fingerprint = payload.replace('?', '')
      if (fingerprint === own) return
      if (payload !== fingerprint) say(own)
      if (fingerprints.includes(fingerprint) || fingerprint === lastStranger) return
      lastStranger = fingerprint
      log.warn('another node signs tokens with a secret that this node does not know, and they are refused here: give all nodes the same option "secret"; to replace it, let all verify with the new one before any signs with it')
    }
  }
}
