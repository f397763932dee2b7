import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import pg from 'pg'
import type { Test } from 'tap'

/**
 * What happens to bytes: `up` is to Postgres, `down` from it, `notifications` those of NOTIFY alone. `end when ready`
 * ends each connection by an error in the very packet that says that Postgres is ready.
 */
type Fault = 'none' | 'swallow up' | 'swallow down' | 'swallow notifications' | 'refuse' | 'end when ready'

/** What a backend says when it is terminated (ErrorResponse of Postgres's protocol). */
const TERMINATED = Buffer.from('E\0\0\0\x2bSFATAL\0C57P01\0Mterminating connection\0\0', 'latin1')

export interface Proxy {
  /** Connection string through the proxy. */
  url: string
  set: (fault: Fault) => void
  /** What Postgres sends arrives so much later, in milliseconds. */
  delay: (milliseconds: number) => void
  /** Ends every connection on the side of Postgres; the other side hears nothing of it. */
  halve: () => void
  /** The next answer to what contains this text is lost, with its connection, though it was done; resolves then. */
  lose: (text: string) => Promise<void>
  /** Resolves when a message of Postgres for which this is true has arrived. */
  arrived: (is: (message: Buffer) => boolean) => Promise<void>
  /** Where new connections lead from now on. */
  lead: (url: string) => void
  /** Ends every connection. */
  cut: () => void
}

/** A TCP proxy before the server at `url`, closed when the test ends. */
export async function createProxy (t: Test, url: string): Promise<Proxy> {
  const { user, password, database } = new pg.Client(url)
  let { host, port } = new pg.Client(url)
  const sockets = new Set<Socket>()
  const upstreams = new Set<Socket>()
  const halved = new WeakSet<Socket>()
  const ended = new Set<Socket>()
  const doomed = new Map<Socket, () => void>()
  const losing = new Map<string, () => void>()
  const awaited = new Map<(message: Buffer) => boolean, () => void>()
  let fault: Fault = 'none'
  let delay = 0

  const server = createServer({ allowHalfOpen: true, noDelay: true }, client => {
    if (fault === 'refuse') {
      client.destroy()
      return
    }
    const upstream = host.startsWith('/') ? connect(`${host}/.s.PGSQL.${port}`) : connect(port, host)
    for (const [socket, other] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(socket)
      socket.on('error', () => {}).on('close', () => {
        sockets.delete(socket)
        if (!halved.has(socket)) other.destroy()
      })
    }
    // Small messages would wait 40 ms for each other.
    upstream.setNoDelay(true)
    upstreams.add(upstream)
    upstream.on('close', () => { upstreams.delete(upstream) })
    client.on('data', chunk => {
      for (const [text, lost] of losing) {
        if (!chunk.includes(text)) continue
        losing.delete(text)
        doomed.set(client, lost)
      }
      if (fault !== 'swallow up' && !halved.has(upstream)) upstream.write(chunk)
    })
    // In silence not even the end of a connection is answered: it arrives when the silence is over.
    client.on('end', () => {
      if (fault.startsWith('swallow')) ended.add(client)
      else if (!halved.has(upstream)) client.end()
    })
    let due = 0
    // Each timer takes the first: two may fire in another order than they were set, by a rounded millisecond.
    const delayed: Buffer[] = []
    const write = (message: Buffer): void => {
      client.write(message)
      for (const [is, resolve] of awaited) {
        if (!is(message)) continue
        awaited.delete(is)
        resolve()
      }
    }
    const send = (message: Buffer): void => {
      if (delay === 0 && delayed.length === 0) {
        write(message)
        return
      }
      const now = performance.now()
      due = Math.max(due, now + delay)
      delayed.push(message)
      setTimeout(() => {
        const first = delayed.shift() as Buffer
        if (client.writable && fault !== 'swallow down') write(first)
      }, due - now).unref()
    }
    let rest: Buffer = Buffer.alloc(0)
    upstream.on('data', chunk => {
      if (fault === 'swallow down') return
      const lost = doomed.get(client)
      if (lost !== undefined) {
        client.destroy()
        lost()
        return
      }
      const [messages, left] = split(Buffer.concat([rest, chunk]))
      rest = left
      for (const message of messages) {
        const isNotification = message[0] === 0x41
        if (isNotification && fault === 'swallow notifications') continue
        const isReady = message[0] === 0x5a
        send(isReady && fault === 'end when ready' ? Buffer.concat([message, TERMINATED]) : message)
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => { for (const socket of sockets) socket.destroy() }
  t.teardown(() => {
    cut()
    server.close()
  })
  const through = new URL(`postgres://127.0.0.1:${(server.address() as AddressInfo).port}/${database}`)
  Object.assign(through, { username: user, password: password ?? '' })
  return {
    url: String(through),
    set (value) {
      fault = value
      if (fault.startsWith('swallow')) return
      for (const client of ended) client.end()
      ended.clear()
    },
    delay: value => { delay = value },
    halve () {
      for (const upstream of upstreams) {
        halved.add(upstream)
        upstream.destroy()
      }
    },
    lose: async text => { await new Promise<void>(resolve => { losing.set(text, resolve) }) },
    arrived: async is => { await new Promise<void>(resolve => { awaited.set(is, resolve) }) },
    lead (url) { ({ host, port } = new pg.Client(url)) },
    cut
  }
}

/**
 * The whole messages of Postgres's protocol in some bytes, a byte of type and four of length each, and what is left.
 */
function split (bytes: Buffer): [messages: Buffer[], rest: Buffer] {
  const messages: Buffer[] = []
  let start = 0
  while (bytes.length - start >= 5) {
    const end = start + 1 + bytes.readUInt32BE(start + 1)
    if (end > bytes.length) break
    messages.push(bytes.subarray(start, end))
    start = end
  }
  return [messages, bytes.subarray(start)]
}
