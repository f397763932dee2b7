import { EventEmitter, once } from 'node:events'
import type { TokenEvent } from '../../lib/index.js'

export interface Events {
  /** For the option `onEvent`, of any number of nodes. */
  onEvent: (event: TokenEvent) => void
  all: TokenEvent[]
  /** Resolves when so many of a type were reported, with them. */
  until: (count: number, type?: TokenEvent['type']) => Promise<TokenEvent[]>
}

/** What nodes report. */
export function collectEvents (): Events {
  const emitter = new EventEmitter()
  const all: TokenEvent[] = []
  return {
    all,
    onEvent (event) {
      all.push(event)
      emitter.emit('event')
    },
    async until (count, type) {
      for (;;) {
        const found = all.filter(event => type === undefined || event.type === type)
        if (found.length >= count) return found
        await once(emitter, 'event')
      }
    }
  }
}
