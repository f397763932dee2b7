import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import pg from 'pg'
import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'
import { createDatabase, type Database } from '../support/database.js'

async function fill ({ query }: Database, count: number): Promise<void> {
  await query(`INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), 'a name that takes some room ' || n, 'viewer', 'sql', '2026-01-01Z'::timestamptz + n * interval '1 ms',
    '2999-01-01Z', '2026-01-01Z' FROM generate_series(1, ${count}) AS n`)
}

t.test('a slow reader of a long list holds no client of the pool, and gets the whole list in the end', async t => {
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  const { app, issue, login } = await buildHost(t, { database, tokens: { postgres: pool } })
  await fill(database, 20_000)
  const { token } = await issue()
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo

  const [slow] = await once(get({ port, path: '/api/tokens', headers: await login(), agent: false }), 'response') as [IncomingMessage]
  await once(slow.pause(), 'readable')
  for (let n = 0; n < 5; n++) t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  t.ok(await issue(), 'the only client of the pool is free')
  const list = await json(slow) as Array<{ hash: string }>
  t.ok(list.length >= 20_001)
  t.equal(new Set(list.map(({ hash }) => hash)).size, list.length)
})

t.test('a list that can not be finished is cut off, so that nobody takes it for whole', async t => {
  const { app, database, login } = await buildHost(t)
  await fill(database, 20_000)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const [answer] = await once(get({ port, path: '/api/tokens', headers: await login(), agent: false }), 'response') as [IncomingMessage]
  await once(answer.pause(), 'readable')
  await database.query('DROP TABLE tokens')
  await t.rejects(json(answer))
})

t.test('the answer to DELETE is the list without the token', async t => {
  const { app, database, issue, login } = await buildHost(t)
  await fill(database, 1000)
  const { hash } = await issue()
  const list = (await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: await login() })).json<Array<{ hash: string }>>()
  t.equal(list.length, 1000)
  t.notOk(list.some(token => token.hash === hash))
})
