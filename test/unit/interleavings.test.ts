import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { createPostgresStore } from '../../lib/store/postgres.js'
import { type Cache, createCache } from '../../lib/tokens/cache.js'
import { createTokens, type Tokens } from '../../lib/tokens/tokens.js'
import type { Claims, Signer, Store } from '../../lib/types.js'
import { createSeparateDatabase, type Database } from '../support/database.js'
import { createNaiveCache } from '../support/naive-cache.js'

/** Races at once; no more, or their queries would wait for each other and not meet. */
const AT_ONCE = 3

/** Signatures are not what is raced. */
const SIGNER: Signer = {
  sign: claims => ['{"alg":"HS256","typ":"JWT"}', JSON.stringify(claims), 'x'].map(part => Buffer.from(part).toString('base64url')).join('.'),
  verify: secret => JSON.parse(Buffer.from(secret.split('.')[1] ?? '', 'base64url').toString()) as Claims
}

/** Connections whose answers take their time, each its own, as over a network: they arrive in any order. */
function createJitteryPool (connectionString: string): pg.Pool {
  const pool = new pg.Pool({ connectionString })
  // Its database may be gone before its last connection is.
  pool.on('error', () => {})
  pool.on('connect', client => {
    const query = client.query.bind(client) as (query: object) => Promise<unknown>
    Object.assign(client, { query: async (asked: object) => await query(asked).finally(jitter) })
  })
  return pool
}

interface Node { tokens: Tokens, hasHeard: (hash: string) => boolean }

/** The rules on a real store that listens, with a cache to be tried. */
async function createNode (t: Test, { url, schema }: Database, create: (store: Store) => Cache): Promise<Node> {
  const pool = createJitteryPool(url)
  const store = createPostgresStore({ postgres: pool, listen: undefined, schema, migrate: true, fingerprints: [], log: Fastify().log })
  t.teardown(async () => {
    await store.close()
    await pool.end()
  })
  const cache = create(store)
  const usage = { note () {}, apply: <T>(token: T): T => token, async close () {}, lag: () => ({ waiting: 0, lagSeconds: 0 }) }
  const events = { issued () {}, ended () {} }
  const heard = new Set<string>()
  await store.start({
    forget (hash) {
      cache.forget(hash)
      heard.add(hash)
    },
    clear: cache.clear
  })
  while (!store.isTrusted()) await turn()
  const tokens = createTokens({ store, cache, signers: [SIGNER], usage, audit: events, issuer: 'cedalo', roles: ['viewer'] })
  return { tokens, hasHeard: hash => heard.has(hash) }
}

/** Mostly microseconds, now and then milliseconds: as long as a query takes. */
async function jitter (): Promise<void> {
  if (Math.random() < 0.3) await sleep(Math.random() * 3)
  for (let turns = Math.floor(Math.random() * 10); turns > 0; turns--) await turn()
}

/** Again where Postgres took its second and said nothing, as it may on a busy machine. */
async function patiently<T> (work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if ((error as { code: string }).code !== 'MMC_TOKENS_DEADLINE') throw error
    }
  }
}

/** How many revocations, on one of two nodes, were followed by a lookup that let the token in, on that node or on the other. */
async function violations (t: Test, database: Database, races: number, create: (store: Store) => Cache): Promise<[there: number, elsewhere: number]> {
  const nodes = await Promise.all([createNode(t, database, create), createNode(t, database, create)])
  const [one, other] = nodes
  const violated = [new Set<number>(), new Set<number>()] as const

  async function race (number: number): Promise<void> {
    const { token, hash } = await patiently(async () =>
      await one.tokens.issue({ name: `race ${number} ${Math.random()}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test' }, Date.now()))
    let isAnswered = false
    const isDead = [() => isAnswered, () => isAnswered && other.hasHeard(hash)] as const
    async function use (node: 0 | 1): Promise<void> {
      const begunDead = isDead[node]()
      const outcome = await Promise.resolve(nodes[node].tokens.authenticate({ secret: token, hash }, Date.now())).catch((error: unknown) => error)
      if (!(outcome instanceof Error) && begunDead) violated[node].add(number)
    }
    async function revoke (): Promise<void> {
      await jitter()
      await patiently(async () => await one.tokens.revoke(hash))
      isAnswered = true
      await Promise.all([use(0), use(1)])
    }
    await Promise.all([revoke(), ...([0, 0, 0, 1, 1, 1] as const).map(async node => {
      await jitter()
      await use(node)
    })])
    while (!other.hasHeard(hash)) await turn()
    await Promise.all([use(0), use(1)])
  }

  for (let number = 0; number < races; number += AT_ONCE) await Promise.all(Array.from({ length: AT_ONCE }, async (_, index) => { await race(number + index) }))
  return [violated[0].size, violated[1].size]
}

t.test('in a thousand races of lookups and revocations a token is never let in after its revocation was answered or heard of', async t => {
  const database = await createSeparateDatabase(t)
  t.strictSame(await violations(t, database, 1000, store => createCache(store.isTrusted, () => performance.now())), [0, 0])
  const [there, elsewhere] = await violations(t, database, 300, createNaiveCache)
  t.ok(there > 0 && elsewhere > 0, `a naive cache does so in ${there} of 300 where it was revoked, in ${elsewhere} elsewhere`)
})
