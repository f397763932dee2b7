import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import type { TokenEvent } from '../../lib/index.js'
import { createAudit } from '../../lib/operations/audit.js'
import { UNKNOWN_ORIGIN } from '../../lib/tokens/tokens.js'
import type { Store, StoredEvent } from '../../lib/types.js'
import { FORGED, NEW_TOKEN } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase, databaseUrl } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { createProxy } from '../support/proxy.js'
import { holdTimers } from '../support/timers.js'
import { until } from '../support/until.js'

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
/** Whom the tests' connection string names. */
const DATABASE_USER = new pg.Client(await databaseUrl()).user

/** A logger whose lines with an event are kept, as what they hold. */
function collectLines () {
  const lines: Array<{ level: number, msg: string, event?: { type: string }, err?: { message: string } }> = []
  const stream = { write (line: string) { lines.push(JSON.parse(line) as typeof lines[number]) } }
  return { lines, fastify: { logger: { stream } } }
}

t.test('issuing and revoking over the routes are reported once each, with actor, address and request id, to the host and to the log', async t => {
  const events = collectEvents()
  const { lines, fastify } = collectLines()
  const { app, login } = await buildHost(t, {
    fastify: {
      ...fastify,
      genReqId: request =>
        String(request.headers['x-id'] ?? 'none')
    },
    tokens: { onEvent: events.onEvent }
  })
  const headers = await login()
  const { hash } = (await app.inject(
    { method: 'POST', url: '/api/tokens', headers: { ...headers, 'x-id': 'one' }, payload: NEW_TOKEN }
  )).json<{ hash: string }>()
  await app.inject({
    method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, 'x-id': 'two' }, remoteAddress: '192.0.2.7'
  })
  await events.until(2)
  const about = { at: ISO, name: 'new', hash, role: 'viewer', actor: 'cedalo' }
  t.match(events.all, [
    { id: UUID, type: 'token.issued', ...about, address: '127.0.0.1', requestId: 'one', databaseUser: DATABASE_USER },
    { id: UUID, type: 'token.revoked', ...about, address: '192.0.2.7', requestId: 'two', databaseUser: DATABASE_USER }
  ])
  t.strictSame(lines.filter(({ event }) => event).map(({ level, msg, event }) => [level, msg, event]), [
    [30, 'application token issued', events.all[0]], [30, 'application token revoked', events.all[1]]
  ])
})

t.test('the actor of an event is the token, or the user that the host names', async t => {
  const events = collectEvents()
  const { app, issue } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const { token } = await issue({ name: 'robot', role: 'admin' })
  const { hash } = (await app.inject(
    { method: 'POST', url: '/api/tokens', headers: bearer(token), payload: NEW_TOKEN }
  )).json<{ hash: string }>()
  await app.tokens.revoke(hash, { revokedBy: 'alice' })
  await events.until(3)
  const other = await issue({ name: 'other' })
  await app.tokens.revoke(other.hash)
  await events.until(5)
  const odd = await issue({ name: 'odd' })
  for (const revokedBy of ['', ' ', 'a \u0000', '\ud800']) {
    await t.rejects(app.tokens.revoke(odd.hash, { revokedBy }), {
      code: 'INVALID', statusCode: 400
    })
  }
  await app.tokens.revoke(odd.hash, { revokedBy: 'a "name" \\ \u2028 שלום' })
  t.equal((await events.until(7)).at(-1)?.actor, 'a "name" \\ \u2028 שלום', 'whatever a host calls its users')
  t.match(events.all[0], { address: null, requestId: null }, 'no request did it')
  t.match(events.all.slice(0, 5).map(({ type, name, actor }) => [type, name, actor]), [
    ['token.issued', 'robot', 'test'], [
      'token.issued', 'new', 'token:robot'
    ], ['token.revoked', 'new', 'alice'], ['token.issued', 'other', 'test'], ['token.revoked', 'other', null]
  ])
})

t.test('what changes nothing is no event', async t => {
  const events = collectEvents()
  const { app, issue, login } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const headers = await login()
  await issue({ name: 'new' })
  t.equal((await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: NEW_TOKEN })).statusCode, 409)
  t.equal((await app.inject({ method: 'DELETE', url: `/api/tokens/${'0'.repeat(64)}`, headers })).statusCode, 200)
  await app.close()
  t.strictSame(events.all.map(({ type }) => type), ['token.issued'])
})

t.test('of ten concurrent deletions on three nodes, one is reported', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const nodes = [one, ...await Promise.all([1, 2].map(async () =>
    await buildHost(t, { database: one.database, tokens: { onEvent: events.onEvent } })))]
  for (let turn = 0; turn < 20; turn++) {
    const { hash } = await one.issue()
    await Promise.all(Array.from({ length: 9 }, async (_, n) =>
      await nodes[n % 3]?.app.tokens.revoke(hash, { revokedBy: `${n}` })).concat(
      one.database.query('DELETE FROM tokens WHERE hash = $1', [hash]).then(() => undefined)))
  }
  await events.until(20, 'token.revoked')
  for (const { app } of nodes) await app.close()
  const revoked = events.all.filter(({ type }) => type === 'token.revoked')
  t.equal(revoked.length, 20)
  t.equal(new Set(revoked.map(({ hash }) => hash)).size, 20)
})

t.test('what happens while no node runs is reported 10 s after the next start, and what SQL does then at once, on one of the nodes, with name and role', async t => {
  const events = collectEvents()
  const { app, issue, database } = await buildHost(t)
  const [first, second, third] = [await issue(), await issue(), await issue({ name: 'leaked', role: 'admin' })]
  await app.close()
  await database.query('DELETE FROM tokens WHERE hash = $1', [first.hash])
  // As a node leaves it that dies between its DELETE and what it would report.
  await database.query(
    `BEGIN; SET LOCAL mmc_tokens.origin = E'node\\x1falice\\x1f192.0.2.7\\x1fx'; DELETE FROM tokens WHERE hash = '${second.hash}'; COMMIT`
  )
  const begun = performance.now()
  const tokens = { onEvent: events.onEvent }
  await Promise.all([1, 2].map(async () => await buildHost(t, { database, tokens })))
  t.match(await events.until(2), [
    { hash: first.hash, actor: null, databaseUser: DATABASE_USER }, {
      hash: second.hash, actor: 'alice', address: '192.0.2.7', requestId: 'x'
    }
  ])
  t.ok(performance.now() - begun > 10_000, 'a process that only migrates takes no events')

  await database.query('DELETE FROM tokens WHERE hash = $1', [third.hash])
  t.match((await events.until(3)).at(-1), {
    at: ISO, name: 'leaked', hash: third.hash, role: 'admin', actor: null, address: null, requestId: null
  })
  t.ok(performance.now() - begun < 40_000, 'not at the next look, which is up to 90 s later')
  const fill = 'INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', now(), \'2999-01-01Z\', now() FROM generate_series(1, 1000) AS n'
  for (const [turn, end] of ['DELETE FROM tokens', 'TRUNCATE tokens'].entries()) {
    await database.query(fill)
    await database.query(end)
    t.equal((await events.until(1000 * (turn + 1), 'token.issued')).length, 1000 * (turn + 1))
    t.equal((await events.until(3 + 1000 * (turn + 1), 'token.revoked')).length, 3 + 1000 * (turn + 1))
  }
  t.equal(new Set(events.all.map(({ id }) => id)).size, 4003)
  await until(async () => (await database.query('SELECT 1 FROM events')).length === 0)
})

t.test('a refusal is reported with its reason, and with name and role if the token is known', async t => {
  const events = collectEvents()
  const { app, issue, database } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const [revoked, expired] = [await issue({ name: 'revoked' }), await issue({ name: 'expired' })]
  await app.tokens.revoke(revoked.hash)
  await database.query("UPDATE tokens SET valid_until = now() - interval '1 hour'")
  const bodies = new Set<string>()
  for (const token of [revoked.token, expired.token, FORGED]) {
    bodies.add(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).body
    )
  }
  t.equal(bodies.size, 1, 'the client can not tell them apart')
  t.equal(
    (await app.inject({ url: `/api/viewer?token=${expired.token}`, headers: bearer(expired.token) })).statusCode, 400
  )
  const rejected = await events.until(4, 'authentication.rejected')
  t.match(rejected, [
    {
      hash: revoked.hash,
      reason: 'unknown or revoked',
      name: null,
      role: null,
      actor: null,
      address: '127.0.0.1',
      requestId: /^req-/
    },
    { hash: expired.hash, reason: 'expired', name: 'expired', role: 'viewer' },
    { hash: /^[0-9a-f]{64}$/, reason: /signature/i, name: null },
    { hash: null, reason: 'several tokens in one request' }
  ])
})

t.test('of a flood of refusals, ten a second are reported, and the next one counts those dropped', async t => {
  const events = collectEvents()
  const { app } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const refuse = async (): Promise<void> => {
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(FORGED) })).statusCode, 401)
  }
  const { now } = Date
  t.teardown(() => { Date.now = now })
  Date.now = () => 1_000_000_000_500
  for (let n = 0; n < 25; n++) await refuse()
  t.equal(events.all.length, 10)
  Date.now = () => 1_000_000_001_000
  await refuse()
  await refuse()
  t.strictSame(events.all.slice(10).map(({ suppressed }) => suppressed), [15, undefined])
})

t.test('a listener that throws, rejects or changes what it is given harms nothing, is called again with the same id, and the log says so', async t => {
  const { lines, fastify } = collectLines()
  const events = collectEvents()
  let count = 0
  const { app, login, database } = await buildHost(t, {
    fastify,
    tokens: {
      onEvent (event) {
        events.onEvent({ ...event })
        event.name = 'changed'
        if (count++ === 0) throw new Error('thrown')
        if (count === 2) return Promise.reject(new Error('rejected'))
      }
    }
  })
  const headers = await login()
  for (const name of ['a', 'b']) {
    t.equal((await app.inject(
      { method: 'POST', url: '/api/tokens', headers, payload: { ...NEW_TOKEN, name } }
    )).json<{ name: string }>().name, name)
  }
  const isWaiting = async (): Promise<boolean> => (await database.query(
    "SELECT 1 FROM events WHERE attempts = 1 AND claimed_until - now() BETWEEN '30 seconds' AND '1 minute'"
  )).length === 2
  await until(isWaiting)
  t.strictSame(lines.filter(({ level }) => level === 50).map(({ msg, err }) => [msg, err?.message]), [
    ['onEvent failed; will retry', 'thrown'], ['onEvent failed; will retry', 'rejected']
  ])
  // A minute later.
  await database.query('UPDATE events SET claimed_until = now()')
  await app.tokens.issue({ ...NEW_TOKEN, name: 'c', requestedBy: 'test' })
  const told = await events.until(5)
  t.strictSame(told.map(({ name }) => name), ['a', 'b', 'a', 'b', 'c'], 'in order')
  t.strictSame(told.slice(2, 4).map(({ id }) => id), told.slice(0, 2).map(({ id }) => id))
  t.strictSame(lines.flatMap(({ event, msg }) => event &&
    msg === 'application token issued'
    ? [(event as { name?: string }).name]
    : []), ['a', 'b', 'c'], 'a line each')
  await until(async () => (await database.query('SELECT 1 FROM events')).length === 0)
})

t.test('a listener that hangs holds up no request, is handed one event by each node, and each event by one node', async t => {
  const told: string[] = []
  const onEvent = async ({ id }: TokenEvent): Promise<void> => {
    told.push(id)
    await new Promise(() => {})
  }
  const one = await buildHost(t, { tokens: { onEvent } })
  const { database } = one
  const nodes = [one, ...await Promise.all([1, 2].map(async () =>
    await buildHost(t, { database, tokens: { onEvent } })))]
  for (const [index, node] of nodes.entries()) {
    const headers = await node.login()
    for (let n = 0; n < 20; n++) {
      const payload = { ...NEW_TOKEN, name: `${index} ${n}` }
      t.equal((await node.app.inject({ method: 'POST', url: '/api/tokens', headers, payload })).statusCode, 200)
    }
    await until(() => told.length === index + 1)
  }
  t.equal(new Set(told).size, 3)
  t.strictSame(await database.query('SELECT count(*)::int FROM events'), [{ count: 60 }], 'the rest waits in Postgres')
})

t.test('an INSERT that outlives its deadline is reported all the same', async t => {
  const events = collectEvents()
  const database = await createDatabase(t)
  const proxy = await createProxy(t, database.url)
  const { app, issue } = await buildHost(t, { database, tokens: { postgres: proxy.url, onEvent: events.onEvent } })
  const other = new pg.Client(database.url)
  await other.connect()
  t.teardown(() => other.end())
  await other.query(`BEGIN; LOCK TABLE ${database.schema}.tokens IN SHARE MODE`)
  const issuing = app.tokens.issue({ ...NEW_TOKEN, name: 'late', requestedBy: 'alice' })
  issuing.catch(() => {})
  await until(async () => (await database.query(
    "SELECT FROM pg_locks WHERE NOT granted AND relation = 'tokens'::regclass"
  )).length > 0)
  // The request to cancel it does not arrive.
  proxy.set('refuse')
  await t.rejects(issuing, { code: 'MMC_TOKENS_DEADLINE' })
  await other.query('COMMIT')
  await until(async () => (await database.query("SELECT 1 FROM tokens WHERE name = 'late'")).length > 0)
  proxy.set('none')
  await issue({ name: 'next' })
  t.match(await events.until(2), [{ name: 'late', actor: 'alice' }, { name: 'next' }])
})

t.test('while the listener works no transaction is open, and no client of the pool is held', async t => {
  const { url, schema, query } = await createSeparateDatabase(t)
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  t.teardown(() => pool.end())
  const seen: unknown[] = []
  const { issue, app } = await buildHost(t, {
    database: { url, schema, query },
    tokens: {
      postgres: pool,
      async onEvent () {
        seen.push(
          (await pool.query(
            "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
          )).rows[0]
        )
      }
    }
  })
  for (let n = 0; n < 3; n++) await issue()
  await app.close()
  t.strictSame(seen, [{ count: 0 }, { count: 0 }, { count: 0 }])
})

t.test('a start without a right on the outbox says which to grant', async t => {
  const { database } = await buildHost(t)
  const role = `${database.schema}_app`
  await database.query(`CREATE ROLE ${role}; GRANT USAGE ON SCHEMA ${database.schema} TO ${role};
    GRANT SELECT, INSERT, DELETE, UPDATE (last_used) ON tokens TO ${role}; GRANT SELECT ON migrations TO ${role}; GRANT SELECT, INSERT ON events TO ${role}`)
  t.teardown(() => database.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`))
  const start = async (): Promise<unknown> => await buildHost(t, {
    database, tokens: { migrate: false, postgres: { connectionString: database.url, options: `-c role=${role}` } }
  })
  const error = await start().catch((error: unknown) => error) as Error
  t.match(error, {
    code: 'MMC_TOKENS_DATABASE',
    message: `the role ${role} may not report events: GRANT DELETE, UPDATE (attempts, claimed_until) ON "${database.schema}".events TO ${role}`
  })
  await database.query(/GRANT.*/.exec(error.message)?.[0] ?? '')
  const { app } = await start() as Awaited<ReturnType<typeof buildHost>>
  const { hash } = await app.tokens.issue({ ...NEW_TOKEN, requestedBy: 'me' })
  await app.tokens.revoke(hash)
  await until(async () => (await database.query('SELECT FROM events')).length === 0)
})

// What follows moves clocks, so the outbox is one in memory.

const EVENT: TokenEvent = {
  id: '0', type: 'token.revoked', at: '2099-01-01T00:00:00.000Z', name: 'n', hash: 'h', role: 'viewer', ...UNKNOWN_ORIGIN, databaseUser: 'mmc'
}

interface Memory extends Pick<Store, 'claimEvents' | 'dropEvents' | 'deferEvents'> {
  waiting: StoredEvent[]
  /** What was asked of it. */
  calls: unknown[]
}

function createMemory (...events: Array<Partial<StoredEvent>>): Memory {
  const waiting = events.map((event, n): StoredEvent => ({ ...EVENT, id: String(n), attempts: 0, ...event }))
  const calls: unknown[] = []
  return {
    waiting,
    calls,
    async claimEvents (limit) {
      calls.push('claim')
      return waiting.splice(0, limit)
    },
    async dropEvents (ids) { calls.push(...ids.map(id => ['drop', id])) },
    async deferEvents (ids, by) { calls.push(['defer', ...ids, by]) }
  }
}

function createLog () {
  const lines: Array<[level: string, text: string, reason: string | undefined, id: string | undefined]> = []
  const { log } = Fastify()
  for (const level of ['info', 'warn', 'error'] as const) {
    log[level] = (...args: unknown[]) => {
      const [{ err, event }, text] = args as [{ err?: Error, event?: TokenEvent }, string]
      lines.push([level, text, err?.message, event?.id])
    }
  }
  return { log, lines }
}

async function settled (): Promise<void> {
  for (let turns = 0; turns < 20; turns++) await turn()
}

/** The monotonic clock, in the test's hands. */
function holdClock (t: Test): (milliseconds: number) => void {
  let now = 1000
  t.intercept(performance, 'now', { value: () => now })
  return milliseconds => { now += milliseconds }
}

t.test('what fails is claimed again after 1, 2, 4 … 60 minutes, for 7 days: then an error line holds it, and the outbox no more', async t => {
  const { log, lines } = createLog()
  let minutes = 0
  for (let attempts = 0; ; attempts++) {
    const store = createMemory({ attempts })
    const audit = createAudit({ store, onEvent () { throw new Error('full') }, log })
    audit.report()
    await audit.close()
    const [, call] = store.calls as [unknown, [string, string, { attempts: number, minutes: number }]]
    if (call[0] === 'drop') break
    t.strictSame(call, ['defer', '0', { attempts: 1, minutes: [1, 2, 4, 8, 16, 32][attempts] ?? 60 }])
    minutes += call[2].minutes
  }
  t.ok(minutes >= 7 * 24 * 60 && minutes < 7 * 24 * 60 + 60, `${minutes} minutes`)
  t.strictSame([lines[0], lines[1], lines.at(-1)], [
    ['info', 'application token revoked', undefined, '0'], ['error', 'onEvent failed; will retry', 'full', '0'],
    ['error', 'onEvent failed for 7 days: this line is all that is left of the event', 'full', '0']
  ])
})

t.test('a listener has 30 s, and a node begins with an event only while 31 s of its claim are left: the rest is for any node', async t => {
  const [pass, advance] = [holdTimers(t, 'setTimeout'), holdClock(t)]
  const { log, lines } = createLog()
  const told: string[] = []
  const store = createMemory({}, {}, {}, {})
  const audit = createAudit({
    store, onEvent: async event => { told.push(event.id); if (event.id !== '0') await new Promise(() => {}) }, log
  })
  audit.report()
  await settled()
  t.strictSame([told, store.calls], [['0', '1'], ['claim', ['drop', '0']]])
  advance(29_000)
  pass(29_999)
  await settled()
  t.strictSame(told, ['0', '1'], 'one after another')
  pass(1)
  await settled()
  t.strictSame(told, ['0', '1', '2'], '31 s are left')
  advance(1)
  pass(30_000)
  await settled()
  t.strictSame(store.calls, [
    'claim', ['drop', '0'], ['defer', '1', { attempts: 1, minutes: 1 }], ['defer', '2', { attempts: 1, minutes: 1 }],
    ['defer', '3', { attempts: 0, minutes: 0 }], 'claim'
  ])
  t.match(lines.filter(([level]) => level === 'error'), [
    ['error', 'onEvent failed; will retry', 'onEvent did not finish within 30000 ms', '1'], ['error', /retry/, /30000/, '2']
  ])
  await audit.close()
})

t.test('at most 100 are claimed at a time, until there are no more', async t => {
  const store = createMemory(...Array.from({ length: 250 }, () => ({})))
  const audit = createAudit({ store, onEvent: undefined, log: createLog().log })
  audit.report()
  await audit.close()
  t.strictSame(store.calls.flatMap((call, index) => call === 'claim' ? [index] : []), [0, 101, 202])
  t.equal(store.calls.length, 253)
})

t.test('a node looks 10 s after its start, then about once a minute at a random second, until it closes; of what others did it reports nothing before', async t => {
  const pass = holdTimers(t, 'setTimeout')
  const random = [0, 0.999, 0.5, 0.5]
  t.intercept(Math, 'random', { value: () => random.shift() })
  const store = createMemory()
  const audit = createAudit({ store, onEvent: undefined, log: createLog().log })
  const looks = async (milliseconds: number, expected: number): Promise<void> => {
    pass(milliseconds)
    await settled()
    t.equal(store.calls.length, expected)
  }
  audit.start()
  audit.start()
  audit.onEventsWaiting()
  await looks(9999, 0)
  audit.report()
  await looks(0, 1)
  await looks(1, 2)
  audit.onEventsWaiting()
  await looks(0, 3)
  await looks(29_999, 3)
  await looks(1, 4)
  await looks(89_939, 4)
  await looks(1, 5)
  await audit.close()
  await looks(90_000, 5)
  audit.report()
  await looks(0, 5)
})

t.test('an outbox out of reach is a warning, and read later', async t => {
  const { log, lines } = createLog()
  const store = createMemory({})
  const { claimEvents } = store
  store.claimEvents = async () => { throw new Error('out of reach') }
  const audit = createAudit({ store, onEvent: undefined, log })
  audit.report()
  await settled()
  t.strictSame(lines, [['warn', 'could not reach the outbox; will retry', 'out of reach', undefined]])
  store.claimEvents = claimEvents
  audit.report()
  await audit.close()
  t.strictSame(lines.slice(1), [['info', 'application token revoked', undefined, '0']])
})

t.test('while the outbox is out of reach, what was reported is not reported again: it is taken out before more is claimed', async t => {
  const { log, lines } = createLog()
  const store = createMemory({}, {}, {})
  const { dropEvents } = store
  let tries = 0
  store.dropEvents = async () => { tries++; throw new Error('out of reach') }
  const audit = createAudit({ store, onEvent: undefined, log })
  audit.report()
  await settled()
  t.strictSame(lines.map(([level]) => level), ['info', 'info', 'info', 'warn'])
  t.ok(tries > 1)
  audit.report()
  await settled()
  t.strictSame(store.calls, ['claim'], 'nothing more is claimed')
  store.dropEvents = dropEvents
  store.waiting.push({ ...EVENT, attempts: 0 })
  audit.report()
  await audit.close()
  t.strictSame(store.calls.slice(1, 5), [['drop', '0'], ['drop', '1'], ['drop', '2'], 'claim'])
  t.equal(lines.filter(([level]) => level === 'info').length, 4)
})

t.test('what happens while a node looks is not forgotten', async t => {
  const { log, lines } = createLog()
  const store = createMemory()
  const { claimEvents } = store
  store.claimEvents = async limit => {
    const events = await claimEvents(limit)
    if (store.calls.length === 1) {
      // It finds nothing, and more is reported before it has returned.
      store.waiting.push({ ...EVENT, attempts: 0 })
      audit.report()
    }
    return events
  }
  const audit = createAudit({ store, onEvent: undefined, log })
  audit.report()
  await audit.close()
  t.equal(lines.length, 1)
})

t.test('a close waits a second for the listener, and leaves what is not reported to others', async t => {
  const pass = holdTimers(t, 'setTimeout')
  for (const end of ['resolves', 'rejects'] as const) {
    const store = createMemory({}, {}, {})
    let settle = (): void => {}
    const onEvent = async ({ id }: TokenEvent): Promise<void> => {
      if (id === '1') {
        await new Promise<void>(
          (resolve, reject) => { settle = end === 'resolves' ? resolve : () => { reject(new Error('late')) } }
        )
      }
    }
    const audit = createAudit({ store, onEvent, log: createLog().log })
    audit.report()
    await settled()
    const closing = audit.close()
    pass(999)
    t.equal(await Promise.race([closing.then(() => 'closed'), settled()]), undefined)
    pass(1)
    await closing
    settle()
    await settled()
    t.strictSame(store.calls, ['claim', ['drop', '0']], 'the store is closed by now')
  }
})

t.test('each kind of event has a line of its own in the log', async t => {
  const { log, lines } = createLog()
  const store = createMemory({ type: 'token.issued' }, {}, { type: 'token.expired-purged' }, { attempts: 3 })
  const audit = createAudit({ store, onEvent: undefined, log })
  audit.reportRejection('a reason', { hash: null }, UNKNOWN_ORIGIN)
  audit.report()
  await audit.close()
  t.strictSame(lines.map(([, text]) => text), [
    'application token rejected', 'application token issued', 'application token revoked',
    'expired application token purged', 'application token revoked'
  ])
})

t.test('a listener that fails at a refusal is called once for it, and the log says so', async t => {
  const { log, lines } = createLog()
  let calls = 0
  const audit = createAudit({ store: createMemory(), onEvent () { calls++; throw new Error('thrown') }, log })
  audit.reportRejection('a reason', { hash: null }, UNKNOWN_ORIGIN)
  await settled()
  t.match(lines, [['info', 'application token rejected'], ['error', 'onEvent failed', 'thrown', UUID]])
  t.equal(calls, 1)
})
