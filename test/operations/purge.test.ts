import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { createPurge } from '../../lib/operations/purge.js'
import { buildHost, type TestHost } from '../support/build-host.js'
import { lock } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { holdTimers } from '../support/timers.js'

async function expire ({ database }: TestHost, name: string, ago: string): Promise<void> {
  await database.query('UPDATE tokens SET valid_until = now() - $2::interval WHERE name = $1', [name, ago])
}

t.test('tokens that expired longer ago than the grace time are purged and reported once, by one node, and no others', async t => {
  const events = collectEvents()
  const tokens = { purgeExpiredAfter: 3600, onEvent: events.onEvent }
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  for (const name of ['long expired', 'just expired', 'good']) await one.issue({ name })
  await expire(one, 'long expired', '3601 seconds')
  await expire(one, 'just expired', '3500 seconds')
  const pass = holdTimers(t, 'setInterval')
  await Promise.all([1, 2, 3].map(async () => await buildHost(t, { database: one.database, tokens })))
  pass(60_000)
  t.match(await events.until(1, 'token.expired-purged'), [
    { name: 'long expired', role: 'viewer', actor: null, address: null }
  ])
  t.strictSame((await one.app.tokens.list()).map(({ name }) => name), ['just expired', 'good'])
  t.equal((await events.until(1, 'token.expired-purged')).length, 1)
})

t.test('thousands are purged in batches, on several nodes at once, and each is reported once', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  await one.database.query(
    'INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', \'2020-01-01Z\', \'2021-01-01Z\', \'2020-01-01Z\' FROM generate_series(1, 2200) AS n'
  )
  await Promise.all([1, 2].map(async () => await buildHost(t, {
    database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent }
  })))
  await events.until(2200, 'token.expired-purged')
  t.equal(new Set((await events.until(2200, 'token.expired-purged')).map(({ id }) => id)).size, 2200)
  t.equal((await events.until(2200, 'token.expired-purged')).length, 2200)
  t.strictSame(await one.app.tokens.list(), [])
})

t.test('a node purges as often as the grace time requires, once a second to once a minute, until it closes; without the option never', async t => {
  const pass = holdTimers(t, 'setInterval')
  let looks = 0
  const store = { async purge () { looks++; return 0 } }
  for (const [seconds, pause] of [[undefined, Infinity], [0, 1000], [30, 30_000], [2_592_000, 60_000]] as const) {
    looks = 0
    const purge = createPurge({ store, seconds, onPurged: () => {}, log: Fastify().log })
    purge.start()
    for (const [milliseconds, expected] of pause === Infinity
      ? [[86_400_000, 0]] as const
      : [
          [pause - 1, 0], [1, 1], [pause, 2]
        ] as const) {
      pass(milliseconds)
      await turn()
      t.equal(looks, expected, `${seconds} s`)
    }
    await purge.close()
    const before = looks
    pass(60_000)
    t.equal(looks, before, 'closed')
  }
})

t.test('no advisory lock, which any user of the database may hold, stops the purge', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  await one.issue({ name: 'expired' })
  await expire(one, 'expired', '1 day')
  await lock(t, one.database, 'SELECT pg_advisory_xact_lock(hashtext($1))', [`"${one.database.schema}" purge`])
  const pass = holdTimers(t, 'setInterval')
  await buildHost(t, { database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent } })
  pass(1000)
  await events.until(1, 'token.expired-purged')
  t.strictSame(await one.app.tokens.list(), [])
})

t.test('a node whose clock is ahead purges no token that is valid by the clock of Postgres', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  for (const name of ['expired', 'valid']) await one.issue({ name })
  await expire(one, 'expired', '1 day')
  await expire(one, 'valid', '-30 minutes')
  const pass = holdTimers(t, 'setInterval')
  const { now } = Date
  const ahead = t.intercept(Date, 'now', { value: () => now() + 3_600_000 })
  await buildHost(t, { database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent } })
  pass(1000)
  // Of one statement, so the other would be gone, too.
  await events.until(1, 'token.expired-purged')
  ahead.restore()
  t.strictSame((await one.app.tokens.list()).map(({ name }) => name), ['valid'])
})

t.test('an expired token whose row is locked is purged later, and all others meanwhile', async t => {
  const events = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent: events.onEvent } })
  for (const name of ['locked', 'other', 'another']) await one.issue({ name })
  await expire(one, 'locked', '2 days')
  for (const name of ['other', 'another']) await expire(one, name, '1 day')
  const release = await lock(t, one.database, "SELECT FROM tokens WHERE name = 'locked' FOR UPDATE")
  const pass = holdTimers(t, 'setInterval')
  await buildHost(t, { database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent } })
  pass(1000)
  await events.until(2, 'token.expired-purged')
  t.strictSame((await one.app.tokens.list()).map(({ name }) => name), ['locked'])
  await release()
  pass(1000)
  t.match((await events.until(3, 'token.expired-purged'))[2], { name: 'locked' })
})

t.test('a failed purge is logged as a warning and retried', async t => {
  const warnings: unknown[] = []
  const log = Fastify().log
  log.warn = (...args: unknown[]) => { warnings.push(args) }
  const pass = holdTimers(t, 'setInterval')
  const answers = [() => { throw new Error('out of reach') }, () => 500, () => 200, () => 0]
  let purged = 0
  const purge = createPurge({
    store: { purge: async () => answers.shift()?.() ?? 0 }, seconds: 0, onPurged: () => { purged++ }, log
  })
  t.teardown(() => purge.close())
  const look = async (): Promise<void> => {
    pass(1000)
    await turn()
  }
  purge.start()
  await look()
  t.strictSame([warnings, purged], [
    [[{ err: new Error('out of reach') }, 'could not purge expired tokens; will retry']], 0
  ])
  await look()
  t.equal(purged, 2, 'piece by piece')
})

t.test('a close waits for the statement under way, and leaves the rest of the backlog to other nodes', async t => {
  const pass = holdTimers(t, 'setInterval')
  const events = new EventEmitter()
  let statements = 0
  let purged = 0
  const store = {
    async purge () {
      // A backlog without end would keep the close waiting as long.
      if (++statements > 100) return 0
      events.emit('begun')
      await once(events, 'done')
      return 500
    }
  }
  const purge = createPurge({ store, seconds: 0, onPurged: () => { purged++ }, log: Fastify().log })
  purge.start()
  const begun = once(events, 'begun')
  pass(1000)
  await begun
  let isClosed = false
  const closing = purge.close().then(() => { isClosed = true })
  await turn()
  t.equal(isClosed, false)
  events.on('begun', () => { setImmediate(() => { events.emit('done') }) })
  events.emit('done')
  await closing
  t.strictSame([statements, purged], [1, 1], 'what was purged is reported')
})
