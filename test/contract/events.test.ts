import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { createAudit } from '../../lib/operations/audit.js'
import { UNKNOWN_ORIGIN } from '../../lib/tokens/tokens.js'
import type { Store, Token } from '../../lib/types.js'
import { FORGED, NEW_TOKEN } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'
import { collectEvents } from '../support/events.js'
import { holdTimers } from '../support/timers.js'
import { until } from '../support/until.js'

const ENDED = { hash: 'h', name: 'n', role: 'viewer', at: '', actor: null, address: null, requestId: null, isPurged: false }
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** A logger whose lines with an event are kept, as what they hold. */
function collectLines () {
  const lines: Array<{ level: number, msg: string, event?: { type: string }, err?: { message: string } }> = []
  const stream = { write (line: string) { lines.push(JSON.parse(line) as typeof lines[number]) } }
  return { lines, fastify: { logger: { stream } } }
}

t.test('who issues and who revokes a token over the routes is told with address and request id, each act once, to the host and to the log', async t => {
  const events = collectEvents()
  const { lines, fastify } = collectLines()
  const { app, login } = await buildHost(t, { fastify: { ...fastify, genReqId: request => String(request.headers['x-id'] ?? 'none') }, tokens: { onEvent: events.onEvent } })
  const headers = await login()
  const { hash } = (await app.inject({ method: 'POST', url: '/api/tokens', headers: { ...headers, 'x-id': 'one' }, payload: NEW_TOKEN })).json<{ hash: string }>()
  await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, 'x-id': 'two' }, remoteAddress: '192.0.2.7' })
  await events.until(2)
  const about = { at: ISO, name: 'new', hash, role: 'viewer', actor: 'cedalo' }
  t.match(events.all, [
    { type: 'token.issued', ...about, address: '127.0.0.1', requestId: 'one' },
    { type: 'token.revoked', ...about, address: '192.0.2.7', requestId: 'two' }
  ])
  t.strictSame(lines.filter(({ event }) => event).map(({ level, msg, event }) => [level, msg, event]), [
    [30, 'application token issued', events.all[0]], [30, 'application token revoked', events.all[1]]
  ])
})

t.test('what a token does is told of it, and what the host does of whom it names', async t => {
  const events = collectEvents()
  const { app, issue } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const { token } = await issue({ name: 'robot', role: 'admin' })
  const { hash } = (await app.inject({ method: 'POST', url: '/api/tokens', headers: bearer(token), payload: NEW_TOKEN })).json<{ hash: string }>()
  await app.tokens.revoke(hash, { revokedBy: 'alice' })
  await events.until(3)
  const other = await issue({ name: 'other' })
  await app.tokens.revoke(other.hash)
  await events.until(5)
  const odd = await issue({ name: 'odd' })
  for (const revokedBy of ['', ' ', 'a \u0000', '\ud800']) await t.rejects(app.tokens.revoke(odd.hash, { revokedBy }), { code: 'INVALID', statusCode: 400 })
  await app.tokens.revoke(odd.hash, { revokedBy: 'a "name" \\ \u2028 שלום' })
  t.equal((await events.until(7)).at(-1)?.actor, 'a "name" \\ \u2028 שלום', 'whatever a host calls its users')
  t.match(events.all[0], { address: null, requestId: null }, 'no request did it')
  t.match(events.all.slice(0, 5).map(({ type, name, actor }) => [type, name, actor]), [
    ['token.issued', 'robot', 'test'], ['token.issued', 'new', 'token:robot'], ['token.revoked', 'new', 'alice'], ['token.issued', 'other', 'test'], ['token.revoked', 'other', null]
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

t.test('of ten deletions at once on three nodes one is told', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const nodes = [one, ...await Promise.all([1, 2].map(async () => await buildHost(t, { database: one.database, tokens: { onEvent: events.onEvent } })))]
  for (let turn = 0; turn < 20; turn++) {
    const { hash } = await one.issue()
    await Promise.all(Array.from({ length: 9 }, async (_, n) => await nodes[n % 3]?.app.tokens.revoke(hash, { revokedBy: `${n}` })).concat(
      one.database.query('DELETE FROM tokens WHERE hash = $1', [hash]).then(() => undefined)))
  }
  await events.until(20, 'token.revoked')
  for (const { app } of nodes) await app.close()
  const revoked = events.all.filter(({ type }) => type === 'token.revoked')
  t.equal(revoked.length, 20)
  t.equal(new Set(revoked.map(({ hash }) => hash)).size, 20)
})

t.test('what is deleted with SQL, one, thousands or all, is told of once, on one of the nodes, with name and role', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  await buildHost(t, { database: one.database, tokens: { onEvent: events.onEvent } })
  const { hash } = await one.issue({ name: 'leaked', role: 'admin' })
  await one.database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  t.match((await events.until(1, 'token.revoked'))[0], { at: ISO, name: 'leaked', hash, role: 'admin', actor: null, address: null, requestId: null })

  const fill = 'INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', now(), \'2999-01-01Z\', now() FROM generate_series(1, 3000) AS n'
  for (const [turn, end] of ['DELETE FROM tokens', 'TRUNCATE tokens'].entries()) {
    await one.database.query(fill)
    await one.database.query(end)
    const revoked = await events.until(1 + 3000 * (turn + 1), 'token.revoked')
    t.equal(revoked.length, 1 + 3000 * (turn + 1))
  }
  t.strictSame(await one.database.query('SELECT count(*)::integer AS count FROM ended'), [{ count: 0 }])
})

t.test('what ended while no node ran is told of at the next start, and what a node left untold by another', async t => {
  const events = collectEvents()
  const { app, issue, database } = await buildHost(t)
  const [first, second] = [await issue(), await issue()]
  await app.close()
  await database.query('DELETE FROM tokens WHERE hash = $1', [first.hash])
  // As a node leaves it that dies between its DELETE and what it would tell.
  await database.query(`BEGIN; SET LOCAL mmc_tokens.origin = '{"actor":"alice","address":"192.0.2.7","requestId":"x"}'; DELETE FROM tokens WHERE hash = '${second.hash}'; COMMIT`)
  await buildHost(t, { database, tokens: { onEvent: events.onEvent } })
  t.match(await events.until(2), [{ hash: first.hash, actor: null }, { hash: second.hash, actor: 'alice', address: '192.0.2.7', requestId: 'x' }])
})

t.test('a refusal is told with its true reason, and with name and role where the token is known', async t => {
  const events = collectEvents()
  const { app, issue, database } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const [revoked, expired] = [await issue({ name: 'revoked' }), await issue({ name: 'expired' })]
  await app.tokens.revoke(revoked.hash)
  await database.query("UPDATE tokens SET valid_until = now() - interval '1 hour'")
  const bodies = new Set<string>()
  for (const token of [revoked.token, expired.token, FORGED]) bodies.add((await app.inject({ url: '/api/viewer', headers: bearer(token) })).body)
  t.equal(bodies.size, 1, 'the client can not tell them apart')
  t.equal((await app.inject({ url: `/api/viewer?token=${expired.token}`, headers: bearer(expired.token) })).statusCode, 400)
  const rejected = await events.until(4, 'authentication.rejected')
  t.match(rejected, [
    { hash: revoked.hash, reason: 'unknown or revoked', name: null, role: null, actor: null, address: '127.0.0.1', requestId: /^req-/ },
    { hash: expired.hash, reason: 'expired', name: 'expired', role: 'viewer' },
    { hash: /^[0-9a-f]{64}$/, reason: /signature/i, name: null },
    { hash: null, reason: 'several tokens in one request' }
  ])
})

t.test('of a flood of refusals ten a second are told, and the next tells how many were not', async t => {
  const events = collectEvents()
  const { app } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  const refuse = async (): Promise<void> => { t.equal((await app.inject({ url: '/api/viewer', headers: bearer(FORGED) })).statusCode, 401) }
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

t.test('a listener that throws, rejects or changes what it is given harms nothing, and the log tells', async t => {
  const { lines, fastify } = collectLines()
  let count = 0
  const { app, login } = await buildHost(t, {
    fastify,
    tokens: {
      onEvent (event) {
        event.name = 'changed'
        if (count++ % 2 === 0) throw new Error('thrown')
        return Promise.reject(new Error('rejected'))
      }
    }
  })
  const headers = await login()
  for (const name of ['a', 'b']) t.equal((await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { ...NEW_TOKEN, name } })).json<{ name: string }>().name, name)
  await app.close()
  t.strictSame(lines.filter(({ level }) => level === 50).map(({ msg, err }) => [msg, err?.message]), [['onEvent failed', 'thrown'], ['onEvent failed', 'rejected']])
  t.strictSame(lines.flatMap(({ event, msg }) => event && msg === 'application token issued' ? [(event as { name?: string }).name] : []), ['a', 'b'])
})

t.test('what ended is told of in its order, whatever the order in which Postgres keeps it', async t => {
  const events = collectEvents()
  const { database } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  await database.query("INSERT INTO ended (hash, name, role, ended_at) VALUES ('x', 'last', 'viewer', '2026-01-03Z'), ('x', 'first', 'viewer', '2026-01-01Z'), ('x', 'second', 'viewer', '2026-01-02Z'); NOTIFY mmc_tokens, '!'")
  t.strictSame((await events.until(3)).map(({ name }) => name), ['first', 'second', 'last'])
})

t.test('what can not be told now is a warning, and told later', async t => {
  const warnings: unknown[] = []
  const told: unknown[] = []
  const log = Fastify().log
  log.warn = (...args: unknown[]) => { warnings.push(args) }
  const answers = [() => { throw new Error('out of reach') }, () => [ENDED], () => []]
  const store = { takeEnded: async () => answers.shift()?.() ?? [] } as unknown as Store
  const events = createAudit({ store, onEvent: event => { told.push(event.name) }, log })
  events.ended()
  await events.close()
  t.strictSame([warnings, told], [[[{ err: new Error('out of reach') }, 'could not report ended tokens; will retry']], []])
  events.ended()
  events.ended()
  await events.close()
  t.strictSame(told, ['n'])
})

t.test('what ends while a node looks is not forgotten', async t => {
  const told: unknown[] = []
  let looks = 0
  const store = {
    async takeEnded () {
      const look = ++looks
      await turn()
      // It finds nothing, and is told of more before it has said so.
      if (look === 1) events.ended()
      return look === 2 ? [ENDED] : []
    }
  } as unknown as Store
  const events = createAudit({ store, onEvent: event => { told.push(event.name) }, log: Fastify().log })
  events.ended()
  await events.close()
  t.strictSame(told, ['n'])
})

t.test('each kind of event has a line of its own in the log', async t => {
  const said: unknown[] = []
  const log = Fastify().log
  log.info = (...args: unknown[]) => { said.push(args[1]) }
  const ended = [ENDED, { ...ENDED, isPurged: true }]
  const events = createAudit({ store: { takeEnded: async () => ended.splice(0) }, onEvent: undefined, log })
  events.issued({} as unknown as Token, UNKNOWN_ORIGIN)
  events.rejected('a reason', { hash: null }, UNKNOWN_ORIGIN)
  events.ended()
  await events.close()
  t.strictSame(said, ['application token issued', 'application token refused', 'application token revoked', 'expired application token purged'])
})

t.test('until it closes a node looks once a minute for what nobody told of', async t => {
  const pass = holdTimers(t, 'setInterval')
  let looks = 0
  const store = { async takeEnded () { looks++; return [] } } as unknown as Store
  const audit = createAudit({ store, onEvent: undefined, log: Fastify().log })
  audit.start()
  audit.start()
  for (const [milliseconds, expected] of [[59_999, 0], [1, 1], [60_000, 2]] as const) {
    pass(milliseconds)
    await turn()
    t.equal(looks, expected)
  }
  await audit.close()
  pass(60_000)
  t.equal(looks, 2)

  const events = collectEvents()
  const { app, database } = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  // It has looked since it hears of them.
  await until(() => app.tokens.health().lease === 'held')
  await database.query("INSERT INTO ended (hash, name, role, ended_at) VALUES ('x', 'untold', 'viewer', now())")
  pass(60_000)
  t.match(await events.until(1), [{ name: 'untold' }])
})
