import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { explain } from '../../lib/store/connection.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { measure } from '../support/measure.js'
import { createProxy } from '../support/proxy.js'
import { startPostgres } from '../support/postgres.js'

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

t.test('a Postgres that is not there at start: ready() rejects within 5 s with host, port and database, and no password', async t => {
  const silent = await silentServer(t)
  for (const [postgres, place, cause] of [
    ['postgres://me:hidden@127.0.0.1:1/mmc', '127.0.0.1:1, database "mmc"', 'ECONNREFUSED'],
    ['postgres://me:hidden@localhost:1/mmc', 'localhost:1, database "mmc"', 'ECONNREFUSED'],
    [{ host: '127.0.0.1', port: silent, database: 'mmc', user: 'me', password: 'hidden' }, `127.0.0.1:${silent}, database "mmc"`, '900 ms'],
    [new pg.Pool({ host: '127.0.0.1', port: silent, database: 'mmc', user: 'me', password: 'hidden' }), `127.0.0.1:${silent}, database "mmc"`, '900 ms']
  ] as const) {
    const app = Fastify()
    t.teardown(() => app.close())
    app.register(tokensPlugin, { postgres, secret: SECRET })
    const error = await app.ready().then(() => t.fail('must reject'), (error: Error & { code: string }) => error) as Error & { code: string }
    t.equal(error.code, 'MMC_TOKENS_DATABASE', 'not Fastify\'s own time-out of 10 s')
    t.ok(error.message.startsWith(`Postgres at ${place} can't be used: `), error.message)
    t.ok(error.message.includes(cause), error.message)
    t.notOk(JSON.stringify([error.message, error.stack, error.cause]).includes('hidden'))
  }
})

t.test('a host name with several addresses, which Node refuses without a message, is explained by its code', t => {
  const error = Object.assign(new AggregateError([]), { code: 'ECONNREFUSED' })
  t.equal(explain('localhost:1, database "mmc"', error).message, 'Postgres at localhost:1, database "mmc" can\'t be used: ECONNREFUSED')
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
      { url: '/api/tokens', headers: session, method: 'POST' as const, payload: { name: 'x', role: 'admin', validUntil: '2999-01-01T00:00:00Z' } }
    ]) {
      const { result: answer, took } = await measure(async () => await app.inject(request))
      t.equal(answer.statusCode, 500)
      t.strictSame(answer.json(), INTERNAL)
      t.ok(took < 1000, `${took} ms`)
    }
    t.ok(lines.filter(line => /application tokens: unexpected error.*/.test(line) && /ENOENT|ECONNREFUSED|terminated|shutting down/.test(line)).length >= 7, 'each with its cause')
    t.equal((await app.inject({ url: '/api/viewer', headers: session })).statusCode, 200)
    t.equal((await app.inject({ url: '/login' })).statusCode, 200)

    await postgres.start()
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200, 'the very next request')
  }
})

t.test('every call ends within a second: a pool of the host that is busy, a locked table, a locked row', async t => {
  const { app: reference, database, issue } = await buildHost(t)
  const { token, hash } = await issue({ role: 'admin' })
  t.equal(reference.tokens.enabled, true)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  const { app } = await buildHost(t, { database, tokens: { postgres: pool } })

  async function isRefusedInTime (method: 'GET' | 'DELETE' = 'GET'): Promise<void> {
    const { result: answer, took } = await measure(async () => await app.inject({ method, url: `/api/tokens/${hash}`, headers: bearer(token) }))
    t.strictSame(answer.json(), INTERNAL)
    t.ok(took < 1000, `${took} ms`)
  }

  const busy = await pool.connect()
  await Promise.all([isRefusedInTime(), isRefusedInTime()])
  busy.release()
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200, 'late clients went back to the pool')

  const locker = new pg.Client(database.url)
  await locker.connect()
  await locker.query(`BEGIN; LOCK TABLE ${database.schema}.tokens IN ACCESS EXCLUSIVE MODE`)
  await isRefusedInTime()
  await locker.query(`ROLLBACK; BEGIN; SELECT * FROM ${database.schema}.tokens FOR UPDATE`)
  await isRefusedInTime('DELETE')
  await locker.end()
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer((await issue()).token) })).statusCode, 200)
})

t.test('a frozen server: 500 within a second, and back when it thaws', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const { app, issue } = await buildHost(t, { database: { url: postgres.url, schema: 'mmc_tokens', query: async () => [] } })
  const { token } = await issue()
  const client = new pg.Client(postgres.url)
  await client.connect()
  // It first, so that it makes no others meanwhile.
  const pids = [await postgres.pid()]
  process.kill(pids[0] as number, 'SIGSTOP')
  const { rows } = await client.query<{ pid: number }>("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
  await client.end()
  for (const { pid } of rows) {
    pids.push(pid)
    process.kill(pid, 'SIGSTOP')
  }
  const { result: answer, took } = await measure(async () => await app.inject({ url: '/api/viewer', headers: bearer(token) }))
  t.strictSame(answer.json(), INTERNAL)
  t.ok(took < 1000, `${took} ms`)
  for (const pid of pids) process.kill(pid, 'SIGCONT')
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test('a server in recovery may not know of the newest revocation: 500, never a guess', async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const database = { url: postgres.url, schema: 'mmc_tokens', query: async () => [] }
  const lines: string[] = []
  const { app, issue } = await buildHost(t, { database, fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } } })
  const known = await issue()
  const unknown = await issue()
  await app.tokens.revoke(unknown.hash)
  await postgres.stop()
  await writeFile(`${postgres.folder}/standby.signal`, '')
  await postgres.start()
  for (const { token } of [known, unknown]) {
    lines.length = 0
    t.strictSame((await app.inject({ url: '/api/viewer', headers: bearer(token) })).json(), INTERNAL)
    t.match(JSON.parse(lines[0] ?? '{}'), { err: { message: /^Postgres at .* is a standby: it may not know of the newest tokens and revocations$/ } })
  }
})

t.test('a lost connection to Postgres is a warning in the log, never the end of the process', async t => {
  const lines: string[] = []
  const database = await createDatabase(t)
  const application = database.schema
  await buildHost(t, {
    database,
    tokens: { postgres: { connectionString: database.url, application_name: application } },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  // One that is at work just then, as with a heartbeat, is told of in other words.
  const warning = (): string | undefined => lines.find(line => line.includes('lost a connection'))
  while (warning() === undefined) await database.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1', [application])
  t.match(warning(), /"level":40.*terminating connection/)
})

t.test('a connection that is ended in the moment it is ready is a 500, never the end of the process', async t => {
  const { database, issue } = await buildHost(t)
  const { token } = await issue()
  const proxy = await createProxy(t, database.url)
  const { app } = await buildHost(t, { database, tokens: { postgres: proxy.url } })
  proxy.set('end when ready')
  proxy.cut()
  for (let n = 0; n < 3; n++) t.strictSame((await app.inject({ url: '/api/viewer', headers: bearer(token) })).json(), INTERNAL)
  proxy.set('none')
  while ((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode !== 200);
  t.pass('and back')
})
