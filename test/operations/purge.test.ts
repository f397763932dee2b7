import Fastify from 'fastify'
import t from 'tap'
import { createPurge } from '../../lib/operations/purge.js'
import type { Store } from '../../lib/types.js'
import { buildHost, type TestHost } from '../support/build-host.js'
import { collectEvents } from '../support/events.js'

async function expire ({ database }: TestHost, name: string, ago: string): Promise<void> {
  await database.query('UPDATE tokens SET valid_until = now() - $2::interval WHERE name = $1', [name, ago])
}

t.test('what expired longer ago than the grace time goes, is told of once, on one of the nodes, and nothing else goes', async t => {
  const events = collectEvents()
  const tokens = { purgeExpiredAfter: 3600, onEvent: events.onEvent }
  const one = await buildHost(t)
  for (const name of ['long expired', 'just expired', 'good']) await one.issue({ name })
  await expire(one, 'long expired', '3601 seconds')
  await expire(one, 'just expired', '3500 seconds')
  // Its first look is due in a minute: the clock of the schedule is moved.
  const { setInterval } = globalThis
  t.teardown(() => { globalThis.setInterval = setInterval })
  globalThis.setInterval = ((work: () => void, delay: number) => setInterval(work, delay === 60_000 ? 20 : delay)) as typeof setInterval
  await Promise.all([1, 2, 3].map(async () => await buildHost(t, { database: one.database, tokens })))
  t.match(await events.until(1), [{ type: 'token.expired-purged', name: 'long expired', role: 'viewer', actor: null, address: null }])
  t.strictSame((await one.app.tokens.list()).map(({ name }) => name), ['just expired', 'good'])
  t.strictSame(events.all.length, 1)
})

t.test('thousands go in pieces, and each is told of once', async t => {
  const events = collectEvents()
  const one = await buildHost(t)
  await one.database.query('INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', \'2020-01-01Z\', \'2021-01-01Z\', \'2020-01-01Z\' FROM generate_series(1, 2200) AS n')
  await Promise.all([1, 2].map(async () => await buildHost(t, { database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent } })))
  await events.until(2200, 'token.expired-purged')
  t.equal(new Set(events.all.map(({ hash }) => hash)).size, 2200)
  t.equal(events.all.length, 2200)
  t.strictSame(await one.app.tokens.list(), [])
})

t.test('without the option what expired stays', async t => {
  const delays: number[] = []
  const handles: NodeJS.Timeout[] = []
  const { setInterval } = globalThis
  t.teardown(() => { globalThis.setInterval = setInterval })
  globalThis.setInterval = ((_work: () => void, delay: number) => {
    delays.push(delay)
    handles.push(setInterval(() => {}, 60_000))
    return handles.at(-1)
  }) as typeof setInterval
  const store = {} as unknown as Store
  createPurge({ store, seconds: undefined, onPurged: () => {}, log: Fastify().log }).start()
  t.strictSame(delays, [])
  for (const seconds of [0, 30, 2_592_000]) {
    const purge = createPurge({ store, seconds, onPurged: () => {}, log: Fastify().log })
    purge.start()
    await purge.close()
  }
  t.strictSame(delays, [1000, 30_000, 60_000], 'it looks as often as the grace time asks for, once a second to once a minute')
  t.strictSame(handles.map(handle => [handle.hasRef(), (handle as unknown as { _destroyed: boolean })._destroyed]), Array(3).fill([false, true]), 'until it is closed, and its process may end meanwhile')
})

t.test('while another node purges, a node does nothing', async t => {
  const one = await buildHost(t)
  const { setInterval } = globalThis
  t.teardown(() => { globalThis.setInterval = setInterval })
  await one.issue({ name: 'expired' })
  await expire(one, 'expired', '1 day')
  await one.database.query('SELECT 1')
  const looks: Array<() => void> = []
  globalThis.setInterval = ((work: () => void, delay: number) => {
    if (delay === 1000) looks.push(work)
    return setInterval(() => {}, 60_000)
  }) as typeof setInterval
  const events = collectEvents()
  const build = async (): Promise<TestHost> => await buildHost(t, { database: one.database, tokens: { purgeExpiredAfter: 0, onEvent: events.onEvent } })
  const node = await build()
  // As the other node holds it while it deletes.
  const release = await holdLock(one)
  looks.forEach(look => { look() })
  // It waits for the purge that is under way.
  await node.app.close()
  t.equal((await one.app.tokens.list()).length, 1)
  await release()
  await build()
  looks.at(-1)?.()
  await events.until(1)
  t.equal((await one.app.tokens.list()).length, 0)
})

async function holdLock ({ database: { url, schema } }: TestHost): Promise<() => Promise<void>> {
  const { default: pg } = await import('pg')
  const client = new pg.Client(url)
  await client.connect()
  await client.query('BEGIN')
  await client.query('SELECT pg_advisory_xact_lock(hashtext($1))', [`${schema} purge`])
  return async () => { await client.end() }
}

t.test('a purge that fails is a warning, and tried again', async t => {
  const warnings: unknown[] = []
  const log = Fastify().log
  log.warn = (...args: unknown[]) => { warnings.push(args) }
  const looks: Array<() => void> = []
  const { setInterval } = globalThis
  t.teardown(() => { globalThis.setInterval = setInterval })
  globalThis.setInterval = ((work: () => void) => {
    looks.push(work)
    return setInterval(() => {}, 60_000)
  }) as typeof setInterval
  const answers = [() => { throw new Error('out of reach') }, () => 500, () => 200, () => 0]
  let purged = 0
  const purge = createPurge({ store: { purge: async () => answers.shift()?.() ?? 0 }, seconds: 0, onPurged: () => { purged++ }, log })
  purge.start()
  looks[0]?.()
  await purge.close()
  t.strictSame([warnings, purged], [[[{ err: new Error('out of reach') }, 'could not purge expired tokens; will retry']], 0])
  looks[0]?.()
  await purge.close()
  t.equal(purged, 2, 'piece by piece')
})
