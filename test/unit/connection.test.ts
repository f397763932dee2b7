import { EventEmitter } from 'node:events'
import pg from 'pg'
import t, { type Test } from 'tap'
import { closeInTime, type Connection, createConnection, explain } from '../../lib/store/connection.js'
import type { Log, PostgresPool } from '../../lib/types.js'

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
  /** Time is up. */
  expire: () => void
  timers: Array<{ delay: number, handle: NodeJS.Timeout }>
  warnings: unknown[][]
}

/** A way to Postgres through a pool and by a clock in our hands. */
function create (t: Test): Lent {
  const timers: Lent['timers'] = []
  const warnings: unknown[][] = []
  let late = (): void => {}
  const { setTimeout } = globalThis
  t.intercept(globalThis, 'setTimeout', {
    value (run: () => void, delay: number) {
      late = run
      const handle = setTimeout(() => {}, 1e9)
      timers.push({ delay, handle })
      return handle
    }
  })
  let lend: Lent['lend'] = () => {}
  const pool = Object.assign(new EventEmitter(), {
    options: { host: 'db.example', port: 5433, database: 'mmc', user: 'me' }, totalCount: 0, connect (answer: Lent['lend']) { lend = answer }
  })
  Object.defineProperty(pool.options, 'password', { value: 'hidden', enumerable: false })
  const log = { warn: (...words: unknown[]) => { warnings.push(words) } } as unknown as Log
  const connection = createConnection(pool as unknown as PostgresPool, log)
  t.teardown(() => { for (const { handle } of timers) clearTimeout(handle) })
  return { pool, connection, lend: (error, client) => { lend(error, client) }, expire: () => { late() }, timers, warnings }
}

const isCleared = (handle: NodeJS.Timeout | undefined): boolean => (handle as unknown as { _destroyed: boolean })._destroyed

t.test('work gets a client, whose values come as Postgres writes them, and gives it back sound', async t => {
  const { connection, lend, timers } = create(t)
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
  t.strictSame([timers.map(({ delay }) => delay), isCleared(timers[0]?.handle), timers[0]?.handle.hasRef()], [[900], true, true])
})

t.test('a client that met an error is closed, and a pool that has none says why', async t => {
  const { connection, lend, timers } = create(t)
  const client = new Client()
  const working = connection.withClient(async () => { throw new Error('broken') })
  lend(undefined, client)
  await t.rejects(working, { message: 'broken' })
  t.strictSame(client.released, [true])
  const asking = connection.withClient(async () => t.fail('no client'))
  lend(new Error('refused'))
  await t.rejects(asking, { message: 'refused' })
  t.ok(timers.every(({ handle }) => isCleared(handle)))
})

t.test('when time is up the caller hears so; a client at work is closed, one that comes later goes back unused', async t => {
  const { connection, lend, expire } = create(t)
  const client = new Client()
  let finish = (): void => {}
  const working = connection.withClient(async () => { await new Promise<void>(resolve => { finish = resolve }) })
  lend(undefined, client)
  expire()
  await t.rejects(working, { code: 'MMC_TOKENS_DEADLINE', message: 'Postgres did not answer within 900 ms' })
  t.strictSame(client.released, [true])
  finish()
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(client.released, [true], 'released once')

  const late = new Client()
  const waiting = connection.withClient(async () => t.fail('too late'))
  expire()
  await t.rejects(waiting, { code: 'MMC_TOKENS_DEADLINE' })
  lend(undefined, late)
  t.strictSame([late.released, late.listenerCount('error')], [[undefined], 0])
})

t.test('a pool of the host stays its own: its place and its way are known, its lost connections are told of, its end is not ours', async t => {
  const { pool, connection, warnings } = create(t)
  t.equal(connection.place, 'db.example:5433, database "mmc"')
  t.match(connection.config, { host: 'db.example', port: 5433, database: 'mmc', user: 'me', password: 'hidden' })
  const error = new Error('terminated')
  pool.emit('error', error)
  t.strictSame(warnings, [[{ err: error }, 'lost a connection to Postgres at db.example:5433, database "mmc"']])
  await connection.close()
  t.equal(pool.listenerCount('error'), 0)
})

t.test('a pool of ours is made as it should be, and ended', async t => {
  let isEnded = false
  for (const postgres of ['postgres://me:secret@db.example:5433/mmc', { host: 'db.example', port: 5433, database: 'mmc', user: 'me', max: 3 }]) {
    const { end } = pg.Pool.prototype
    let pool: pg.Pool | undefined
    t.intercept(pg.Pool.prototype, 'end', { async value (this: pg.Pool) { pool = this; isEnded = true; await (Reflect.apply(end, this, []) as Promise<void>) } })
    const connection = createConnection(postgres, {} as Log)
    t.equal(connection.place, 'db.example:5433, database "mmc"')
    t.strictSame(connection.config, typeof postgres === 'string' ? { connectionString: postgres } : postgres)
    await connection.close()
    t.equal(isEnded, true)
    t.match((pool as unknown as { options: object }).options, { application_name: 'fastify-mmc-tokens', connectionTimeoutMillis: 900, keepAlive: true, allowExitOnIdle: true, ...typeof postgres === 'object' && { max: 3 } })
  }
  t.equal(createConnection({ host: 'db.example', port: 1, user: 'me' }, {} as Log).place, 'db.example:1, database "me"')
  t.intercept(pg.defaults, 'user', { value: undefined })
  t.match(createConnection({ host: 'db.example', port: 1 }, {} as Log).place, /^db\.example:1, database ./, 'nobody says which')
  t.throws(() => createConnection('postgres://me:a/b@db.example/mmc', {} as Log), { code: 'MMC_TOKENS_INVALID_OPTION', message: /^option "postgres" is not a connection string that pg can read: write postgres:\/\// })
})

t.test('who closes waits for a goodbye, and no longer than a second', async t => {
  const { timers, expire, warnings } = create(t)
  const log = { warn: (...words: unknown[]) => { warnings.push(words) } } as unknown as Log
  await closeInTime(Promise.resolve(), log)
  t.strictSame([warnings, timers.map(({ delay }) => delay), isCleared(timers[0]?.handle)], [[], [900], true])
  const closing = closeInTime(new Promise(() => {}), log)
  t.equal(timers[1]?.handle.hasRef(), true, 'a process waits for it')
  expire()
  await closing
  t.match(warnings, [[{ err: { code: 'MMC_TOKENS_DEADLINE', message: 'Postgres did not answer within 900 ms' } }, 'a connection to Postgres did not close in time']])
})

t.test('what went wrong at a place is told with the place, also where Node has no message', async t => {
  const cause = new Error('no such database')
  t.match(explain('here', cause), { code: 'MMC_TOKENS_DATABASE', message: 'Postgres at here can\'t be used: no such database', cause })
  t.match(explain('here', Object.assign(new Error(''), { code: 'ECONNREFUSED' })), { message: 'Postgres at here can\'t be used: ECONNREFUSED' })
})
