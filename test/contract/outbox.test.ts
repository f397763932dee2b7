import { randomBytes } from 'node:crypto'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrations } from '../../lib/store/migrations.js'
import { NEW_TOKEN } from '../support/bare-host.js'
import { buildHost, type TestHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase, type Database, lock } from '../support/database.js'
import { collectEvents, type Events } from '../support/events.js'
import { until } from '../support/until.js'

// Nothing stops the audit, and it stops no revocation. A node reports at once what it did itself, and then all that
// waits.

interface Node extends TestHost { events: Events }

async function createNode (t: Test, database?: Database): Promise<Node> {
  const events = collectEvents()
  return { ...await buildHost(t, { tokens: { onEvent: events.onEvent }, ...database && { database } }), events }
}

/** Every token that ends by `end`, which is SQL, is reported, as the node's own acts before and after. */
async function check (
  t: Test, { issue, app, events, database }: Node, end = 'DELETE FROM tokens', query = database.query
): Promise<void> {
  const [first, second, third] = [await issue(), await issue(), await issue()]
  t.equal(await app.tokens.revoke(first.hash), true)
  await query(end)
  t.strictSame(await app.tokens.list(), [])
  const last = await issue()
  t.equal(await app.tokens.revoke(last.hash), true)
  const hashes = [first, second, third, last].map(({ hash }) => hash)
  const isOver = (): boolean => events.all.some(({ type, hash }) => type === 'token.revoked' && hash === last.hash)
  while (!isOver()) await events.until(events.all.length + 1)
  for (const type of ['token.issued', 'token.revoked']) {
    t.strictSame(events.all.flatMap(event =>
      event.type === type && hashes.includes(String(event.hash)) ? [event.hash] : []).sort(), [...hashes].sort(), type)
  }
  await until(async () => (await database.query('SELECT 1 FROM events')).length === 0)
}

/** A role that may log in, as `query` it is; dropped when the test ends. */
async function createRole (
  t: Test, { url, schema, query }: Database, grants: string
): Promise<{ role: string, url: string, query: Database['query'] }> {
  const role = `role_${randomBytes(6).toString('hex')}`
  await query(
    `CREATE ROLE ${role} LOGIN; ALTER ROLE ${role} SET search_path = ${schema}; GRANT USAGE ON SCHEMA ${schema} TO ${role}; ${grants.replaceAll('ROLE', role)}`
  )
  const own = Object.assign(new URL(url), { username: role }).href
  const client = new pg.Client(own)
  await client.connect()
  t.teardown(async () => {
    await client.end()
    await query(`DROP OWNED BY ${role}; DROP ROLE ${role}`)
  })
  return {
    role,
    url: own,
    query: async (text, values) => (await client.query(text, values)).rows as Array<Record<string, unknown>>
  }
}

t.test('publications for change data capture stop neither revocation nor audit: every table has a primary key', async t => {
  for (const publication of [
    'FOR ALL TABLES', 'FOR TABLE mmc_tokens.tokens, mmc_tokens.events',
    "FOR TABLE mmc_tokens.events WHERE (type = 'token.revoked') WITH (publish = 'insert')"
  ]) {
    const node = await createNode(t, await createSeparateDatabase(t))
    await node.database.query(`CREATE PUBLICATION capture ${publication}`)
    await check(t, node)
    t.strictSame(await node.database.query(`SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'mmc_tokens'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)`), [])
  }
})

t.test('rows that replication brought, with the sequence behind them, stop nothing', async t => {
  const node = await createNode(t)
  await node.database.query(`SET session_replication_role = replica;
    INSERT INTO events (seq, type, hash, name, role) SELECT n, 'token.revoked', repeat('0', 64), 'replicated', 'viewer' FROM generate_series(1, 50) AS n;
    RESET session_replication_role`)
  await check(t, node)
  t.equal(node.events.all.filter(({ name }) => name === 'replicated').length, 50)
})

t.test('what replication inserts is not issued, what it deletes or truncates is revoked', async t => {
  const node = await createNode(t)
  const { database, events } = node
  for (const end of ['DELETE FROM tokens', 'TRUNCATE tokens']) {
    await check(
      t, node, `SET session_replication_role = replica; ${end}; RESET session_replication_role`
    )
  }
  await database.query(
    'SET session_replication_role = replica; INSERT INTO tokens VALUES (repeat(\'0\', 64), \'replicated\', \'viewer\', \'x\', now(), now(), now()); RESET session_replication_role'
  )
  await node.issue()
  await events.until(9, 'token.issued')
  t.notOk(events.all.some(({ name }) => name === 'replicated'))
})

t.test('row level security, also forced on the owner, hides no event from those who are granted it, and forbids none', async t => {
  const owners = await createDatabase(t)
  await owners.query(`CREATE SCHEMA ${owners.schema}`)
  const owner = await createRole(t, owners, `GRANT CREATE ON SCHEMA ${owners.schema} TO ROLE`)
  const database = { ...owners, url: owner.url }
  const first = await createNode(t, database)
  await first.app.close()
  const { url } = await createRole(
    t,
    owners,
    'GRANT SELECT, UPDATE, DELETE ON events TO ROLE; GRANT SELECT ON migrations TO ROLE; GRANT SELECT, INSERT, DELETE, UPDATE (last_used) ON tokens TO ROLE'
  )
  for (const way of ['ENABLE', 'FORCE']) {
    await owners.query(`ALTER TABLE events ${way} ROW LEVEL SECURITY`)
    for (const end of ['DELETE FROM tokens', 'TRUNCATE tokens']) {
      await check(t, await createNode(t, database), end)
      await check(t, await createNode(t, { ...owners, url }), end)
    }
  }
  // Of tokens it is the operator's matter who sees which; what a TRUNCATE ends is reported all the same.
  await owners.query('ALTER TABLE tokens ENABLE ROW LEVEL SECURITY; ALTER TABLE tokens FORCE ROW LEVEL SECURITY')
  await owners.query("INSERT INTO tokens VALUES (repeat('0', 64), 'hidden', 'viewer', 'x', now(), now(), now())")
  await owner.query('TRUNCATE tokens')
  t.strictSame(await owners.query('SELECT type, database_user FROM events ORDER BY seq'), [
    { type: 'token.issued', database_user: 'postgres' }, { type: 'token.revoked', database_user: owner.role }
  ])
})

for (const level of ['repeatable read', 'serializable']) {
  t.test(`a default isolation of ${level} makes no difference, on several nodes at once`, async t => {
    const database = await createSeparateDatabase(t)
    await database.query(
      `ALTER DATABASE ${new URL(database.url).pathname.slice(1)} SET default_transaction_isolation = '${level}'`
    )
    const events = collectEvents()
    const nodes = await Promise.all([1, 2, 3].map(async () => await buildHost(t, {
      database, tokens: { onEvent: events.onEvent }
    })))
    const work = nodes.map(async ({ app }, node) => {
      for (let n = 0; n < 20; n++) {
        await app.tokens.revoke(
          (await app.tokens.issue({ ...NEW_TOKEN, name: `${node} ${n}`, requestedBy: 'x' })).hash
        )
      }
    })
    await Promise.all(work)
    for (const type of [
      'token.issued', 'token.revoked'
    ] as const) t.equal(new Set((await events.until(60, type)).map(({ name }) => name)).size, 60)
    t.equal(new Set(events.all.map(({ id }) => id)).size, events.all.length, 'none is reported twice')
  })
}

t.test('no origin, whatever its content and length, fails a change or loses another event', async t => {
  let id: unknown
  const events = collectEvents()
  const node = {
    ...await buildHost(t, { fastify: { genReqId: () => id as string }, tokens: { onEvent: events.onEvent } }), events
  }
  const headers = await node.login()
  const ids = [
    '\0', '\u001f\u001f\u001f', '{', '"', '\ud800', 'x'.repeat(10_000_000), '\n'.repeat(2000), '💥'.repeat(5000)
  ]
  for (id of ids) {
    const { hash } = await node.issue()
    t.equal((await node.app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })).statusCode, 200)
  }
  const told = await events.until(ids.length, 'token.revoked')
  t.strictSame(told.map(({ requestId }) => requestId?.slice(0, 4)), [
    '\ufffd', '\ufffd\ufffd\ufffd', '{', '"', '\ufffd', 'xxxx', '\ufffd'.repeat(4), '💥💥'
  ])
  t.ok(told.every(({ actor, requestId }) => actor === 'cedalo' && String(requestId).length <= 1000))
  for (const origin of [
    "''", "'{'", "E'\\x1f\\x1f'", "E'purge\\x1falice'", "repeat('x', 20000000)", "repeat(E'x\\x1f', 100000)"
  ]) {
    await check(t, node, `BEGIN; SELECT set_config('mmc_tokens.origin', ${origin}, true); DELETE FROM tokens; COMMIT`)
  }
  t.notOk(events.all.some(({ type }) => type === 'token.expired-purged'), 'a revocation does not pass for a purge')
})

t.test('an operator who may delete tokens, and nothing else, ends them, and is named', async t => {
  const node = await createNode(t)
  const { role, query } = await createRole(t, node.database, 'GRANT SELECT, DELETE ON tokens TO ROLE')
  await check(t, node, "SET mmc_tokens.origin = E'node\\x1fsomebody else'; DELETE FROM tokens", query)
  t.strictSame(node.events.all.filter(({ databaseUser }) => databaseUser === role).map(
    ({ type, actor }) => [type, actor]
  ),
  [['token.revoked', 'somebody else'], ['token.revoked', 'somebody else']])
})

/** How many rows are deleted at once; more by `OUTBOX_ROWS=100000`. */
const ROWS = Number(process.env.OUTBOX_ROWS ?? 20_000)

t.test(`${ROWS} rows that are deleted at once are an event each, on two nodes, and requests are served meanwhile`, async t => {
  const { all, onEvent } = collectEvents()
  const one = await buildHost(t, { tokens: { onEvent } })
  await buildHost(t, { database: one.database, tokens: { onEvent } })
  const { database } = one
  await database.query(
    "INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), n::text, 'viewer', 'sql', now(), '2999-01-01Z', now() FROM generate_series(1, $1::int) AS n",
    [ROWS]
  )
  // Its own events are not what this is about.
  await database.query('DELETE FROM events')
  const before = all.length
  const begun = performance.now()
  await database.query('DELETE FROM tokens')
  const deleted = performance.now()
  t.strictSame(await database.query(
    "SELECT count(*)::int, count(DISTINCT hash)::int AS hashes FROM events WHERE type = 'token.revoked'"
  ), [{ count: ROWS, hashes: ROWS }])
  await one.issue()
  await until(() => all.length - before >= 1000)
  t.comment(
    `deleted in ${Math.round(deleted - begun)} ms; the first 1,000 reported ${Math.round(performance.now() - deleted)} ms later`
  )
  const asked = performance.now()
  t.equal((await one.app.inject('/api/viewer')).statusCode, 401)
  t.ok(performance.now() - asked < 10_000, 'before all of them are reported')
  // The rest would take a minute.
  await database.query('DELETE FROM events')
})

for (const [outcome, isFailing] of [['was reported', false], ['could not be reported', true]] as const) {
  t.test(`an event that ${outcome} stops no other while its row is locked, and is reported again afterwards`, async t => {
    const begun = performance.now()
    const events = collectEvents()
    let release: (() => Promise<void>) | undefined
    const { database, issue } = await buildHost(t, {
      tokens: {
        async onEvent (event) {
          if (release === undefined) {
            release = await lock(t, database, 'SELECT FROM events WHERE id = $1 FOR UPDATE', [event.id])
            events.onEvent(event)
            if (isFailing) throw new Error('try again')
          } else {
            events.onEvent(event)
          }
        }
      }
    })
    await issue({ name: 'locked' })
    await events.until(1)
    await issue({ name: 'second' })
    t.match((await events.until(2))[1], { name: 'second' })
    t.ok(performance.now() - begun < 10_000, 'at once, not when the node looks for what others left')

    await release?.()
    // As if the minute of its claim were over.
    await database.query("UPDATE events SET claimed_until = now() WHERE name = 'locked'")
    await issue({ name: 'third' })
    t.strictSame((await events.until(4)).map(({ name }) => name).sort(), ['locked', 'locked', 'second', 'third'])
    t.equal(new Set(events.all.map(({ id }) => id)).size, 3, 'with the same id')
    await until(async () => (await database.query('SELECT 1 FROM events')).length === 0)
  })
}

t.test('after a week without any node, all events are reported when one starts, including those that a dead node had claimed', async t => {
  const { issue, app, database, events: before } = await createNode(t)
  const [{ hash }, { hash: other }] = [await issue(), await issue()]
  await before.until(2, 'token.issued')
  await app.close()
  await database.query('DELETE FROM tokens')
  await database.query("UPDATE events SET at = at - interval '8 days', claimed_until = claimed_until - interval '7 days'")
  await database.query('UPDATE events SET attempts = 3 WHERE hash = $1', [hash])

  const { events, issue: act } = await createNode(t, database)
  await act()
  const told = await events.until(2, 'token.revoked')
  t.strictSame(told.map(event => event.hash).sort(), [hash, other].sort())
  t.ok(told.every(({ at }) => Date.parse(at) < Date.now() - 7 * 24 * 60 * 60 * 1000), 'with the time of the act')
})

t.test('what waits in a backup is reported after it is restored, with the same id', async t => {
  const node = await createNode(t)
  const { database } = node
  await node.app.close()
  await database.query("INSERT INTO tokens VALUES (repeat('0', 64), 'old', 'viewer', 'x', now(), now(), now())")
  await database.query("UPDATE events SET at = '2020-01-01Z'; CREATE TABLE backup AS SELECT * FROM events")
  const [kept] = await database.query('SELECT id FROM events')
  // A week passes, in which other events come and go.
  await database.query('TRUNCATE events RESTART IDENTITY; INSERT INTO events SELECT * FROM backup')
  const later = await createNode(t, database)
  await later.issue()
  t.match(await later.events.until(2), [
    { id: kept?.id, type: 'token.issued', name: 'old', at: '2020-01-01T00:00:00.000Z' }, { type: 'token.issued' }
  ])
})

for (const strings of ['on', 'off']) {
  t.test(`rows of the previous version are moved into the outbox, even if they are unreadable: standard_conforming_strings = ${strings}`, async t => {
    const database = await createSeparateDatabase(t)
    await database.query(
      `ALTER DATABASE ${new URL(database.url).pathname.slice(1)} SET standard_conforming_strings = ${strings}`
    )
    const [first = '', second = ''] = migrations(database.schema)
    await database.query(
      `CREATE SCHEMA ${database.schema}; ${first} ${second} INSERT INTO ${database.schema}.migrations VALUES (1), (2)`
    )
    for (const [n, origin] of [
      null, '{', '{"actor":"a \\"b\\" \\\\","address":null,"requestId":"r"}', '{"isPurged":true}', '\u0001'
    ].entries()) {
      await database.query(
        "INSERT INTO ended VALUES (repeat('0', 64), $1, 'viewer', '2020-01-01Z', $2)", [String(n), origin]
      )
    }
    const node = await createNode(t, database)
    await node.issue()
    const about = {
      actor: null,
      address: null,
      requestId: null,
      databaseUser: null,
      at: '2020-01-01T00:00:00.000Z',
      type: 'token.revoked'
    }
    t.match(await node.events.until(6), [
      { ...about, name: '0' }, { ...about, name: '1' }, { ...about, name: '2', actor: 'a \\"b\\" \\\\', requestId: 'r' },
      { ...about, name: '3', type: 'token.expired-purged' }, { ...about, name: '4' }, { type: 'token.issued' }
    ])
  })
}
