import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { issueInOrder, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const REQUESTS = 100_000
/** Sent at once. */
const BATCH = 100

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

t.test('100,000 requests on one keep-alive connection, each of which asks for its signal, leave nothing behind', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  let signals: Array<WeakRef<AbortSignal>> = []
  let aborted = 0
  app.get('/ask', async request => {
    const signal = app.tokens.signal(request) as AbortSignal
    signal.addEventListener('abort', () => { aborted++ })
    signals.push(new WeakRef(signal))
    return ''
  })
  const sockets: Socket[] = []
  app.server.on('connection', socket => { sockets.push(socket) })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { token, hash } = await issueInOrder(app, { name: 'keep-alive' })
  const client = connect((app.server.address() as AddressInfo).port, '127.0.0.1').setEncoding('latin1')
  t.teardown(() => client.destroy())
  const batch = `GET /ask HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`.repeat(BATCH)

  async function ask (requests: number): Promise<{ heap: number, alive: number, listeners: number }> {
    signals = []
    for (let n = 0; n < requests; n += BATCH) {
      client.write(batch)
      for (let answers = 0; answers < BATCH;) {
        const [chunk] = await once(client, 'data') as [string]
        answers += chunk.split('HTTP/1.1 200').length - 1
      }
    }
    t.equal(signals.length, requests)
    await new Promise(resolve => setTimeout(resolve, 100))
    collectGarbage()
    const alive = signals.filter(reference => reference.deref() !== undefined).length
    signals = []
    collectGarbage()
    return { heap: process.memoryUsage().heapUsed, alive, listeners: sockets[0]?.listenerCount('close') ?? NaN }
  }

  const before = await ask(REQUESTS / 10)
  const after = await ask(REQUESTS)
  t.comment(JSON.stringify({ before, after }))
  t.equal(sockets.length, 1)
  t.ok(after.alive <= 10, `${after.alive} signals are left`)
  t.equal(after.listeners, before.listeners)
  // A signal that is kept takes 3 kB.
  t.ok(after.heap - before.heap < REQUESTS * 300, `the heap grew by ${after.heap - before.heap} bytes`)
  await app.tokens.revoke(hash)
  t.equal(aborted, 0, 'no request that is over is told')
})
