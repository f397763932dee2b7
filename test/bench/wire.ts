import type { Server } from 'node:http'
import { Duplex } from 'node:stream'

/**
 * A connection in memory in place of a socket: the real parser of `http` and the real host, without a system call. It
 * sends the next request when it has seen an answer.
 */
class Wire extends Duplex {
  constructor (private readonly onAnswer: (status: string) => Buffer | null) {
    super()
  }

  override _read (): void {}

  override _write (chunk: Buffer, _encoding: string, done: () => void): void {
    // A body may follow its head in a chunk of its own.
    if (chunk.toString('latin1', 0, 9) === 'HTTP/1.1 ') {
      const next = this.onAnswer(chunk.toString('latin1', 9, 12))
      if (next !== null) setImmediate(() => { this.push(next) })
    }
    done()
  }
}

/** Sends so many requests, one after the other over each of some connections, and waits for the answers. */
export function createClient (server: Server, requests: readonly Buffer[], status: number) {
  const wires: Wire[] = []
  let [sent, left] = [0, 0]
  let finish: (error?: Error) => void = () => {}

  const next = (): Buffer => requests[sent++ % requests.length] as Buffer
  const onAnswer = (got: string): Buffer | null => {
    if (got !== String(status)) finish(new Error(`answered ${got}, not ${status}`))
    left--
    if (left >= wires.length) return next()
    if (left === 0) finish()
    return null
  }
  for (let count = 0; count < 8; count++) {
    const wire = new Wire(onAnswer)
    wires.push(wire)
    server.emit('connection', wire)
  }

  return async (count: number): Promise<void> => {
    left = count
    await new Promise<void>((resolve, reject) => {
      finish = error => { if (error === undefined) resolve(); else reject(error) }
      for (const wire of wires) wire.push(next())
    })
  }
}
