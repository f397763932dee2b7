import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import Fastify, { type FastifyInstance } from 'fastify'
import pg from 'pg'
import tokensPlugin, { type IssuedToken, type PostgresPool } from '../../lib/index.js'
import { type CreateContender, hello, LISTEN, SECRET, type Sent, type Setting } from './contender.js'

/** More than the plugin's cache holds (10,000), so that a token is forgotten before its turn comes again. */
const MISSES = 20_000

/** Different tokens where one would be an easy case. */
const SOME = 1000

const VALID_UNTIL = '2999-01-01T00:00:00Z'

interface Ours {
  app: FastifyInstance
  issue: (role?: string) => Promise<IssuedToken>
  listen: () => Promise<string>
  readyIn: number
}

async function start ({ postgres, schema }: Setting, pool?: PostgresPool): Promise<Ours> {
  const started = performance.now()
  const app = Fastify()
  await app.register(tokensPlugin, { postgres: pool ?? postgres, schema, secret: SECRET })
  app.get('/hello', hello)
  await app.ready()
  const readyIn = performance.now() - started
  return {
    app,
    readyIn,
    issue: async (role = 'viewer') => await app.tokens.issue({
      name: randomUUID(), role, validUntil: VALID_UNTIL, requestedBy: 'bench'
    }),
    listen: async () => await app.listen(LISTEN)
  }
}

/** The plugin, with what `prepare` makes sent to it. */
const ours = (prepare: (ours: Ours) => Promise<Sent[]>, status: 200 | 401 = 200): CreateContender => async setting => {
  const host = await start(setting)
  return { listen: host.listen, sent: await prepare(host), status, readyIn: host.readyIn }
}

const withHeader = (token: string, path = '/hello'): Sent => ({ path, authorization: `Bearer ${token}` })

async function many<T> (count: number, make: () => Promise<T>): Promise<T[]> {
  const made: T[] = []
  while (made.length < count) made.push(...await Promise.all(Array.from({ length: 8 }, make)))
  return made
}

/** All that a token of ours has, but for who signed it. */
function forge (): string {
  const parts = [{ alg: 'HS256', typ: 'JWT' }, {
    role: 'admin', iat: 1_700_000_000, exp: 32_472_144_000, iss: 'cedalo', jti: randomUUID()
  }]
  const signed = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${signed}.${createHmac('sha256', randomBytes(32)).update(signed).digest('base64url')}`
}

export const hit = ours(async ({ issue }) => [withHeader((await issue()).token)])

export const query = ours(async ({ issue }) => [{ path: `/hello?token=${(await issue()).token}` }])

export const none = ours(async () => [{ path: '/hello' }])

export const miss = ours(async ({ issue }) => (await many(MISSES, () => issue())).map(({ token }) => withHeader(token)))

export const forged = ours(async () => Array.from({ length: SOME }, () => withHeader(forge())), 401)

export const revoked = ours(async ({ app, issue }) => {
  const { token, hash } = await issue()
  await app.tokens.revoke(hash)
  return [withHeader(token)]
}, 401)

/** A pool that works and a listener that can't connect: it goes by what the pool says of itself. */
export const leaseLost: CreateContender = async setting => {
  const pool = new pg.Pool({ connectionString: setting.postgres })
  const { app, issue, listen } = await start(setting, {
    connect: callback => { pool.connect(callback as never) },
    end: async () => { await pool.end() },
    get totalCount () { return pool.totalCount },
    on: (event, listener) => pool.on(event, listener),
    off: (event, listener) => pool.off(event, listener),
    options: { host: '/nowhere' }
  } as PostgresPool)
  // Many, since requests with the same token share a query.
  const tokens = await many(SOME, () => issue())
  if (app.tokens.health().lease !== 'lost') throw new Error('the lease should be lost')
  return { listen, sent: tokens.map(({ token }) => withHeader(token)), status: 200 }
}

/** One of several processes on the same tables. */
export const node: CreateContender = async setting => {
  const { app, issue, listen } = await start(setting)
  const { token } = await issue('admin')
  const ready = async (): Promise<void> => {
    while (app.tokens.health().lease !== 'held') await new Promise(resolve => setTimeout(resolve, 10))
  }
  return { listen, sent: [withHeader(token)], status: 200, tasks: { issue: async () => await issue(), ready } }
}

/**
 * Tells how many tokens it makes and revokes in some seconds, 8 at once, and how many rows the bare statements: in a
 * table without triggers, and in one with the plugin's triggers, which is the floor of what the plugin can reach.
 */
export const create: CreateContender = async setting => {
  const { app, issue, listen } = await start(setting)
  const floor = { ...setting, schema: `${setting.schema}_floor` }
  await (await start(floor)).app.close()
  // With an origin, as from a node; without one, the triggers would notify others of each event.
  const pool = new pg.Pool({ connectionString: setting.postgres, options: '-c mmc_tokens.origin=node' })
  const columns = 'hash, name, role, requested_by, issue_date, valid_until, last_used'
  const [own, triggered, bare] = [`"${setting.schema}".tokens`, `"${floor.schema}".tokens`, `"${setting.schema}".bare`]
  await pool.query(`CREATE TABLE ${bare} (LIKE ${own} INCLUDING ALL)`)

  const insert = async (table: string): Promise<unknown> => {
    const now = new Date().toISOString()
    return await pool.query({
      name: `insert ${table}`,
      text: `INSERT INTO ${table} (${columns}) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
      values: [randomBytes(32).toString('hex'), randomUUID(), 'viewer', 'bench', now, VALID_UNTIL, now]
    })
  }
  const remove = async (table: string, hash: string): Promise<unknown> => await pool.query({
    name: `delete ${table}`, text: `DELETE FROM ${table} WHERE hash = $1`, values: [hash]
  })

  /** Rows that nobody issued, so many that they last for some seconds. */
  async function fill (table: string, seconds: number): Promise<string[]> {
    const client = await pool.connect()
    await client.query('SET session_replication_role = replica')
    const { rows } = await client.query<{ hash: string }>(`INSERT INTO ${table} (${columns}, name_key)
      SELECT encode(sha256(uuid::text::bytea), 'hex'), uuid, 'viewer', 'bench', now(), '${VALID_UNTIL}', now(), uuid
      FROM (SELECT gen_random_uuid()::text AS uuid FROM generate_series(1, ${seconds * 60_000})) AS made RETURNING hash`)
    client.release(true)
    return rows.map(({ hash }) => hash)
  }

  async function end (table: string, seconds: number, one: (hash: string) => Promise<unknown>): Promise<number> {
    const hashes = await fill(table, seconds)
    const rate = await rateOf(async () => await one(String(hashes.pop())), seconds)
    if (hashes.length === 0) throw new Error('too few rows')
    return rate
  }

  /** What waits in the outbox would take from the next turn what is this one's. */
  const drain = async (): Promise<void> => {
    // Nobody reports these.
    await pool.query(`TRUNCATE "${floor.schema}".events`)
    while ((await pool.query(`SELECT 1 FROM "${setting.schema}".events LIMIT 1`)).rowCount !== 0) {
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  const tasks = {
    drain,
    issue: async (seconds: number) => await rateOf(issue, seconds),
    insert: async (seconds: number) => await rateOf(async () => await insert(bare), seconds),
    insertTriggered: async (seconds: number) => await rateOf(async () => await insert(triggered), seconds),
    revoke: async (seconds: number) => await end(own, seconds, app.tokens.revoke),
    delete: async (seconds: number) => await end(bare, seconds, async hash => await remove(bare, hash)),
    deleteTriggered: async (seconds: number) =>
      await end(triggered, seconds, async hash => await remove(triggered, hash))
  }
  return { listen, sent: [], status: 200, tasks }
}

async function rateOf (act: () => Promise<unknown>, seconds: number): Promise<number> {
  let count = 0
  const end = performance.now() + seconds * 1000
  await Promise.all(Array.from({ length: 8 }, async () => {
    for (; performance.now() < end; count++) await act()
  }))
  return count / seconds
}

/** Lists its tokens; `fill` makes them so many. */
export const list: CreateContender = async setting => {
  const { issue, listen } = await start(setting)
  const { token } = await issue('admin')
  const pool = new pg.Pool({ connectionString: setting.postgres, max: 1 })
  const fill = async (total: number): Promise<void> => {
    await pool.query(`INSERT INTO "${setting.schema}".tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
      SELECT encode(sha256(n::text::bytea), 'hex'), 'token ' || n, 'viewer', 'bench', now() + n * interval '1 ms', now() + interval '1 year', now()
      FROM generate_series((SELECT count(*) FROM "${setting.schema}".tokens) + 1, ${total}) AS n`)
  }
  return { listen, sent: [withHeader(token, '/api/tokens')], status: 200, tasks: { fill } }
}
