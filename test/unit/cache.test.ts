import { EventEmitter, once } from 'node:events'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import Fastify, { type InjectOptions } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { IssuedToken } from '../../lib/index.js'
import { createPostgresStore } from '../../lib/store/postgres.js'
import { type Cache, type CachedToken, createCache } from '../../lib/tokens/cache.js'
import { type Tokens, createTokens } from '../../lib/tokens/tokens.js'
import type { Claims, Signer, Store, Token } from '../../lib/types.js'
import { type TestHost, bearer, buildHost } from '../support/build-host.js'
import { type Database, createSeparateDatabase } from '../support/database.js'
import { createNaiveCache } from '../support/naive-cache.js'
import { until } from '../support/until.js'

const known = (name: string): CachedToken => ({
  token: { name, hash: name, validUntil: '', role: 'viewer', requestedBy: '', issueDate: '', lastUsed: '' },
  expiresAt: Infinity,
  claimExpiresAt: Infinity,
  httpDate: '',
  lastUsed: 0
})

t.test('a cached token is returned at once; an unknown one, or any while changes are not received, is undefined', async t => {
  let isTrusted = true
  const cache = createCache(() => isTrusted, () => 0)
  t.equal(cache.get('a'), undefined)
  const a = known('a')
  t.equal(await cache.load('a', async () => a), a)
  t.equal(cache.get('a'), a)
  isTrusted = false
  t.equal(cache.get('a'), undefined)
  isTrusted = true
  cache.forget('b')
  t.equal(cache.get('a'), a)
  cache.forget('a')
  t.equal(cache.get('a'), undefined)
  await cache.load('a', async () => a)
  cache.clear()
  t.equal(cache.get('a'), undefined)
})

/** What Postgres is asked for again, one look after the other. */
async function looks (
  cache: Cache, ...answers: Array<(hashes: string[]) => Token[] | Promise<Token[]>>
): Promise<string[][]> {
  const asked: string[][] = []
  for (const answer of answers) {
    const ended = await cache.refresh(async hashes => {
      asked.push(hashes)
      return await answer(hashes)
    }).catch(() => [])
    ended.forEach(cache.forget)
  }
  return asked
}

t.test('a token that is known is believed for a minute without asking, and one in use is asked for again before, in the background', async t => {
  let now = 0
  const cache = createCache(() => true, () => now)
  const [a, b] = [known('a'), known('b')]
  await cache.load('a', async () => a)
  await cache.load('b', async () => b)
  const all = (): Token[] => [a.token, b.token]
  now = 29_999
  t.strictSame(await looks(cache, all), [], 'not yet')
  now = 30_000
  t.strictSame(await looks(cache, all, all), [['a', 'b']], 'once: nobody used them since')
  now = 60_000
  t.equal(cache.get('a'), a)
  t.strictSame(await looks(cache, all, all), [['a']])
  now = 89_999
  t.equal(cache.get('b'), b)
  now = 90_000
  t.strictSame([cache.get('a'), cache.get('b')], [a, undefined], 'a minute from when it was asked for')
  now = 119_999
  t.equal(cache.get('a'), a)
  now = 120_000
  t.equal(cache.get('a'), undefined)
  t.strictSame(await looks(cache, all), [], 'what is not believed is not asked for')
})

t.test('a token that is gone, or is another, is looked up at its next use; one that could not be asked for is asked for 10 s later', async t => {
  const changes: Array<[what: string, (token: Token) => Token[]]> = [
    ['gone', () => []],
    ...(['name', 'role', 'validUntil', 'requestedBy', 'issueDate'] as const).map(
      (member): [string, (token: Token) => Token[]] => [member, token => [{ ...token, [member]: 'another' }]]
    )
  ]
  for (const [what, change] of changes) {
    let now = 0
    const cache = createCache(() => true, () => now)
    const a = known('a')
    await cache.load('a', async () => a)
    now = 30_000
    await looks(cache, () => change(a.token))
    t.equal(cache.get('a'), undefined, what)
  }
  let now = 0
  const cache = createCache(() => true, () => now)
  const a = known('a')
  await cache.load('a', async () => a)
  now = 30_000
  const fail = (): Token[] => { throw new Error('no lock') }
  t.strictSame(await looks(cache, fail), [['a']])
  t.equal(cache.get('a'), a)
  now = 39_999
  t.strictSame(await looks(cache, fail), [])
  now = 40_000
  t.strictSame(await looks(cache, () => [{ ...a.token, lastUsed: 'later' }]), [['a']])
  now = 99_999
  t.equal(cache.get('a'), a)
})

t.test('an answer about a token that changed meanwhile, or was looked up again, changes nothing', async t => {
  for (const isBack of [false, true]) {
    let now = 0
    const cache = createCache(() => true, () => now)
    const [a, other] = [known('a'), known('other')]
    await cache.load('a', async () => a)
    now = 30_000
    t.strictSame(await cache.refresh(async () => {
      cache.forget('a')
      if (isBack) await cache.load('a', async () => other)
      return isBack ? [] : [a.token]
    }), [])
    t.equal(cache.get('a'), isBack ? other : undefined)
  }
})

t.test('a thousand tokens are asked for at once, the others with the next look; one that does not exist never', async t => {
  let now = 0
  const cache = createCache(() => true, () => now)
  for (let n = 0; n < 2500; n++) await cache.load(`${n}`, async () => known(`${n}`))
  await cache.load('none', async () => null)
  now = 30_000
  const all = (hashes: string[]): Token[] => hashes.map(hash => known(hash).token)
  t.strictSame((await looks(cache, all, all, all, all)).map(({ length }) => length), [1000, 1000, 500])
})

t.test('whether anything was believed is said once', async t => {
  let isTrusted = true
  const cache = createCache(() => isTrusted, () => 0)
  await cache.load('a', async () => known('a'))
  cache.get('b')
  t.equal(cache.wasUsed(), false)
  cache.get('a')
  t.strictSame([cache.wasUsed(), cache.wasUsed()], [true, false])
  isTrusted = false
  cache.get('a')
  t.equal(cache.wasUsed(), false)
})

t.test('that a token does not exist is believed for a second', async t => {
  let now = 0
  const cache = createCache(() => true, () => now)
  t.equal(await cache.load('a', async () => null), null)
  now = 999
  t.equal(cache.get('a'), null)
  now = 1000
  t.equal(cache.get('a'), undefined)
})

t.test('all who ask for one digest share a lookup, its failure too, which is not remembered', async t => {
  const cache = createCache(() => true, () => 0)
  let lookups = 0
  const find = async (): Promise<CachedToken> => {
    lookups++
    await Promise.resolve()
    if (lookups === 1) throw new Error('out of reach')
    return known('a')
  }
  const first = await Promise.allSettled(Array.from({ length: 1000 }, () => cache.load('a', find)))
  t.ok(first.every(({ status }) => status === 'rejected'))
  t.equal(lookups, 1)
  await Promise.all(Array.from({ length: 1000 }, () => cache.load('a', find)))
  t.equal(lookups, 2)
})

t.test('ten thousand digests are kept, those used last, and ten thousand lookups at once are the most', async t => {
  const cache = createCache(() => true, () => 0)
  for (let n = 0; n < 10_000; n++) await cache.load(`${n}`, async () => known(`${n}`))
  cache.get('0')
  await cache.load('one more', async () => known('one more'))
  t.ok(cache.get('0'))
  t.equal(cache.get('1'), undefined)
  const never = new Promise<null>(() => {})
  for (let n = 0; n < 10_000; n++) cache.load(`load ${n}`, async () => await never)
  await t.rejects(cache.load('too much', async () => null), { code: 'MMC_TOKENS_OVERLOAD' })
})

t.test('a lookup that lost the race against a change asks once more, unless the row is gone anyway', async t => {
  for (const change of ['forget', 'clear'] as const) {
    const cache = createCache(() => true, () => 0)
    const answers = [known('before'), known('after')]
    const loading = cache.load('a', async () => {
      const answer = answers.shift() ?? null
      if (answer?.token.name === 'before') cache[change]('a')
      return answer
    })
    t.equal((await loading)?.token.name, 'after')
    t.equal(cache.get('a'), undefined, 'and is not believed')
    let lookups = 0
    t.equal(await cache.load('b', async () => { lookups++; cache[change]('b'); return null }), null)
    t.equal(lookups, 1)
  }
})

t.test('a lookup that a change overtook does not affect the next one: that is shared, and receives the next change', async t => {
  for (const change of ['forget', 'clear'] as const) {
    const cache = createCache(() => true, () => 0)
    const answers: Array<(known: CachedToken | null) => void> = []
    const find = (): Promise<CachedToken | null> => new Promise(resolve => { answers.push(resolve) })
    const overtaken = cache.load('a', find)
    cache[change]('a')
    const next = cache.load('a', find)
    answers[0]?.(null)
    await overtaken
    const shared = cache.load('a', find)
    t.equal(answers.length, 2)
    cache[change]('a')
    answers[1]?.(known('a'))
    while (answers.length < 3) await turn()
    answers[2]?.(null)
    t.strictSame([await next, await shared, cache.get('a')], [null, null, undefined])
  }
})

/** A token is used while it is revoked, in every order that a scheduler finds; afterwards it must not be believed. */
async function raceOf (create: () => Cache): Promise<void> {
  await fc.assert(fc.asyncProperty(fc.scheduler(), fc.integer({ min: 1, max: 4 }), fc.boolean(), async (
    scheduler, uses, isTruncate
  ) => {
    const cache = create()
    let row: CachedToken | null = known('a')
    let isAnswered = false
    const find = async (): Promise<CachedToken | null> => {
      await scheduler.schedule(Promise.resolve(), 'the query is sent')
      const read = row
      await scheduler.schedule(Promise.resolve(), 'the rows arrive')
      return read
    }
    const use = async (): Promise<void> => {
      await scheduler.schedule(Promise.resolve(), 'a request comes')
      const begunAfter = isAnswered
      const believed = cache.get('a')
      const token = believed === undefined ? await cache.load('a', find) : believed
      if (begunAfter && token !== null) throw new Error('accepted after the revocation was received')
    }
    const revoke = async (): Promise<void> => {
      await scheduler.schedule(Promise.resolve(), 'the row is deleted')
      row = null
      await scheduler.schedule(Promise.resolve(), 'the notification arrives')
      if (isTruncate) cache.clear()
      else cache.forget('a')
      isAnswered = true
    }
    await scheduler.waitFor(Promise.all([
      revoke(), ...Array.from({ length: uses }, use), ...Array.from({ length: uses }, use)
    ]))
    if (cache.get('a')) throw new Error('cached after the revocation was received')
  }), { numRuns: 1000 })
}

t.test('no order of lookups and revocations fills the cache with a token that is gone', async t => {
  await raceOf(() => createCache(() => true, () => 0))
  await t.rejects(raceOf(createNaiveCache), 'a naive cache fails the same test')
})

/** How many races are run, and how many histories of two nodes; more of them by `RACES=10000` and `HISTORIES=500`. */
const [RACES, HISTORIES] = [Number(process.env.RACES ?? 400), Number(process.env.HISTORIES ?? 16)]

/** Races at once; no more, or their queries would wait for each other and not meet. */
const AT_ONCE = 3

/** Signatures are not what is raced. */
const SIGNER: Signer = {
  sign: claims => ['{"alg":"HS256","typ":"JWT"}', JSON.stringify(claims), 'x'].map(part =>
    Buffer.from(part).toString('base64url')).join('.'),
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
  const store = createPostgresStore({
    postgres: pool, listen: undefined, schema, migrate: true, fingerprints: [], beats: ['beat'], log: Fastify().log
  })
  t.teardown(async () => {
    await store.close()
    await pool.end()
  })
  const cache = create(store)
  const usage = {
    note () {}, apply: <T>(token: T): T => token, async close () {}, lag: () => ({ waiting: 0, lagSeconds: 0 })
  }
  const events = { report () {} }
  const heard = new Set<string>()
  await store.start({
    ...cache,
    forget (hash) {
      cache.forget(hash)
      heard.add(hash)
    }
  }, () => {})
  await until(store.isTrusted)
  const tokens = createTokens({
    store,
    cache,
    signers: [SIGNER],
    usage,
    audit: events,
    connections: { end () {}, forget () {} },
    issuer: 'cedalo',
    roles: ['viewer']
  })
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

/**
 * How many revocations, on one of two nodes, were followed by a lookup that let the token in, on that node or on the
 * other.
 */
async function violations (t: Test, database: Database, create: (store: Store) => Cache, isEnough: (
  races: number, there: number, elsewhere: number
) => boolean): Promise<[there: number, elsewhere: number]> {
  const nodes = await Promise.all([createNode(t, database, create), createNode(t, database, create)])
  const [one, other] = nodes
  const violated = [new Set<number>(), new Set<number>()] as const

  async function race (number: number): Promise<void> {
    const { token, hash } = await patiently(async () =>
      await one.tokens.issue({
        name: `race ${number} ${Math.random()}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
      }, Date.now()))
    let isAnswered = false
    const isDead = [() => isAnswered, () => isAnswered && other.hasHeard(hash)] as const
    async function use (node: 0 | 1): Promise<void> {
      const begunDead = isDead[node]()
      const outcome = await Promise.resolve(
        nodes[node].tokens.authenticate({ secret: token, hash }, Date.now)
      ).catch((error: unknown) => error)
      if (!(outcome instanceof Error) && !('refused' in (outcome as object)) && begunDead) violated[node].add(number)
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

  for (let number = 0; !isEnough(number, violated[0].size, violated[1].size); number += AT_ONCE) {
    await Promise.all(
      Array.from({ length: AT_ONCE }, async (_, index) => { await race(number + index) })
    )
  }
  return [violated[0].size, violated[1].size]
}

t.test(`in ${RACES} races of lookups and revocations a token is never accepted after its revocation was answered or received`, async t => {
  const database = await createSeparateDatabase(t)
  t.strictSame(await violations(t, database, store =>
    createCache(store.isTrusted, () => performance.now()), races => races >= RACES), [0, 0])
  // Where it was revoked, the rules know that.
  await violations(t, database, createNaiveCache, (_races, _there, elsewhere) => elsewhere > 0)
  t.pass('a naive cache does so elsewhere')
})

/** How long after a token died elsewhere a node may still accept it, in milliseconds. */
const BOUND = 2000

/** What is true of a token. */
interface ModelToken {
  /** When whoever ended it had the answer. */
  deadSince?: number
  /**
   * The nodes to which it is dead at once: they answered a DELETE of it, were started after it died, or have refused
   * it.
   */
  deadOn: Set<number>
}
interface Model { tokens: ModelToken[], isEnabled: boolean[] }

interface ModelNode extends TestHost { log: EventEmitter }
interface Real {
  nodes: ModelNode[]
  tokens: IssuedToken[]
  database: Database
  session: { cookie: string }
  restart: (node: number) => Promise<void>
}

/** Something that happens, with a name to be printed when it went wrong. */
class Step implements fc.AsyncCommand<Model, Real> {
  constructor (readonly name: string, readonly run: (model: Model, real: Real) => Promise<void>) {}
  check = (): boolean => true
  toString = (): string => this.name
}

/** Something that happens to a token, here the last but `pick`, on a node or behind its back. */
type OnToken = (token: ModelToken, real: Real, issued: IssuedToken, model: Model) => Promise<void>

function onToken (name: string, pick: number, act: OnToken): Step {
  const step = new Step(`${name} token -${pick}`, async (model, real) => {
    const index = model.tokens.length - 1 - pick % model.tokens.length
    await act(model.tokens[index] as ModelToken, real, real.tokens[index] as IssuedToken, model)
  })
  return Object.assign(step, { check: ({ tokens }: Model) => tokens.length > 0 })
}

let count = 0

const issue = (node: number): Step => new Step(`issue on ${node}`, async (model, { nodes, tokens, session }) => {
  const payload = { name: `token ${++count}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  const response = await ask(nodes[node] as ModelNode, {
    method: 'POST', url: '/api/tokens', headers: session, payload
  })
  expect(response.statusCode, model.isEnabled[node] === true ? 200 : 404)
  if (response.statusCode === 404) return
  model.tokens.push({ deadOn: new Set() })
  tokens.push(response.json())
})

const useOn = (node: number): OnToken => async ({ deadSince, deadOn }, { nodes }, { token }, { isEnabled }) => {
  for (;;) {
    const begun = performance.now()
    const { statusCode, headers } = await ask(nodes[node] as ModelNode, { url: '/api/viewer', headers: bearer(token) })
    const answer = `${statusCode}${String(headers['www-authenticate']).includes('error="invalid_token"') ? ' invalid_token' : ''}`
    // A disabled node knows of no tokens: its guard found nobody.
    if (isEnabled[node] !== true) return expect(answer, '401')
    if (deadSince === undefined) return expect(answer, '200')
    if (answer !== '200') {
      deadOn.add(node)
      return expect(answer, '401 invalid_token')
    }
    if (deadOn.has(node)) throw new Error('accepted by a node to which it was dead')
    if (begun - deadSince >= BOUND) throw new Error(`accepted ${begun - deadSince} ms after it died`)
    await turn()
  }
}

const dieOn = (node: number, revoke: (
  real: Real, issued: IssuedToken
) => Promise<number>): OnToken => async (token, real, issued, model) => {
  await useOn(node)(token, real, issued, model)
  const status = await revoke(real, issued)
  expect(status, model.isEnabled[node] === true ? 200 : 404)
  if (status === 404) return
  token.deadSince ??= performance.now()
  token.deadOn.add(node)
  // Before Postgres can tell it to this node, which has just used it.
  await useOn(node)(token, real, issued, model)
}
const revokeOn = (node: number): OnToken => dieOn(node, async ({ nodes, session }, { hash }) =>
  (await ask(nodes[node] as ModelNode, { method: 'DELETE', url: `/api/tokens/${hash}`, headers: session })).statusCode)
/** By the host's own code, whose answer comes sooner than one over HTTP: nobody lists what remains. */
const endOn = (node: number): OnToken => dieOn(node, async ({ nodes }, { hash }) => {
  for (;;) {
    const status = await (nodes[node] as ModelNode).app.tokens.revoke(hash).then(
      () => 200, (error: { statusCode: number }) => error.statusCode
    )
    if (status !== 0) return status
  }
})

const bySql = (statement: string): OnToken => async (token, { database }, { hash }) => {
  await database.query(statement, [hash])
  token.deadSince ??= performance.now()
}

/**
 * The listeners' backends are ended. What happens then may happen while nobody receives it; the nodes receive again
 * afterwards.
 */
const endListeners = (meanwhile: Step | null): Step => {
  const step = new Step(`end listeners, meanwhile ${String(meanwhile)}`, async (model, real) => {
    const held = Promise.all(real.nodes.map(({ log }) => once(log, 'held')))
    await real.database.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' AND datname = current_database()"
    )
    await meanwhile?.run(model, real)
    if (meanwhile !== null) await held
  })
  return Object.assign(step, { check: meanwhile?.check ?? step.check })
}

const restart = (node: number): Step => new Step(`restart ${node}`, async (model, real) => {
  await real.restart(node)
  model.isEnabled[node] = true
  for (const { deadSince, deadOn } of model.tokens) if (deadSince !== undefined) deadOn.add(node)
})

const switchTo = (isOn: boolean, node: number): Step => new Step(`${isOn ? 'enable' : 'disable'} ${node}`, async (model, { nodes }) => {
  await (nodes[node] as ModelNode).app.tokens[isOn ? 'enable' : 'disable']()
  model.isEnabled[node] = isOn
})

/** Asks; again where Postgres took its second and said nothing, as it may on a busy machine. */
async function ask ({ app }: ModelNode, request: InjectOptions) {
  for (;;) {
    const begun = performance.now()
    const response = await app.inject(request)
    if (response.statusCode !== 500 || performance.now() - begun < 900) return response
  }
}

function expect<T> (found: T, wanted: T): void {
  if (found !== wanted) throw new Error(`${String(found)} instead of ${String(wanted)}`)
}

/** Two nodes that receive revocations. */
async function build (t: Test, database: Database): Promise<Real> {
  async function start (): Promise<ModelNode> {
    const log = new EventEmitter()
    const stream = { write (line: string) { if (line.includes('"revocation listener connected')) log.emit('held') } }
    const held = once(log, 'held')
    const host = await buildHost(t, { database, fastify: { logger: { stream } } })
    await host.app.listen({ port: 0, host: '127.0.0.1' })
    await held
    return { ...host, log }
  }
  const nodes = await Promise.all([start(), start()]) as [ModelNode, ModelNode]
  return {
    nodes,
    tokens: [],
    database,
    session: await nodes[0].login(),
    async restart (node) {
      await nodes[node]?.app.close()
      nodes[node] = await start()
    }
  }
}

t.test('whatever happens to two nodes, a dead token is refused: at once where it was revoked, within 2 s elsewhere; a live one never is', async t => {
  const node = fc.nat(1)
  const token = fc.nat(2)
  const use = fc.tuple(node, token).map(([node, pick]) => onToken(`use on ${node}`, pick, useOn(node)))
  const death = fc.oneof(
    fc.tuple(node, token).map(([node, pick]) => onToken(`revoke on ${node}`, pick, revokeOn(node))),
    fc.tuple(node, token).map(([node, pick]) => onToken(`end on ${node}`, pick, endOn(node))),
    token.map(pick =>
      onToken('expire', pick, bySql("UPDATE tokens SET valid_until = now() - interval '1 s' WHERE hash = $1"))),
    token.map(pick => onToken('delete', pick, bySql('DELETE FROM tokens WHERE hash = $1')))
  )
  const steps = fc.commands([
    node.map(issue), use, use, use, death, death, fc.option(death).map(endListeners), node.map(restart),
    fc.tuple(fc.boolean(), node).map(([isOn, node]) => switchTo(isOn, node))
  ], { maxCommands: 40, size: 'max' })
  const totals = { runs: 0, issued: 0, dead: 0 }
  const runOn = async (database: Database): Promise<void> => await fc.assert(fc.asyncProperty(steps, async steps => {
    const [model, real] = [{ tokens: [] as ModelToken[], isEnabled: [true, true] }, await build(t, database)]
    try {
      for (const node of [0, 1]) await issue(node).run(model, real)
      await fc.asyncModelRun(() => ({ model, real }), steps)
      for (const [pick] of model.tokens.entries()) {
        for (const node of [0, 1]) {
          await onToken(
        `use on ${node}`, pick, useOn(node)
          ).run(model, real)
        }
      }
    } finally {
      await Promise.all(real.nodes.map(async ({ app }) => { await app.close() }))
    }
    totals.runs++
    totals.issued += model.tokens.length
    totals.dead += model.tokens.filter(({ deadSince }) => deadSince !== undefined).length
  }), { numRuns: HISTORIES / 2 })
  // Most of the time they wait for leases.
  await Promise.all([await createSeparateDatabase(t), await createSeparateDatabase(t)].map(runOn))
  t.pass(JSON.stringify(totals))
})
