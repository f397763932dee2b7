import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Connection, createConnection, explain } from '../../lib/store/connection.js'
import { closeByDeadline } from '../../lib/store/deadline.js'
import type { Log, PostgresPool } from '../../lib/types.js'
import { databaseUrl } from '../support/database.js'
import { holdTimers } from '../support/timers.js'
import { until } from '../support/until.js'

class Client extends EventEmitter {
  readonly asked: Array<{ text: string, types: { getTypeParser: () => (value: string) => unknown } }> = []
  readonly released: unknown[] = []
  async query (query: Client['asked'][number]): Promise<{ rows: unknown[] }> {
    this.asked.push(query)
    return { rows: ['a row'] }
  }

  release (isBroken?: unknown): void { this.released.push(isBroken) }
}

interface Lent {
  pool: EventEmitter
  connection: Connection
  /** Hands out a client, or an error. */
  lend: (error: Error | undefined, client?: Client) => void
  /** Lets time pass, in milliseconds. */
  pass: (milliseconds: number) => void
  warnings: unknown[][]
}

/** A way to Postgres through a pool and by a clock in our hands. */
function create (t: Test): Lent {
  const pass = holdTimers(t, 'setTimeout')
  const warnings: unknown[][] = []
  let lend: Lent['lend'] = () => {}
  const pool = Object.assign(new EventEmitter(), {
    options: {
      host: 'db.example', port: 5433, database: 'mmc', user: 'me'
    },
    totalCount: 0,
    connect (answer: Lent['lend']) { lend = answer }
  })
  Object.defineProperty(pool.options, 'password', { value: 'hidden', enumerable: false })
  const log = { warn: (...words: unknown[]) => { warnings.push(words) } } as unknown as Log
  const connection = createConnection(pool as unknown as PostgresPool, log)
  return { pool, connection, lend: (error, client) => { lend(error, client) }, pass, warnings }
}

t.test('work gets a client, whose values come as Postgres writes them, and gives it back sound', async t => {
  const { connection, lend, pass } = create(t)
  const client = new Client()
  const working = connection.withClient(async run => {
    t.equal(client.listenerCount('error'), 1, 'a connection that ends meanwhile does not end the process')
    client.emit('error', new Error('lost'))
    return await run({ text: 'SELECT 1' })
  })
  lend(undefined, client)
  t.strictSame(await working, ['a row'])
  t.strictSame([client.released, client.listenerCount('error')], [[false], 0])
  t.match(client.asked, [{ text: 'SELECT 1' }])
  t.equal(client.asked[0]?.types.getTypeParser()('1'), '1')
  pass(60_000)
  t.strictSame(client.released, [false], 'and has no more to do with it')
})

t.test('a client that met an error is closed, and a pool that has none says why', async t => {
  const { connection, lend } = create(t)
  const client = new Client()
  const working = connection.withClient(async () => { throw new Error('broken') })
  lend(undefined, client)
  await t.rejects(working, { message: 'broken' })
  t.strictSame(client.released, [true])
  const asking = connection.withClient(async () => t.fail('no client'))
  lend(new Error('refused'))
  await t.rejects(asking, { message: 'refused' })
})

t.test('when time is up the caller hears so; a client at work is closed, one that comes later goes back unused', async t => {
  const { connection, lend, pass } = create(t)
  const client = new Client()
  let finish = (): void => {}
  const working = connection.withClient(async () => { await new Promise<void>(resolve => { finish = resolve }) })
  lend(undefined, client)
  pass(899)
  t.strictSame(client.released, [])
  pass(1)
  await t.rejects(working, { code: 'MMC_TOKENS_DEADLINE', message: 'Postgres did not answer within 900 ms' })
  t.strictSame(client.released, [true])
  finish()
  await turn()
  t.strictSame(client.released, [true], 'released once')

  const late = new Client()
  const waiting = connection.withClient(async () => t.fail('too late'))
  pass(900)
  await t.rejects(waiting, { code: 'MMC_TOKENS_DEADLINE' })
  lend(undefined, late)
  t.equal(late.listenerCount('error'), 1)
  await turn()
  t.strictSame([late.released, late.listenerCount('error')], [[undefined], 0])
})

t.test('an answer that came while the process was busy counts, though its time is up before it is read', async t => {
  const connection = createConnection(await databaseUrl(), {} as Log)
  const SELECT = { text: 'SELECT 1 AS one' }
  await connection.withClient(async run => await run(SELECT), 60_000)
  const askWhileBusy = async (): Promise<unknown> => await connection.withClient(async run => {
    const answer = run(SELECT)
    // pg has sent it then.
    await turn()
    for (const busyUntil = performance.now() + 500; performance.now() < busyUntil;);
    return await answer
  }, 400).catch((error: unknown) => error)
  let answer = await askWhileBusy()
  // Postgres itself may not have had its turn.
  for (let tries = 1; tries < 5 && answer instanceof Error; tries++) answer = await askWhileBusy()
  t.match(answer, [{ one: '1' }])
  await connection.close()
})

t.test('a pool of the host stays its own: its target and type are known, its lost connections are reported, the plugin does not end it', async t => {
  const { pool, connection, warnings } = create(t)
  t.equal(connection.target, 'db.example:5433, database "mmc"')
  t.match(connection.config, { host: 'db.example', port: 5433, database: 'mmc', user: 'me', password: 'hidden' })
  const error = new Error('terminated')
  pool.emit('error', error)
  t.strictSame(warnings, [[{ err: error }, 'lost a connection to Postgres at db.example:5433, database "mmc"']])
  await connection.close()
  t.equal(pool.listenerCount('error'), 0)
})

t.test('a pool of ours says who it is, is set as the configuration says, and is ended', async t => {
  const url = await databaseUrl()
  const other = new pg.Client(url)
  await other.connect()
  t.teardown(() => other.end())
  for (const [postgres, max] of [[url, 10], [{ connectionString: url, max: 3, idleTimeoutMillis: 0 }, 3]] as const) {
    const connection = createConnection(postgres, {} as Log)
    t.strictSame(connection.config, typeof postgres === 'string' ? { connectionString: postgres } : postgres)
    const pids = new Set<string>()
    const names = new Set<string>()
    await Promise.all(Array.from({ length: 12 }, async () => await connection.withClient(async run => {
      const [row] = await run<{ pid: string, name: string }>({
        text: "SELECT pg_backend_pid() AS pid, current_setting('application_name') AS name"
      })
      pids.add(String(row?.pid))
      names.add(String(row?.name))
    }, 30_000)))
    t.strictSame([[...names], pids.size <= max], [['fastify-mmc-tokens'], true])
    await connection.close()
    await until(async () => (await other.query(
      'SELECT FROM pg_stat_activity WHERE pid = ANY ($1)', [[...pids]]
    )).rows.length === 0)
  }
})

t.test('its place is told without its password', t => {
  for (const postgres of [
    'postgres://me:secret@db.example:5433/mmc', { host: 'db.example', port: 5433, database: 'mmc', user: 'me' }
  ]) {
    t.equal(createConnection(postgres, {} as Log).target, 'db.example:5433, database "mmc"')
  }
  t.equal(createConnection({ host: 'db.example', port: 1, user: 'me' }, {} as Log).target, 'db.example:1, database "me"')
  t.intercept(pg.defaults, 'user', { value: undefined })
  t.match(
    createConnection({ host: 'db.example', port: 1 }, {} as Log).target,
    /^db\.example:1, database ./,
    'nobody says which'
  )
  t.throws(() => createConnection('postgres://db.example/mmc?sslrootcert=/nowhere/ca.pem', {} as Log), {
    code: 'MMC_TOKENS_INVALID_OPTION', message: 'option "postgres" or "listen" names the file /nowhere/ca.pem, which can\'t be read'
  })
  t.throws(() =>
    createConnection(
      'postgres://me:a/b@db.example/mmc', {} as Log
    ), { code: 'MMC_TOKENS_INVALID_OPTION', message: /^option "postgres" or "listen" is not a connection string that pg can read: write postgres:\/\// })
  t.end()
})

t.test('a pool whose connect throws costs a call, and nothing is left waiting', async t => {
  const pool = new pg.Pool({ connectionString: await databaseUrl() })
  t.teardown(() => pool.end())
  const connect = pool.connect.bind(pool) as typeof pool.connect
  const { withClient } = createConnection(pool, {} as Log)
  const one = async (): Promise<unknown> => await withClient(async run => await run({ text: 'SELECT 1::text AS one' }))
  // As pg does for a file of `sslrootcert` that is not there.
  pool.connect = () => { throw new Error('ENOENT') }
  for (let n = 0; n < 10_001; n++) await one().catch(({ message }: Error) => { if (message !== 'ENOENT') t.fail(message) })
  pool.connect = connect
  t.strictSame(await one(), [{ one: '1' }])
})

type Answer = (error: unknown, client?: pg.PoolClient) => void

const PROMISES: Record<string, (lent: Promise<pg.PoolClient>, answer: Answer) => Promise<pg.PoolClient>> = {
  'instead of the callback': async lent => await lent,
  'beside the callback' (lent, answer) {
    lent.then(client => { answer(undefined, client) }, answer)
    return lent
  }
}

for (const [when, connect] of Object.entries(PROMISES)) {
  t.test(`a pool of the host whose connect returns a promise ${when} serves as any other, and its errors are known`, async t => {
    const pool = new pg.Pool({ connectionString: await databaseUrl(), max: 1 })
    const lend = pool.connect.bind(pool) as () => Promise<pg.PoolClient>
    const { withClient } = createConnection(
      Object.assign(pool, { connect: (answer: Answer) => connect(lend(), answer) }) as PostgresPool, {} as Log
    )
    const one = async (): Promise<unknown> => await withClient(async run => await run({ text: 'SELECT 1::text AS one' }))
    for (let n = 0; n < 3; n++) t.strictSame([await one(), pool.totalCount, pool.idleCount], [[{ one: '1' }], 1, 1])
    await pool.end()
    await t.rejects(one(), { message: /after calling end/ })
  })
}

t.test('closing waits for the connection to end, for a second at most', async t => {
  const { pass, warnings } = create(t)
  const log = { warn: (...words: unknown[]) => { warnings.push(words) } } as unknown as Log
  await closeByDeadline(Promise.resolve(), log)
  pass(60_000)
  t.strictSame(warnings, [])
  let isOver = false
  const closing = closeByDeadline(new Promise(() => {}), log).then(() => { isOver = true })
  pass(899)
  await turn()
  t.equal(isOver, false)
  pass(1)
  await closing
  t.match(warnings, [[
    { err: { code: 'MMC_TOKENS_DEADLINE', message: 'Postgres did not answer within 900 ms' } },
    'a connection to Postgres did not close in time'
  ]])
})

t.test('what went wrong at a place is told with the place, also where Node has no message', async t => {
  const cause = new Error('no such database')
  t.match(explain('here', cause), {
    code: 'MMC_TOKENS_DATABASE', message: 'Postgres at here can\'t be used: no such database', cause
  })
  t.match(explain('here', Object.assign(new Error(''), { code: 'ECONNREFUSED' })), {
    message: 'Postgres at here can\'t be used: ECONNREFUSED'
  })
})

t.test('a pool of the host that is exhausted is asked by 10,000 calls at most, and takes back all clients that come too late', async t => {
  const pool = new pg.Pool({ connectionString: await databaseUrl(), max: 1 })
  t.teardown(() => pool.end())
  const { withClient } = createConnection(pool, {} as Log)
  const busy = await pool.connect()
  const one = async (): Promise<unknown> =>
    await withClient(async run => await run({ text: 'SELECT 1::text AS one' }), 20)
  const late = await Promise.allSettled(Array.from({ length: 10_001 }, one))
  const codes = late.map(result => result.status === 'rejected' ? (result.reason as { code: string }).code : '')
  t.equal(codes.pop(), 'MMC_TOKENS_OVERLOAD')
  t.strictSame([...new Set(codes)], ['MMC_TOKENS_DEADLINE'])
  busy.release()
  t.strictSame(await withClient(async run => await run({ text: 'SELECT 1::text AS one' })), [{ one: '1' }])
  t.equal(pool.waitingCount, 0)
})
