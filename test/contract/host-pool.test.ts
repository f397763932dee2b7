import { appendFile, readFile, writeFile } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { TokensPluginOptions } from '../../lib/index.js'
import { bearer, buildHost, type TestHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { startPostgres } from '../support/postgres.js'

function createPool (t: Test, config: pg.PoolConfig): { pool: pg.Pool, ended: () => number } {
  const pool = new pg.Pool(config)
  let ended = 0
  pool.on('error', () => {}).on('remove', () => { ended++ })
  t.teardown(() => pool.end())
  return { pool, ended: () => ended }
}

/** Each statement of the plugin's, with the answers that it must have. */
async function useAll (t: Test, { app, issue, login }: TestHost): Promise<void> {
  const { token, ...record } = await issue()
  const { hash: second } = await issue({ role: 'admin' })
  t.strictSame((await app.tokens.list())[0], record)
  t.strictSame(await app.tokens.get(record.hash), record)
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  const taken = { name: record.name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  t.equal((await app.inject({ method: 'POST', url: '/api/tokens', headers: await login(), payload: taken })).statusCode, 409)
  t.strictSame((await app.tokens.metrics()).tokens, [{ role: 'admin', state: 'active', count: 1 }, { role: 'viewer', state: 'active', count: 1 }])
  t.equal((await app.inject({ url: '/api/tokens?unusedSince=2998-01-01T00:00:00Z&state=active&limit=1', headers: await login() })).json().length, 1)
  t.equal(await app.tokens.revoke(second), true)
  t.equal(await app.tokens.revoke(record.hash), true)
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
}

t.test('a pool with binary results serves every statement, the start and the events among them', async t => {
  const { url, schema, query } = await createDatabase(t)
  const { pool } = createPool(t, { connectionString: url, binary: true } as pg.PoolConfig)
  const { onEvent, until } = collectEvents()
  const database = { url, schema, query }
  const host = await buildHost(t, { database, tokens: { postgres: pool, onEvent } })
  await useAll(t, host)
  t.match(await until(2, 'token.revoked'), [{ name: /^token \d$/, role: /^(admin|viewer)$/, at: /^\d{4}-.*Z$/ }, {}])
})

for (const habit of ['DISCARD ALL', 'DEALLOCATE ALL']) {
  t.test(`a pool that runs ${habit} on release serves every statement, also many at once, and no connection is given up`, async t => {
    const { url, schema, query } = await createDatabase(t)
    const { pool, ended } = createPool(t, { connectionString: url, max: 3 })
    pool.on('release', (error, client) => { if (!(error instanceof Error)) client.query(habit).catch(() => {}) })
    const host = await buildHost(t, { database: { url, schema, query }, tokens: { postgres: pool } })
    const tokens = await Promise.all(Array.from({ length: 9 }, async () => await host.issue()))
    for (let round = 0; round < 3; round++) {
      t.strictSame((await Promise.all(tokens.map(async ({ hash }) => await host.app.tokens.get(hash)))).map(token => token?.name), tokens.map(({ name }) => name))
    }
    for (const { hash } of tokens) await host.app.tokens.revoke(hash)
    await useAll(t, host)
    t.equal(ended(), 0)
    const { rows } = await pool.query("SELECT name FROM pg_prepared_statements WHERE name LIKE 'mmc_tokens%'")
    t.strictSame(rows, [], 'it is not prepared on again')
  })
}

t.test('a column that gets another type while hosts run changes nothing, and no connection is given up', async t => {
  const { url, schema, query } = await createDatabase(t)
  const { pool, ended } = createPool(t, { connectionString: url, max: 2 })
  const host = await buildHost(t, { database: { url, schema, query }, tokens: { postgres: pool } })
  await useAll(t, host)
  await query('ALTER TABLE tokens ALTER COLUMN requested_by TYPE varchar(300), ALTER COLUMN last_used TYPE timestamptz(6)')
  await useAll(t, host)
  t.equal(ended(), 0)
})

t.test('a password that the host changes, in the options of its pool or by a function, is that of the listener, too', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const admin = new pg.Client(postgres.url)
  await admin.connect()
  t.teardown(() => admin.end())
  await admin.query("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'first'")
  const file = `${postgres.folder}/pg_hba.conf`
  const trust = await readFile(file, 'utf8')
  await writeFile(file, 'local all app scram-sha-256\n')
  await appendFile(file, trust)
  await admin.query('SELECT pg_reload_conf()')
  const socket = new URL(postgres.url).searchParams.get('host') ?? ''
  let password = 'first'
  const config = (given: string | (() => string | Promise<string>)): pg.PoolConfig => ({ host: socket, database: 'postgres', user: 'app', password: given })
  const ways: Array<[name: string, create: () => { postgres: TokensPluginOptions['postgres'], change: () => void }]> = [
    ['pool.options', () => {
      const { pool } = createPool(t, config(password))
      return { postgres: pool, change () { pool.options.password = password } }
    }],
    ['a function', () => ({ postgres: createPool(t, config(() => password)).pool, change () {} })],
    ['an asynchronous function', () => ({ postgres: createPool(t, config(async () => { await turn(); return password })).pool, change () {} })],
    ['a function of a configuration', () => ({ postgres: config(() => password) as TokensPluginOptions['postgres'], change () {} })]
  ]
  for (const [name, create] of ways) {
    const { postgres: given, change } = create()
    const { app } = await buildHost(t, { database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }, tokens: { postgres: given } })
    while (app.tokens.health().lease !== 'held') await turn()
    password = `${password}, then another`
    await admin.query(`ALTER ROLE app PASSWORD '${password}'`)
    change()
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    while (app.tokens.health().lease === 'held') await turn()
    const begun = performance.now()
    while (app.tokens.health().lease === 'lost' && performance.now() - begun < 10_000) await turn()
    t.equal(app.tokens.health().lease, 'held', name)
    await app.close()
  }
})
