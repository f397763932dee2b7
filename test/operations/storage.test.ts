import { once } from 'node:events'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import pg from 'pg'
import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase } from '../support/database.js'
import { until } from '../support/until.js'

t.test('a restart of the host keeps tokens', async t => {
  const database = await createDatabase(t)
  const before = await buildHost(t, { database })
  const { token, ...record } = await before.issue()
  await before.app.close()
  const { app } = await buildHost(t, { database })
  t.strictSame(await app.tokens.list(), [record])
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test('the row decides role, name and expiry; SQL that shortens a token is obeyed, SQL that prolongs it beyond its claim is not', async t => {
  const { app, database, issue } = await buildHost(t)
  const { token, hash } = await issue({ role: 'admin', validUntil: '2999-01-01T00:00:00Z' })
  const profile = async (): Promise<unknown> => (await app.inject(
    { url: '/api/profile', headers: bearer(token) }
  )).json()
  const isHeardOf = async (expected: object): Promise<void> => {
    await until(async () => isDeepStrictEqual(await profile(), expected))
    t.pass(JSON.stringify(expected))
  }
  await database.query("UPDATE tokens SET role = 'viewer', name = 'renamed' WHERE hash = $1", [hash])
  await isHeardOf({ username: 'token:renamed', roles: ['viewer'] })
  await database.query("UPDATE tokens SET valid_until = now() - interval '1 second'")
  await isHeardOf({ code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } })

  const short = await issue({ validUntil: new Date(Date.now() + 600_000).toISOString() })
  await database.query("UPDATE tokens SET valid_until = '2999-01-01Z'")
  const answer = async (): Promise<number> => (await app.inject(
    { url: '/api/profile', headers: bearer(short.token) }
  )).statusCode
  t.equal(await answer(), 200)
  const { now } = Date
  t.intercept(Date, 'now', { value: () => now() + 600_000 })
  t.equal(await answer(), 401)
})

t.test('a token expires at its second exactly', async t => {
  const { app, issue } = await buildHost(t)
  const { token, validUntil } = await issue({ validUntil: '2099-01-01T00:00:00Z' })
  let now = Date.parse(validUntil) - 1
  t.intercept(Date, 'now', { value: () => now })
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(token) })).statusCode, 200)
  now += 1
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(token) })).statusCode, 401)
})

t.test('the table holds what its constraints allow: no second name, no other hash, no endless or unreadable expiry', async t => {
  const { database, issue } = await buildHost(t)
  await issue({ name: 'a' })
  for (const change of [
    "hash = 'x'", 'hash = upper(hash)', "valid_until = 'infinity'", "valid_until = '-infinity'",
    "valid_until = '10000-01-01Z'", 'name = NULL'
  ]) {
    await t.rejects(database.query(`UPDATE tokens SET ${change}`), change)
  }
})

t.test('a time that SQL sets before the year 1 or after 9999 is returned as the first or the last within', async t => {
  const { app, database, issue, login } = await buildHost(t, {
    prepare (app) { app.get('/used', async ({ applicationToken }) => ({ ...applicationToken })) }
  })
  const headers = await login()
  const { token, hash } = await issue({ name: 'first' })
  for (const name of ['second', 'third']) await issue({ name })
  for (const [set, bound] of [
    ['-infinity', '0001-01-01T00:00:00.000Z'], ['0044-03-15 BC', '0001-01-01T00:00:00.000Z'],
    ['10000-01-01Z', '9999-12-31T23:59:59.999Z'], ['infinity', '9999-12-31T23:59:59.999Z']
  ] as const) {
    await database.query(`UPDATE tokens SET issue_date = '${set}', last_used = '${set}'`)
    const times = { issueDate: bound, lastUsed: bound }
    t.match((await app.inject({ url: `/api/tokens/${hash}`, headers })).json(), times, set)
    t.match((await app.inject({ url: '/api/tokens', headers })).json(), [times, times, times], set)

    const names: unknown[] = []
    for (let url = '/api/tokens?limit=1'; url !== '' && names.length < 9;) {
      const answer = await app.inject({ url, headers })
      names.push(...answer.json<Array<{ name: string }>>().map(({ name }) => name))
      url = /^<(.*)>/.exec(String(answer.headers.link))?.[1]?.replace(/^.*\?/, '/api/tokens?') ?? ''
    }
    t.strictSame(names.sort(), ['first', 'second', 'third'], `${set}, page by page`)
  }
  const used = await app.inject({ url: '/used', headers: bearer(token) })
  t.match(used.json(), { issueDate: '9999-12-31T23:59:59.999Z', lastUsed: '9999-12-31T23:59:59.999Z' })
})

t.test('a trigger notifies of every token that ends or changes, also by plain SQL, and of nothing else', async t => {
  // The channel is heard in the whole database.
  const { database, issue } = await buildHost(t, { database: await createSeparateDatabase(t) })
  const listener = new pg.Client(database.url)
  await listener.connect()
  t.teardown(() => listener.end())
  await listener.query('LISTEN mmc_tokens')
  const heard = async (): Promise<unknown> => (await once(listener, 'notification') as [{ payload: string }])[0].payload

  const { hash } = await issue()
  await database.query('UPDATE tokens SET last_used = now()')
  for (const change of ["UPDATE tokens SET valid_until = valid_until - interval '1 day'", "UPDATE tokens SET role = 'admin'", "UPDATE tokens SET name = 'other'",
    "SET session_replication_role = replica; UPDATE tokens SET role = 'viewer'; RESET session_replication_role", `UPDATE tokens SET hash = '${'0'.repeat(64)}'`]) {
    const notified = heard()
    await database.query(change)
    t.equal(await notified, hash, change)
  }
  const payloads: unknown[] = []
  listener.on('notification', ({ payload }) => { payloads.push(payload) })
  for (const [end, ...expected] of [['DELETE FROM tokens', '0'.repeat(64), '!'], ['TRUNCATE tokens', '!', '*']]) {
    payloads.length = 0
    await database.query(String(end))
    while (payloads.length < 2) await once(listener, 'notification')
    t.strictSame(payloads, expected)
  }
})

t.test('twenty nodes boot at once on an empty database', async t => {
  const database = await createDatabase(t)
  const nodes = await Promise.all(Array.from({ length: 20 }, async () => await buildHost(t, { database })))
  t.strictSame(await database.query('SELECT number FROM migrations'), [{ number: 1 }, { number: 2 }, { number: 3 }])
  const { token } = await nodes[0]?.issue() ?? {}
  t.equal((await nodes[19]?.app.inject({ url: '/api/viewer', headers: bearer(token ?? '') }))?.statusCode, 200)
})

t.test('a node that never gets its turn to migrate gives up before Fastify does, after 5 s', { buffered: true }, async t => {
  const database = await createDatabase(t)
  const other = new pg.Client(database.url)
  await other.connect()
  t.teardown(() => other.end())
  await other.query('SELECT pg_advisory_lock(hashtext($1))', [`mmc_tokens.${database.schema}`])
  await t.rejects(buildHost(t, { database }), {
    code: 'MMC_TOKENS_DATABASE', message: /Postgres did not answer within 5000 ms$/
  })
  await other.query('SELECT pg_advisory_unlock_all()')
  t.ok((await buildHost(t, { database })).app.tokens.enabled)
})

t.test('a node whose turn to migrate comes after its first deadline takes it', { buffered: true }, async t => {
  const database = await createDatabase(t)
  const other = new pg.Client(database.url)
  await other.connect()
  t.teardown(() => other.end())
  await other.query('SELECT pg_advisory_lock(hashtext($1))', [`mmc_tokens.${database.schema}`])
  const pool = new pg.Pool({ connectionString: database.url })
  t.teardown(() => pool.end())
  const booting = buildHost(t, { database, tokens: { postgres: pool } })
  await once(pool, 'remove')
  await other.query('SELECT pg_advisory_unlock_all()')
  t.ok((await booting).app.tokens.enabled)
})

t.test('every statement is prepared once for a connection, by a name that fits with the longest schema', { buffered: true }, async t => {
  const database = { ...await createDatabase(t), schema: `test_${process.pid}`.padEnd(45, 'x') }
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  t.teardown(() => database.query(`DROP SCHEMA ${database.schema} CASCADE`))
  await mkdir('.data', { recursive: true })
  const bootstrap = `.data/storage-${process.pid}.json`
  await writeFile(bootstrap, JSON.stringify([
    { name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', hash: '0'.repeat(64) }
  ]))
  t.teardown(() => rm(bootstrap))
  const { app, issue } = await buildHost(t, { database, tokens: { postgres: pool, bootstrap, purgeExpiredAfter: 0 } })
  const { token } = await issue()
  await app.inject({ url: '/api/viewer', headers: bearer(token) })
  await app.tokens.list()
  await app.tokens.metrics()
  await app.tokens.revoke('0'.repeat(64))
  const names = [
    'boot', 'claim', 'count', 'drop', 'find', 'insert', 'notify', 'page', 'purge', 'remove', 'server', 'touch'
  ].map(name => `mmc_tokens.${database.schema}.${name}`)
  const prepared = async (): Promise<string[]> => (await pool.query<{ name: string }>(
    'SELECT name FROM pg_prepared_statements'
  )).rows.map(({ name }) => name).sort()
  for (let known = await prepared(); known.length < names.length; known = await prepared()) {
    await app.inject({
      url: '/api/viewer', headers: bearer(token)
    })
  }
  t.strictSame(await prepared(), names)
  t.equal(Math.max(...names.map(name => name.length)), 63)
})

t.test('a role without rights to create anything is enough once the tables are there', async t => {
  const { database } = await buildHost(t)
  const role = `${database.schema}_app`
  await database.query(`CREATE ROLE ${role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA ${database.schema} TO ${role};
    GRANT SELECT, INSERT, DELETE, UPDATE (last_used) ON tokens TO ${role}; GRANT SELECT ON migrations TO ${role}; GRANT SELECT, UPDATE, DELETE ON events TO ${role}`)
  t.teardown(() => database.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`))
  const { app, issue } = await buildHost(t, {
    database, tokens: { postgres: { connectionString: database.url, options: `-c role=${role}` } }
  })
  const { hash } = await issue()
  t.equal(await app.tokens.revoke(hash), true)
  t.equal(await app.tokens.revoke(hash), false)
})

t.test('a pool of the host serves as well, however it parses types and whatever its time zone, and is left open', async t => {
  const { app: reference, database, issue } = await buildHost(t)
  const { token, ...record } = await issue()
  const pool = new pg.Pool({
    connectionString: database.url,
    options: '-c timezone=Asia/Kolkata -c datestyle=German',
    types: { getTypeParser: () => (value: unknown) => value as string }
  })
  t.teardown(() => pool.end())
  const { app } = await buildHost(t, { database, tokens: { postgres: pool } })
  t.strictSame(await app.tokens.list(), [record])
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  await app.close()
  t.equal(pool.ended, false)
  t.equal(pool.listenerCount('error'), 0)
  t.equal(reference.tokens.enabled, true)
})

t.test('two schemas on one pool do not meet', async t => {
  const { database: one } = await buildHost(t)
  const two = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: one.url, max: 1 })
  t.teardown(() => pool.end())
  const hosts = [await buildHost(t, { database: one, tokens: { postgres: pool } }), await buildHost(
    t, { database: two, tokens: { postgres: pool } }
  )]
  for (const { issue, app } of hosts) {
    const { token, ...record } = await issue({ name: 'same' })
    t.strictSame(await app.tokens.list(), [record])
  }
})

// At the end of the file, so that those that say "buffered" run beside each other, and all others alone.
t.jobs = 3
