import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

/**
 * Stands before the server at `url` and takes each connection at once, but hands it on when `wait` resolves, which is given its number;
 * `false` ends it.
 */
async function createDoor (t: Test, url: string, wait: (number: number) => Promise<boolean>): Promise<string> {
  const { user, password, database, host, port } = new pg.Client(url)
  const sockets = new Set<Socket>()
  let count = 0
  const server = createServer(client => {
    sockets.add(client.on('error', () => {}))
    wait(++count).then(isOpen => {
      if (!isOpen) {
        client.destroy()
        return
      }
      const upstream = host.startsWith('/') ? connect(`${host}/.s.PGSQL.${port}`) : connect(port, host)
      sockets.add(upstream.on('error', () => {}))
      client.pipe(upstream).pipe(client)
    }, () => {})
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return Object.assign(new URL('postgres://127.0.0.1'), { port: (server.address() as AddressInfo).port, username: user, password: password ?? '', pathname: database ?? '' }).href
}

for (const milliseconds of [1500, 3000]) {
  t.test(`a Postgres whose first connections take ${milliseconds / 1000} s, as one that wakes, starts a host by a string, a configuration and a pool of the host`, async t => {
    const { url, schema } = await createDatabase(t)
    await Promise.all([
      async (door: string) => door,
      async (door: string) => ({ connectionString: door, connectionTimeoutMillis: 15_000 }),
      async (door: string) => {
        const pool = new pg.Pool({ connectionString: door })
        t.teardown(() => pool.end())
        return pool
      }
    ].map(async create => {
      const wakes = sleep(milliseconds)
      const door = await createDoor(t, url, async () => { await wakes; return true })
      const { app } = await buildHost(t, { tokens: { postgres: await create(door), schema } })
      t.equal(app.tokens.enabled, true)
    }))
  })
}

t.test('a Postgres whose every new connection takes 3 s starts a host; a call never waits that long', async t => {
  const { url, schema } = await createDatabase(t)
  let isSlow = true
  const door = await createDoor(t, url, async () => { if (isSlow) await sleep(3000); return true })
  const { app } = await buildHost(t, { tokens: { postgres: { connectionString: door, max: 1 }, schema } })
  isSlow = false
  t.strictSame(await app.tokens.list(), [])
})

t.test('the start tries again where a connection is refused, ended or swallowed', async t => {
  const { url, schema } = await createDatabase(t)
  for (const [what, wait] of [
    ['ended', async (number: number) => number > 5],
    ['swallowed', async (number: number) => number === 1 ? await new Promise<never>(() => {}) : true]
  ] as const) {
    const door = await createDoor(t, url, wait)
    const { app } = await buildHost(t, { tokens: { postgres: door, schema } })
    t.equal(app.tokens.enabled, true, what)
  }
})

t.test('enable() at runtime waits as long: for a Postgres that comes after a second', async t => {
  const { url, schema } = await createDatabase(t)
  let isOpen = false
  const door = await createDoor(t, url, async () => isOpen)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: door, schema, secret: SECRET, enabled: false })
  const enabling = app.tokens.enable()
  await sleep(1000)
  isOpen = true
  await enabling
  t.equal(app.tokens.enabled, true)
})

t.test('two connections, a pooler and a direct one, have 5 s together', async t => {
  const { url, schema } = await createDatabase(t)
  const slow = sleep(3000)
  const [direct, never] = [await createDoor(t, url, async () => { await slow; return true }), await createDoor(t, url, async () => await new Promise<never>(() => {}))]
  const started = performance.now()
  await t.rejects(buildHost(t, { tokens: { postgres: never, listen: direct, schema } }), { code: 'MMC_TOKENS_DATABASE', message: /Postgres did not answer within 5000 ms$/ })
  t.ok(performance.now() - started < 7500, `${performance.now() - started} ms`)
})
