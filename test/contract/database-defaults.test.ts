import { randomBytes } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase, type Database, databaseUrl } from '../support/database.js'

/** A database with settings of its own. */
async function createWith (t: Test, settings: Record<string, string>): Promise<Database> {
  const database = await createSeparateDatabase(t)
  const [{ name }] = await database.query('SELECT current_database() AS name') as [{ name: string }]
  for (const [setting, value] of Object.entries(settings)) await database.query(`ALTER DATABASE ${name} SET ${setting} = '${value}'`)
  return database
}

async function connect (t: Test, url: string): Promise<pg.Client> {
  const client = new pg.Client(url)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

for (const encoding of ['LATIN1', 'SQL_ASCII']) {
  t.test(`a database in ${encoding} rejects the start with that sentence, also with migrate: false, and stays as it was`, async t => {
    const admin = await connect(t, await databaseUrl())
    const name = `test_${randomBytes(6).toString('hex')}`
    await admin.query(`CREATE DATABASE ${name} ENCODING '${encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`)
    t.teardown(() => admin.query(`DROP DATABASE ${name} WITH (FORCE)`))
    const url = Object.assign(new URL(await databaseUrl()), { pathname: `/${name}` }).href
    for (const migrate of [true, false]) {
      const started = performance.now()
      await t.rejects(buildHost(t, { database: { url, schema: 'mmc_tokens', query: async () => [] }, tokens: { migrate } }), {
        code: 'MMC_TOKENS_DATABASE',
        message: new RegExp(`, database "${name}" can't be used: the database has the encoding ${encoding}: create one with ENCODING 'UTF8' TEMPLATE template0$`)
      })
      t.ok(performance.now() - started < 4000, 'at once')
    }
    const { rows } = await (await connect(t, url)).query("SELECT to_regnamespace('mmc_tokens') AS schema")
    t.strictSame(rows.map(row => ({ ...row as object })), [{ schema: null }])
  })
}

t.test('time zone, date style and other habits of a database change nothing', async t => {
  const { app, issue, login } = await buildHost(t, {
    database: await createWith(t, {
      timezone: 'Asia/Kolkata',
      datestyle: 'German, DMY',
      intervalstyle: 'sql_standard',
      standard_conforming_strings: 'off',
      client_encoding: 'LATIN1',
      extra_float_digits: '-15',
      search_path: 'nowhere',
      default_transaction_deferrable: 'on'
    })
  })
  const { token, ...record } = await issue({ name: 'Łukasz', validUntil: '2099-03-04T05:06:07Z' })
  t.strictSame(await app.tokens.list(), [record])
  t.match(record, { name: 'Łukasz', validUntil: '2099-03-04T05:06:07.000Z' })
  t.strictSame((await app.inject({ url: '/api/profile', headers: bearer(token) })).json(), { username: 'token:Łukasz', roles: ['viewer'] })
  t.strictSame((await app.inject({ url: `/api/tokens/${record.hash}`, headers: await login() })).json().name, 'Łukasz')
})

t.test('a node waits its turn to migrate, however short the timeouts of its role', async t => {
  const database = await createWith(t, { lock_timeout: '50ms', statement_timeout: '60ms', idle_in_transaction_session_timeout: '70ms' })
  const other = await connect(t, database.url)
  await other.query("SET idle_session_timeout = 0; SELECT pg_advisory_lock(hashtext('mmc_tokens.mmc_tokens'))")
  const boot = { isOver: false }
  const booting = buildHost(t, { database }).finally(() => { boot.isOver = true })
  booting.catch(() => {})
  const hasWaited = async (): Promise<boolean> => (await database.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND query_start < clock_timestamp() - interval '200 ms'")).length > 0
  while (!boot.isOver && !await hasWaited()) await turn()
  t.equal(boot.isOver, false)
  await other.query('SELECT pg_advisory_unlock_all()')
  t.ok((await booting).app.tokens.enabled)
})

t.test('a row that is locked for longer than the timeouts of the role is waited for within the deadline', async t => {
  for (const setting of ['lock_timeout', 'statement_timeout']) {
    const database = await createWith(t, { [setting]: '40ms' })
    const { app, issue, login } = await buildHost(t, { database })
    const { hash } = await issue()
    const headers = await login()
    const other = await connect(t, database.url)
    await other.query('BEGIN; SELECT * FROM mmc_tokens.tokens FOR UPDATE')
    const deleting = app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    const answer = { isOver: false }
    deleting.then(() => { answer.isOver = true }, () => {})
    const tries = new Set<unknown>()
    while (!answer.isOver && tries.size < 2) {
      for (const { begun } of await database.query("SELECT query_start::text AS begun FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")) tries.add(begun)
    }
    await other.query('ROLLBACK')
    t.equal((await deleting).body, '[]', setting)
  }
})

t.test('a server that ends idle sessions does not end the one that listens, and nobody is told of those of the pool', async t => {
  const lines: string[] = []
  const database = await createWith(t, { idle_session_timeout: '200ms' })
  const { app } = await buildHost(t, { database, fastify: { logger: { level: 'warn', stream: { write (line: string) { lines.push(line) } } } } })
  while (app.tokens.health().lease !== 'held') await turn()
  const listens = async (): Promise<boolean> =>
    (await database.query("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'fastify-mmc-tokens listener' AND clock_timestamp() - backend_start > interval '2 s'")).length > 0
  while (lines.length === 0 && !await listens()) await turn()
  t.strictSame(lines, [])
  t.equal(app.tokens.health().lease, 'held')
})

t.test('what is no matter of time is not tried again: a database that is not there, a role without rights', async t => {
  const { url, schema, query } = await createDatabase(t)
  await query(`CREATE ROLE ${schema}`)
  t.teardown(() => query(`DROP ROLE ${schema}`))
  const started = performance.now()
  const nowhere = Object.assign(new URL(url), { pathname: '/nowhere' }).href
  await t.rejects(buildHost(t, { tokens: { postgres: nowhere } }), { code: 'MMC_TOKENS_DATABASE', message: /database "nowhere" does not exist$/ })
  await t.rejects(buildHost(t, { tokens: { postgres: { connectionString: url, options: `-c role=${schema}` } } }), { code: 'MMC_TOKENS_DATABASE', message: /permission denied/ })
  t.ok(performance.now() - started < 4000)
})
