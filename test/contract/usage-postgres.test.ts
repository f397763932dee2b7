import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { createPostgresStore } from '../../lib/store/postgres.js'
import { createUsage } from '../../lib/tokens/usage.js'
import { bearer, buildHost, type TestHost } from '../support/build-host.js'
import { createSeparateDatabase, type Database } from '../support/database.js'
import { startNode } from '../support/node-process.js'

/** A pool that remembers what it was asked, heartbeats aside. */
function createListeningPool (t: Test, { url }: Database): { pool: pg.Pool, statements: string[] } {
  const pool = new pg.Pool({ connectionString: url })
  // Its database may be gone before its last connection is.
  pool.on('error', () => {})
  t.teardown(() => pool.end())
  const statements: string[] = []
  pool.on('connect', client => {
    const query = client.query.bind(client) as (asked: { text: string }) => Promise<never>
    Object.assign(client, {
      query: async (asked: { text: string }) => {
        if (!asked.text.includes('pg_notify')) statements.push(asked.text.trim())
        return await query(asked)
      }
    })
  })
  return { pool, statements }
}

async function use ({ app }: TestHost, token: string): Promise<number> {
  return (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode
}

t.test('a thousand uses of one token, and a thousand of fifty, are one UPDATE', async t => {
  const database = await createSeparateDatabase(t)
  const { pool, statements } = createListeningPool(t, database)
  const node = await buildHost(t, { database, tokens: { postgres: pool } })
  const tokens = await Promise.all(Array.from({ length: 50 }, async () => await node.issue()))
  // Its timer fires 4 s after the first use, which on a busy machine may be before the last. The test is that timer.
  let due: (() => Promise<void>) | undefined
  const { setTimeout: real } = globalThis
  t.intercept(globalThis, 'setTimeout', {
    value: ((callback: () => Promise<void>, delay: number) => {
      if (delay !== 4000) return real(callback, delay)
      due = callback
      return { unref () { return this } }
    }) as unknown as typeof setTimeout
  })
  const updates = (): number => statements.filter(text => text.includes('SET last_used =')).length

  const [one] = tokens as [typeof tokens[number]]
  for (const [round, used] of [[one], tokens].entries()) {
    const statuses = new Set<number>()
    for (let uses = 0; uses < 1000; uses++) statuses.add(await use(node, used[uses % used.length]?.token ?? ''))
    t.strictSame([...statuses], [200])
    t.equal(updates(), round)
    await due?.()
    t.equal(updates(), round + 1)
  }
  t.strictSame(await database.query('SELECT count(*)::integer FROM tokens WHERE last_used > issue_date'), [{ count: 50 }])
})

t.test('to write five thousand uses is one statement, notifies nobody and empties no cache', async t => {
  const database = await createSeparateDatabase(t)
  const { pool, statements } = createListeningPool(t, database)
  const node = await buildHost(t, { database, tokens: { postgres: pool } })
  await node.app.listen({ port: 0, host: '127.0.0.1' })
  const isHeld = (): boolean => node.app.tokens.health().lease === 'held'
  const { token, hash } = await node.issue()
  const hashes = [hash, ...Array.from({ length: 4999 }, () => randomBytes(32).toString('hex'))]
  await database.query("INSERT INTO tokens SELECT hash, hash, 'viewer', 'test', now(), '2999-01-01Z', now() FROM unnest($1::text[]) AS hash WHERE hash <> $2", [hashes, hash])

  const listener = new pg.Client(database.url)
  await listener.connect()
  t.teardown(() => listener.end())
  await listener.query('LISTEN mmc_tokens')
  const heard: Array<string | undefined> = []
  listener.on('notification', ({ payload }) => { heard.push(payload) })

  // Without a lease, as on a machine too busy for that, every use is a lookup: then again.
  let lookups = 1
  let flushes = 0
  for (let wasHeld = false; !wasHeld;) {
    while (!isHeld()) await turn()
    t.equal(await use(node, token), 200)
    const watch = setInterval(() => { wasHeld &&= isHeld() }, 1)
    wasHeld = true
    const usage = createUsage(createPostgresStore({ postgres: pool, listen: undefined, schema: database.schema, migrate: true, fingerprints: [], log: Fastify().log }), Fastify().log)
    await database.query("UPDATE tokens SET last_used = '2020-01-01Z'")
    flushes++
    const at = Date.now()
    for (const hash of hashes) usage.note(hash, at)
    statements.length = 0
    await usage.close()
    t.match(statements, [/SET last_used =/])
    t.equal(statements.length, 1)
    t.strictSame(await database.query('SELECT count(*)::integer FROM tokens WHERE last_used >= $1', [new Date(at)]), [{ count: 5000 }])

    // What is sent last is heard last.
    const fence = once(listener, 'notification')
    await database.query("SELECT pg_notify('mmc_tokens', 'fence')")
    await fence
    statements.length = 0
    for (let uses = 0; uses < 10; uses++) t.equal(await use(node, token), 200)
    clearInterval(watch)
    wasHeld &&= isHeld()
    lookups = statements.filter(text => text.startsWith('SELECT')).length
  }
  t.equal(lookups, 0)
  t.strictSame(heard, Array(flushes).fill('fence'))
})

t.test('kill -9 costs at most 5 s of uses, whenever it comes', async t => {
  const database = await createSeparateDatabase(t)
  const node = await startNode(t, database.url)
  const { token, hash } = await node.issue('used')
  const written = async (): Promise<number> => Date.parse(String((await database.query('SELECT to_json(last_used) AS at FROM tokens WHERE hash = $1', [hash]))[0]?.at))

  // What would be lost if it were killed now.
  let used = 0
  let mostLost = 0
  const statuses = new Set<number>()
  const end = performance.now() + 10_000
  while (performance.now() < end) {
    const at = Date.now()
    statuses.add((await node.use(token)).status)
    used = at
    mostLost = Math.max(mostLost, used - await written())
  }
  t.strictSame([...statuses], [200])
  node.kill('SIGKILL')
  await t.rejects(node.use(token))
  const lost = used - await written()
  t.ok(Math.max(mostLost, lost) <= 5000, `${mostLost} ms at worst, ${lost} ms when it was killed`)
  t.ok(mostLost > 1000, 'it is not written at each use')
})

t.test('nodes that write the uses of the same tokens at once, each in an order of its own, do not wait for each other in a circle', async t => {
  const { app: { log }, database } = await buildHost(t)
  await database.query("INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), n::text, 'viewer', 'sql', '2026-01-01Z', '2999-01-01Z', '2026-01-01Z' FROM generate_series(1, 2000) AS n")
  const hashes = (await database.query('SELECT hash FROM tokens ORDER BY md5(hash)')).map(({ hash }) => hash as string)
  const stores = [1, 2].map(() => createPostgresStore({ postgres: database.url, listen: undefined, schema: database.schema, migrate: false, fingerprints: ['x'], log }))
  t.teardown(() => Promise.all(stores.map(store => store.close())))
  for (let second = 10; second < 20; second++) {
    const uses = [hashes, [...hashes].reverse()].map((order, later) => new Map(order.map(hash => [hash, `2026-02-01T00:00:${second}.00${later}Z`])))
    await Promise.all(stores.map(async (store, index) => { await store.touch(uses[index] ?? new Map()) }))
    t.strictSame(await database.query('SELECT DISTINCT last_used FROM tokens'), [{ last_used: new Date(`2026-02-01T00:00:${second}.001Z`) }])
  }
})
