import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, type Socket, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { explain } from '../../lib/store/connection.js'
import { SECRET, type TestHost, bearer, buildHost } from '../support/build-host.js'
import { type Database, createDatabase, createSeparateDatabase, databaseUrl } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { measure, measureAgain } from '../support/measure.js'
import { startPostgres } from '../support/postgres.js'
import { createProxy } from '../support/proxy.js'
import { until } from '../support/until.js'

// They wait more than they work.
t.jobs = 3

const INTERNAL = { code: 'INTERNAL_ERROR', message: 'Internal error' }

/** A server that takes connections and never says a word. */
async function silentServer (t: Test): Promise<number> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => { sockets.add(socket) }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

t.test('a Postgres that is not there at start: it is tried for 5 s, then ready() rejects with host, port and database, and no password', async t => {
  const silent = await silentServer(t)
  await Promise.all(([
    ['postgres://me:hidden@127.0.0.1:1/mmc', '127.0.0.1:1, database "mmc"', 'ECONNREFUSED'],
    ['postgres://me:hidden@localhost:1/mmc', 'localhost:1, database "mmc"', 'ECONNREFUSED'],
    [
      { host: '127.0.0.1', port: silent, database: 'mmc', user: 'me', password: 'hidden' },
      `127.0.0.1:${silent}, database "mmc"`, '5000 ms'
    ],
    [
      new pg.Pool({ host: '127.0.0.1', port: silent, database: 'mmc', user: 'me', password: 'hidden' }),
      `127.0.0.1:${silent}, database "mmc"`, '5000 ms'
    ]
  ] as const).map(async ([postgres, place, cause]) => {
    const app = Fastify()
    t.teardown(() => app.close())
    app.register(tokensPlugin, { postgres, secret: SECRET })
    const error = await app.ready().then(
      () => t.fail('must reject'), (error: Error & { code: string }) => error
    ) as Error & { code: string }
    t.equal(error.code, 'MMC_TOKENS_DATABASE', 'not Fastify\'s own time-out of 10 s')
    t.ok(error.message.startsWith(`Postgres at ${place} can't be used: `), error.message)
    t.ok(error.message.includes(cause), error.message)
    t.notOk(JSON.stringify([error.message, error.stack, error.cause]).includes('hidden'))
  }))
})

t.test('a host name with several addresses, which Node refuses without a message, is explained by its code', t => {
  const error = Object.assign(new AggregateError([]), { code: 'ECONNREFUSED' })
  t.equal(
    explain('localhost:1, database "mmc"', error).message,
    'Postgres at localhost:1, database "mmc" can\'t be used: ECONNREFUSED'
  )
  t.end()
})

t.test('one that leaves while running: 500 with the cause in the log, the rest untouched, and back without a restart', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const lines: string[] = []
  const { app, issue, login } = await buildHost(t, {
    database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  const { token, hash } = await issue({ role: 'admin' })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)

  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    await postgres.stop(signal)
    lines.length = 0
    const session = await login()
    for (const request of [
      { url: '/api/viewer', headers: bearer(token) },
      { url: `/api/viewer?token=${token}` },
      { url: '/nothing/here', headers: bearer(token) },
      { url: '/api/tokens', headers: session },
      { url: `/api/tokens/${hash}`, headers: session },
      { url: `/api/tokens/${hash}`, headers: session, method: 'DELETE' as const },
      {
        url: '/api/tokens',
        headers: session,
        method: 'POST' as const,
        payload: { name: 'x', role: 'admin', validUntil: '2999-01-01T00:00:00Z' }
      }
    ]) {
      const { result: answer, took } = await measureAgain(1000, async () => await app.inject(request))
      t.equal(answer.statusCode, 500)
      t.strictSame(answer.json(), INTERNAL)
      t.ok(took < 1000, `${took} ms`)
    }
    const errors = lines.filter(line => line.includes('application tokens: unexpected error'))
    t.ok(errors.length >= 7)
    // A connection whose end has not arrived yet fails when it is written to.
    const cause = /ENOENT|ECONNREFUSED|ECONNRESET|EPIPE|terminated|shutting down|not queryable/
    t.strictSame(errors.filter(line => !cause.test(line)), [], 'each with its cause')
    t.equal((await app.inject({ url: '/api/viewer', headers: session })).statusCode, 200)
    t.equal((await app.inject({ url: '/login' })).statusCode, 200)

    await postgres.start()
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200, 'the very next request')
  }
})

t.test('a crash of Postgres undoes no revocation and loses no token, also if synchronous_commit is off', async t => {
  const postgres = await startPostgres({ settings: ['synchronous_commit=off', 'wal_writer_delay=10s'] })
  t.teardown(() => postgres.end())
  const { app, issue } = await buildHost(t, {
    database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  })
  const revoked = await issue()
  const client = await openClient(t, postgres.url)
  client.on('error', () => {})
  await client.query('CHECKPOINT')
  const { token } = await issue()
  await app.tokens.revoke(revoked.hash)
  await postgres.stop('SIGQUIT')
  await postgres.start()
  const statusOf = async (token: string): Promise<number> =>
    (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode
  await until(async () => await statusOf(token) !== 500)
  t.strictSame([await statusOf(token), await statusOf(revoked.token)], [200, 401])
})

t.test('every call ends within a second: a pool of the host that is busy, a locked table, a locked row', async t => {
  const { app: reference, database, issue } = await buildHost(t)
  const { token, hash } = await issue({ role: 'admin' })
  t.equal(reference.tokens.enabled, true)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  const { app } = await buildHost(t, { database, tokens: { postgres: pool } })

  async function isRefusedInTime (method: 'GET' | 'DELETE' = 'GET'): Promise<void> {
    const { result: answer, took } = await measureAgain(1000, async () => await app.inject({
      method, url: `/api/tokens/${hash}`, headers: bearer(token)
    }))
    t.strictSame(answer.json(), INTERNAL)
    t.ok(took < 1000, `${took} ms`)
  }

  const busy = await pool.connect()
  await Promise.all([isRefusedInTime(), isRefusedInTime()])
  busy.release()
  t.equal(
    (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode,
    200,
    'late clients went back to the pool'
  )

  const locker = new pg.Client(database.url)
  await locker.connect()
  await locker.query(`BEGIN; LOCK TABLE ${database.schema}.tokens IN ACCESS EXCLUSIVE MODE`)
  await isRefusedInTime()
  await locker.query(`ROLLBACK; BEGIN; SELECT * FROM ${database.schema}.tokens FOR UPDATE`)
  await isRefusedInTime('DELETE')
  await locker.end()
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer((await issue()).token) })).statusCode, 200)
})

const WAYS: Record<string, (t: Test, url: string) => Promise<TokensPluginOptions['postgres']>> = {
  'a Unix socket': async (_t, url) => url,
  TCP: async (t, url) => (await createProxy(t, url)).url,
  'a pool of the host': async (t, url) => createPool(t, { connectionString: url }).pool,
  'a pool of the host that gives up by itself': async (t, url) =>
    createPool(t, { connectionString: url, query_timeout: 300 }).pool
}

for (const [way, create] of Object.entries(WAYS)) {
  t.test(`while the table is locked, calls that are over leave no backend waiting: ${way}`, async t => {
    const database = await createSeparateDatabase(t)
    const { app, issue } = await buildHost(t, { database, tokens: { postgres: await create(t, database.url) } })
    const tokens = [await issue(), await issue(), await issue()]
    const locker = await openClient(t, database.url)
    await locker.query(`BEGIN; LOCK TABLE ${database.schema}.tokens IN ACCESS EXCLUSIVE MODE`)
    const waiting = async (): Promise<number> => (await database.query(
      "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )).length
    // A busy machine may see them too late.
    for (let seen = 0; seen < 2;) {
      let most = 0
      const calls = Promise.allSettled(tokens.map(async ({ token }) => await app.tokens.authenticate(token)))
      const ended = calls.then(() => true)
      await until(async () => {
        most = Math.max(most, await waiting())
        return await Promise.race([ended, false])
      })
      t.strictSame((await calls).map(({ status }) => status), ['rejected', 'rejected', 'rejected'])
      await until(async () => await waiting() === 0)
      if (most === tokens.length) seen++
    }
    await locker.query('ROLLBACK')
    t.ok(await app.tokens.authenticate(tokens[0]?.token ?? ''))
  })
}

t.test('a frozen server: 500 within a second, and back when it thaws', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const { app, issue } = await buildHost(t, {
    database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  })
  const { token } = await issue()
  const client = new pg.Client(postgres.url)
  await client.connect()
  // A backend that starts just then would not be stopped: the plugin's last need for one is to report what was issued.
  await until(async () => (await client.query('SELECT FROM mmc_tokens.events')).rows.length === 0)
  // It first, so that it makes no others meanwhile.
  const pids = [await postgres.pid()]
  process.kill(pids[0] as number, 'SIGSTOP')
  const { rows } = await client.query<{ pid: number }>(
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
  )
  await client.end()
  for (const { pid } of rows) {
    pids.push(pid)
    process.kill(pid, 'SIGSTOP')
  }
  const { result: answer, took } = await measureAgain(1000, async () => await app.inject({
    url: '/api/viewer', headers: bearer(token)
  }))
  t.strictSame(answer.json(), INTERNAL)
  t.ok(took < 1000, `${took} ms`)
  for (const pid of pids) process.kill(pid, 'SIGCONT')
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

/** The signal handler of Postgres meets the real clock while it waits, and decides that its time has not come. */
const skip = process.env.FAKETIME !== undefined &&
  'NO TIMEOUTS: under libfaketime those of Postgres never come while it waits for a lock'

/** From now on commits wait for a standby that is not there. `ended` resolves when they don't any more. */
async function holdCommits (t: Test, operator: pg.Client, url: string): Promise<{ ended?: Promise<unknown> }> {
  const probe = await openClient(t, url)
  await probe.query("SET application_name = 'other'; CREATE TABLE probe ()")
  await operator.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
  await operator.query('SELECT pg_reload_conf()')
  // No commit waits before the checkpointer has read it, also of a session that has.
  let probing: Promise<unknown> | undefined
  await until(async () => {
    probing ??= probe.query('INSERT INTO probe DEFAULT VALUES').finally(() => { probing = undefined })
    return (await operator.query("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'")).rows.length > 0
  })
  return { ...probing && { ended: probing } }
}

t.test('a DELETE that a synchronous standby holds up stops notifications: no lease, no backend left waiting for a lock, and back when it goes on', { skip }, async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const database = { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  let failures = 0
  const stream = { write (line: string) { if (line.includes('could not write lastUsed')) failures++ } }
  const { app, issue } = await buildHost(t, { database, fastify: { logger: { level: 'warn', stream } } })
  const [{ token }, { hash }] = [await issue(), await issue()]
  const isHeld = (): boolean => app.tokens.health().lease === 'held'
  await until(isHeld)
  const [operator, other] = [await openClient(t, postgres.url), await openClient(t, postgres.url)]
  await other.query("SET application_name = 'other'")
  const probing = await holdCommits(t, operator, postgres.url)
  const deleting = other.query('DELETE FROM mmc_tokens.tokens WHERE hash = $1', [hash])
  await until(() => !isHeld())
  // The first write of `lastUsed` waits for the standby, and the second for the first.
  let looks = 0
  // Ten more looks are a second, after which what still waits would be too old.
  while (looks < 10) {
    if (failures >= 2) looks++
    const { rows } = await operator.query(`SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'
      AND application_name <> 'other' AND query_start < clock_timestamp() - interval '1.5 s'`)
    t.strictSame(rows, [])
    t.equal(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200, 'each request asks Postgres'
    )
    await sleep(100)
  }
  await operator.query('ALTER SYSTEM RESET synchronous_standby_names')
  await operator.query('SELECT pg_reload_conf()')
  await Promise.all([deleting, probing.ended])
  await until(isHeld)
})

t.test('a revocation that a synchronous standby holds up is not answered, however often it is asked for', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const database = { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  const { app, issue } = await buildHost(t, { database })
  const { hash } = await issue()
  const operator = await openClient(t, postgres.url)
  const probing = await holdCommits(t, operator, postgres.url)
  for (let n = 0; n < 3; n++) await t.rejects(app.tokens.revoke(hash), { code: 'MMC_TOKENS_DEADLINE' })
  await operator.query('ALTER SYSTEM RESET synchronous_standby_names')
  await operator.query('SELECT pg_reload_conf()')
  await probing.ended
  await until(async () => (await operator.query('SELECT FROM mmc_tokens.tokens')).rows.length === 0)
})

t.test('a server in recovery may not know of the newest revocation: 500, never a guess', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const database = { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  const lines: string[] = []
  const { app, issue } = await buildHost(t, {
    database, fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } }
  })
  const known = await issue()
  const unknown = await issue()
  await app.tokens.revoke(unknown.hash)
  await postgres.stop()
  await writeFile(`${postgres.folder}/standby.signal`, '')
  await postgres.start()
  for (const { token } of [known, unknown]) {
    lines.length = 0
    t.strictSame((await app.inject({ url: '/api/viewer', headers: bearer(token) })).json(), INTERNAL)
    t.match(JSON.parse(lines[0] ?? '{}'), {
      err: { message: /^Postgres at .* is a standby: it may not have the newest revocations$/ }
    })
  }
})

t.test('a lost connection to Postgres is a warning in the log, never the end of the process', async t => {
  const lines: string[] = []
  const database = await createDatabase(t)
  const application = database.schema
  const { app } = await buildHost(t, {
    database,
    tokens: { postgres: { connectionString: database.url, application_name: application } },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  // One that is at work just then fails its query instead, and leaves the pool empty.
  const warning = (): string | undefined => lines.find(line => line.includes('lost a connection'))
  while (warning() === undefined) {
    await app.tokens.list().catch(() => {})
    await database.query(
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()',
      [application]
    )
  }
  t.match(warning(), /"level":40.*terminating connection/)
})

t.test('the warning of a lost connection has the error of Postgres, and not the client with its secrets', async t => {
  const lines: string[] = []
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  await buildHost(t, {
    database,
    tokens: { postgres: pool },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  const find = (): string | undefined => lines.find(line => line.includes('lost a connection to Postgres'))
  // Again if a call of the plugin's has the client at that moment, and so its error.
  await until(async () => {
    const found = await pool.query<{ pid: number }>('SELECT pg_backend_pid() AS pid').catch(() => undefined)
    await database.query(
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND datname = current_database()',
      [found?.rows[0]?.pid ?? 0]
    )
    return find() !== undefined
  })
  const line = find() ?? ''
  t.match(line, /terminating connection/)
  t.notMatch(line, /"client"|secretKey/)
})

t.test('a connection that is ended in the moment it is ready is a 500, never the end of the process', async t => {
  const { database, issue } = await buildHost(t)
  const { token } = await issue()
  const proxy = await createProxy(t, database.url)
  const { app } = await buildHost(t, { database, tokens: { postgres: proxy.url } })
  proxy.set('end when ready')
  proxy.cut()
  for (let n = 0; n < 3; n++) {
    t.strictSame(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).json(), INTERNAL
    )
  }
  proxy.set('none')
  await until(async () => (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode === 200)
  t.pass('and back')
})

t.test('the kernel probes the connections to Postgres, so that one whose other end is gone is noticed', { skip: process.platform !== 'linux' && 'only Linux lists the timers of its connections' }, async t => {
  const database = await createDatabase(t)
  const { url } = await createProxy(t, database.url)
  const { app } = await buildHost(t, { database, tokens: { postgres: url } })
  await until(() => app.tokens.health().lease === 'held')
  const port = Number(new URL(url).port).toString(16).toUpperCase().padStart(4, '0')
  // Those to the port that are established (01), and what they wait for: 02 is the next probe.
  const connections = (await readFile('/proc/net/tcp', 'utf8')).split('\n').map(
    line => line.trim().split(/\s+/)
  ).filter(([, , to, state]) => to?.endsWith(`:${port}`) && state === '01')
  t.ok(connections.length >= 2, 'one of the pool and one that listens')
  t.strictSame([...new Set(connections.map(([, , , , , timer]) => timer?.slice(0, 2)))], ['02'])
})

/**
 * Stands before the server at `url` and takes each connection at once, but hands it on when `wait` resolves, which is
 * given its number; `false` ends it.
 */
async function createDoor (
  t: Test, url: string, wait: (number: number) => Promise<boolean>, onData = (_bytes: Buffer): void => {}
): Promise<string> {
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
      client.on('data', onData).pipe(upstream).pipe(client)
    }, () => {})
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return Object.assign(new URL('postgres://127.0.0.1'), {
    port: (server.address() as AddressInfo).port, username: user, password: password ?? '', pathname: database ?? ''
  }).href
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

t.test('a Postgres whose every new connection takes 2.5 s starts a host; a call never waits that long', async t => {
  const { url, schema } = await createDatabase(t)
  let isSlow = true
  const door = await createDoor(t, url, async () => { if (isSlow) await sleep(2500); return true })
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
  const [direct, never] = [await createDoor(t, url, async () => { await slow; return true }), await createDoor(
    t, url, async () => await new Promise<never>(() => {})
  )]
  const { took } = await measure(async () => {
    await t.rejects(buildHost(t, { tokens: { postgres: never, listen: direct, schema } }), {
      code: 'MMC_TOKENS_DATABASE', message: /Postgres did not answer within 5000 ms$/
    })
  })
  t.ok(took < 7500, `${took} ms, where one after the other would take 8 s`)
})

t.test('no request to cancel passes a pooler, where it may hit the statement of another client, at the start either', async t => {
  const database = await createDatabase(t)
  const { url, schema } = database
  await buildHost(t, { database })
  const other = new pg.Client(url)
  await other.connect()
  t.teardown(() => other.end())
  let [connections, requests] = [0, 0]
  const pooler = await createDoor(t, url, async number => {
    connections = number
    if (number < 3) await other.query(number === 1 ? `BEGIN; LOCK TABLE ${schema}.migrations` : 'ROLLBACK')
    return true
  }, bytes => { if (bytes.length === 16 && bytes.readInt32BE(4) === 80877102) requests++ })
  await buildHost(t, { tokens: { postgres: pooler, listen: url, schema } })
  t.ok(connections > 1, 'the first was given up')
  t.equal(requests, 0)
})

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
  t.equal(
    (await app.inject({ method: 'POST', url: '/api/tokens', headers: await login(), payload: taken })).statusCode, 409
  )
  t.strictSame((await app.tokens.metrics()).tokens, [
    { role: 'admin', state: 'active', count: 1 }, { role: 'viewer', state: 'active', count: 1 }
  ])
  t.equal((await app.inject(
    { url: '/api/tokens?unusedSince=2998-01-01T00:00:00Z&state=active&limit=1', headers: await login() }
  )).json().length, 1)
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
  t.ok((await buildHost(t, { database, tokens: { postgres: pool } })).app.tokens.enabled, 'on tables that exist')
  t.match(await until(2, 'token.revoked'), [{ name: /^token \d$/, role: /^(admin|viewer)$/, at: /^\d{4}-.*Z$/ }, {}])
})

for (const habit of ['DISCARD ALL', 'DEALLOCATE ALL']) {
  t.test(`a pool that runs ${habit} on release serves every statement, also many at once, and no connection is given up`, async t => {
    const { url, schema, query } = await createDatabase(t)
    const named: string[] = []
    class Client extends pg.Client {
      override query (...args: [never]): never {
        const { name } = args[0] as { name?: string }
        if (name !== undefined) named.push(name)
        return super.query(...args) as never
      }
    }
    const { pool, ended } = createPool(t, { connectionString: url, max: 3, Client } as pg.PoolConfig)
    pool.on('release', (error, client) => { if (!(error instanceof Error)) client.query(habit).catch(() => {}) })
    const host = await buildHost(t, { database: { url, schema, query }, tokens: { postgres: pool } })
    const tokens = await Promise.all(Array.from({ length: 9 }, async () => await host.issue()))
    for (let round = 0; round < 3; round++) {
      t.strictSame((await Promise.all(tokens.map(async ({ hash }) =>
        await host.app.tokens.get(hash)))).map(token => token?.name), tokens.map(({ name }) => name))
    }
    t.not(named.splice(0).length, 0)
    for (const { hash } of tokens) await host.app.tokens.revoke(hash)
    await useAll(t, host)
    t.equal(ended(), 0)
    t.strictSame(named, [], 'it is not prepared on again')
  })
}

t.test('a column that gets another type while hosts run changes nothing, and no connection is given up', async t => {
  const { url, schema, query } = await createDatabase(t)
  const { pool, ended } = createPool(t, { connectionString: url, max: 2 })
  const host = await buildHost(t, { database: { url, schema, query }, tokens: { postgres: pool } })
  await useAll(t, host)
  await query(
    'ALTER TABLE tokens ALTER COLUMN requested_by TYPE varchar(300), ALTER COLUMN last_used TYPE timestamptz(6)'
  )
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
  const config = (given: string | (() => string | Promise<string>)): pg.PoolConfig => ({
    host: socket, database: 'postgres', user: 'app', password: given
  })
  const ways: Array<[name: string, create: () => { postgres: TokensPluginOptions['postgres'], change: () => void }]> = [
    ['pool.options', () => {
      const { pool } = createPool(t, config(password))
      return { postgres: pool, change () { pool.options.password = password } }
    }],
    ['a function', () => ({ postgres: createPool(t, config(() => password)).pool, change () {} })],
    ['an asynchronous function', () => ({
      postgres: createPool(t, config(async () => { await turn(); return password })).pool, change () {}
    })],
    ['a function of a configuration', () => ({
      postgres: config(() => password) as TokensPluginOptions['postgres'], change () {}
    })]
  ]
  for (const [name, create] of ways) {
    const { postgres: given, change } = create()
    const { app } = await buildHost(t, {
      database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }, tokens: { postgres: given }
    })
    await until(() => app.tokens.health().lease === 'held')
    password = `${password}, then another`
    await admin.query(`ALTER ROLE app PASSWORD '${password}'`)
    change()
    await admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()")
    await until(() => app.tokens.health().lease !== 'held')
    await until(() => app.tokens.health().lease === 'held')
    t.pass(name)
    await app.close()
  }
})

t.test('a file of the connection string that is not there for a while costs the lease, and not the host', async t => {
  const { url, schema, query } = await createSeparateDatabase(t)
  const folder = await mkdtemp(join(tmpdir(), 'mmc-tokens-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const file = join(folder, 'ca.pem')
  await writeFile(file, '')
  const given = new URL(url)
  given.searchParams.set('sslrootcert', file)
  given.searchParams.set('sslmode', 'disable')
  const { app } = await buildHost(t, { database: { url, schema, query }, tokens: { postgres: given.href } })
  const isHeld = (): boolean => app.tokens.health().lease === 'held'
  await until(isHeld)
  await rm(file)
  await query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'fastify-mmc-tokens%' AND datname = current_database()"
  )
  await until(() => !isHeld())
  await sleep(500) // longer than the first pauses before it connects
  await writeFile(file, '')
  await until(isHeld)
  t.strictSame(await app.tokens.list(), [])
})

/** A database with settings of its own. */
async function createWith (t: Test, settings: Record<string, string>): Promise<Database> {
  const database = await createSeparateDatabase(t)
  const [{ name }] = await database.query('SELECT current_database() AS name') as [{ name: string }]
  for (const [setting, value] of Object.entries(settings)) {
    await database.query(
    `ALTER DATABASE ${name} SET ${setting} = '${value}'`
    )
  }
  return database
}

async function openClient (t: Test, url: string): Promise<pg.Client> {
  const client = new pg.Client(url)
  await client.connect()
  t.teardown(() => client.end())
  return client
}

for (const encoding of ['LATIN1', 'SQL_ASCII']) {
  t.test(`a database in ${encoding} rejects the start with that sentence, also with migrate: false, and stays as it was`, async t => {
    const admin = await openClient(t, await databaseUrl())
    const name = `test_${randomBytes(6).toString('hex')}`
    await admin.query(`CREATE DATABASE ${name} ENCODING '${encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`)
    t.teardown(() => admin.query(`DROP DATABASE ${name} WITH (FORCE)`))
    const url = Object.assign(new URL(await databaseUrl()), { pathname: `/${name}` }).href
    for (const migrate of [true, false]) {
      const { took } = await measure(async () => {
        await t.rejects(buildHost(
          t, { database: { url, schema: 'mmc_tokens', query: async () => [] }, tokens: { migrate } }
        ), {
          code: 'MMC_TOKENS_DATABASE',
          message: new RegExp(
            `, database "${name}" can't be used: the database has the encoding ${encoding}: create one with ENCODING 'UTF8' TEMPLATE template0$`
          )
        })
      })
      t.ok(took < 4000, `at once, not after the 5 s for which a start is tried: ${took} ms`)
    }
    const { rows } = await (await openClient(t, url)).query("SELECT to_regnamespace('mmc_tokens') AS schema")
    t.strictSame(rows.map(row => ({ ...row as object })), [{ schema: null }])
  })
}

t.test('a Postgres before version 13 rejects the start with that sentence', async t => {
  const { url } = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: url })
  t.teardown(() => pool.end())
  // Of this one nobody has a copy.
  pool.on('connect', client => {
    const query = client.query.bind(client) as (asked: object) => Promise<pg.QueryResult>
    const age = async (asked: object): Promise<object> => {
      const { rows } = await query(asked)
      return {
        rows: rows.map((row: object) =>
          'server' in row ? { ...row, server: '12.22 (Debian 12.22-1.pgdg120+1)' } : row)
      }
    }
    Object.assign(client, { query: age })
  })
  await t.rejects(buildHost(t, { tokens: { postgres: pool } }), {
    code: 'MMC_TOKENS_DATABASE', message: /can't be used: it is Postgres 12\.22 \(Debian 12\.22-1\.pgdg120\+1\): use 13 or later$/
  })
})

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
  t.strictSame((await app.inject({ url: '/api/profile', headers: bearer(token) })).json(), {
    username: 'token:Łukasz', roles: ['viewer']
  })
  t.strictSame((await app.inject({ url: `/api/tokens/${record.hash}`, headers: await login() })).json().name, 'Łukasz')
})

t.test('a node waits its turn to migrate, however short the timeouts of its role', async t => {
  const database = await createWith(t, {
    lock_timeout: '50ms', statement_timeout: '60ms', idle_in_transaction_session_timeout: '70ms'
  })
  const other = await openClient(t, database.url)
  await other.query("SET idle_session_timeout = 0; SELECT pg_advisory_lock(hashtext('mmc_tokens.mmc_tokens'))")
  const boot = { isOver: false }
  const booting = buildHost(t, { database }).finally(() => { boot.isOver = true })
  booting.catch(() => {})
  const hasWaited = async (): Promise<boolean> => (await database.query(
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory' AND query_start < clock_timestamp() - interval '200 ms'"
  )).length > 0
  await until(async () => boot.isOver || await hasWaited())
  t.equal(boot.isOver, false)
  await other.query('SELECT pg_advisory_unlock_all()')
  t.ok((await booting).app.tokens.enabled)
})

t.test('a node far from Postgres migrates, however short the timeouts of its role', async t => {
  const database = await createWith(t, { idle_in_transaction_session_timeout: '50ms' })
  const proxy = await createProxy(t, database.url)
  proxy.delay(100)
  t.ok((await buildHost(t, { database, tokens: { postgres: proxy.url } })).app.tokens.enabled)
})

t.test('a row that is locked for longer than the timeouts of the role is waited for within the deadline', { skip }, async t => {
  for (const setting of ['lock_timeout', 'statement_timeout']) {
    const database = await createWith(t, { [setting]: '40ms' })
    const host = await buildHost(t, { database })
    const other = await openClient(t, database.url)
    t.equal(await deleteBlocked(
      host, database, other, { block: 'SELECT * FROM mmc_tokens.tokens FOR UPDATE', tries: 2, end: 'ROLLBACK' }
    ), 204, setting)
  }
})

interface Block {
  /** A statement that locks the rows of all tokens. */
  block: string
  /** How many tries of the DELETE must have met the lock before it is released. */
  tries: number
  end: 'COMMIT' | 'ROLLBACK'
}

/**
 * The status of a DELETE that a lock holds up. Repeated where a busy machine let its deadline pass before the lock was
 * released.
 */
async function deleteBlocked (
  { app, issue, login }: TestHost, database: Database, other: pg.Client, { block, tries, end }: Block
): Promise<number> {
  const headers = { ...await login(), prefer: 'return=minimal' }
  for (;;) {
    const { hash } = await issue()
    await other.query(`BEGIN; ${block}`)
    const begun = performance.now()
    const answer = { took: Infinity }
    const deleting = app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers }).finally(
      () => { answer.took = performance.now() - begun }
    )
    const seen = new Set<unknown>()
    while (answer.took === Infinity && seen.size < tries) {
      for (const { begun } of await database.query(
        "SELECT query_start::text AS begun FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
      )) seen.add(begun)
    }
    await other.query(end)
    const { statusCode } = await deleting
    // One that gives up before its deadline was not held up.
    if (statusCode !== 500 || answer.took < 800) return statusCode
  }
}

t.test('a server that ends idle sessions does not end the one that listens, and those of the pool are not logged', async t => {
  const lines: string[] = []
  const database = await createWith(t, { idle_session_timeout: '200ms' })
  const { app } = await buildHost(t, {
    database, fastify: { logger: { level: 'warn', stream: { write (line: string) { lines.push(line) } } } }
  })
  await until(() => app.tokens.health().lease === 'held')
  const listens = async (): Promise<boolean> =>
    (await database.query(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'fastify-mmc-tokens listener' AND clock_timestamp() - backend_start > interval '2 s'"
    )).length > 0
  // One that lost its lease on a busy machine listens anew.
  const told = (): string[] => lines.filter(line => /idle|lost a connection/.test(line))
  await until(async () => told().length > 0 || (await listens() && app.tokens.health().lease === 'held'))
  t.strictSame(told(), [])
})

t.test('permanent errors are not retried: a database that does not exist, a role without privileges', async t => {
  const { url, schema, query } = await createDatabase(t)
  await query(`CREATE ROLE ${schema}`)
  t.teardown(() => query(`DROP ROLE ${schema}`))
  const nowhere = Object.assign(new URL(url), { pathname: '/nowhere' }).href
  for (const [postgres, message] of [[nowhere, /database "nowhere" does not exist; /], [
    { connectionString: url, options: `-c role=${schema}` }, /permission denied/
  ]] as const) {
    const { took } = await measure(
      async () => { await t.rejects(buildHost(t, { tokens: { postgres } }), { code: 'MMC_TOKENS_DATABASE', message }) }
    )
    t.ok(took < 4000, `at once, not after the 5 s for which a start is tried: ${took} ms`)
  }
})

const ISOLATIONS = ['repeatable read', 'serializable'] as const
/** How often so many nodes boot at once; more of it by `BOOT_ROUNDS=20`. */
const ROUNDS = Number(process.env.BOOT_ROUNDS ?? 2)

async function createDefaulting (t: Test, isolation: string): Promise<Database> {
  const database = await createSeparateDatabase(t)
  const [{ name }] = await database.query('SELECT current_database() AS name') as [{ name: string }]
  await database.query(`ALTER DATABASE ${name} SET default_transaction_isolation = '${isolation}'`)
  return database
}

for (const isolation of ISOLATIONS) {
  for (const nodes of [2, 3, 6]) {
    t.test(`${nodes} nodes boot at once on an empty database whose default isolation is ${isolation}`, async t => {
      const database = await createDefaulting(t, isolation)
      let rejected = 0
      for (let round = 0; round < ROUNDS; round++) {
        await database.query('DROP SCHEMA IF EXISTS mmc_tokens CASCADE')
        const booted = await Promise.allSettled(Array.from({ length: nodes }, async () =>
          await buildHost(t, { database })))
        for (const boot of booted) {
          if (boot.status === 'rejected') rejected++
          else await boot.value.app.close()
        }
      }
      t.comment(`${ROUNDS} rounds, ${rejected} of ${ROUNDS * nodes} rejected`)
      t.equal(rejected, 0)
    })
  }

  t.test(`of many who create a token of one name at once, exactly one gets 200 and all others 409: ${isolation}`, async t => {
    const database = await createDefaulting(t, isolation)
    const hosts = [await buildHost(t, { database }), await buildHost(t, { database })]
    const sessions = await Promise.all(hosts.map(async ({ login }) => await login()))
    for (let round = 0; round < 20; round++) {
      const answers = await Promise.all(Array.from({ length: 8 }, async (_, n) => await hosts[n % 2]?.app.inject({
        method: 'POST',
        url: '/api/tokens',
        headers: { ...sessions[n % 2] },
        payload: {
          name: `name ${round}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z'
        }
      })))
      t.strictSame(answers.map(answer => answer?.statusCode).sort(), [200, 409, 409, 409, 409, 409, 409, 409])
    }
  })

  t.test(`a DELETE beside a change of its row is done when that is: ${isolation}`, async t => {
    const database = await createDefaulting(t, isolation)
    const host = await buildHost(t, { database })
    const other = await openClient(t, database.url)
    t.equal(await deleteBlocked(
      host, database, other, { block: "UPDATE mmc_tokens.tokens SET role = 'editor'", tries: 1, end: 'COMMIT' }
    ), 204)
  })
}
