import { randomBytes } from 'node:crypto'
import pg from 'pg'
import t, { type Test } from 'tap'
import { buildHost, type TestHost } from '../support/build-host.js'
import { collectEvents, type Events } from '../support/events.js'
import { until } from '../support/until.js'

// What each role of "Who can forge what" in docs/security.md can do to the audit, and what not.

interface World extends TestHost { events: Events }

async function createWorld (t: Test): Promise<World> {
  const events = collectEvents()
  return { ...await buildHost(t, { tokens: { onEvent: events.onEvent } }), events }
}

type Query = (text: string) => Promise<Array<Record<string, unknown>>>

/** A session of a role with these grants. */
async function connectAs (
  t: Test, { database: { url, schema, query } }: World, grants: string
): Promise<{ role: string, query: Query }> {
  const role = `role_${randomBytes(6).toString('hex')}`
  await query(`CREATE ROLE ${role} LOGIN; ${grants.replaceAll('ROLE', role).replaceAll('SCHEMA', `SCHEMA ${schema}`)}`)
  const client = new pg.Client({
    connectionString: Object.assign(new URL(url), { username: role }).href, options: `-c search_path=${schema}`
  })
  await client.connect()
  t.teardown(async () => {
    await client.end()
    await query(`DROP OWNED BY ${role}; DROP ROLE ${role}`)
  })
  return {
    role,
    query: async text => (await client.query(text.replaceAll('SCHEMA', schema))).rows as Array<Record<string, unknown>>
  }
}

const ROLES = {
  'CONNECT alone': '',
  'SELECT on all tables': 'GRANT USAGE ON SCHEMA TO ROLE; GRANT SELECT ON ALL TABLES IN SCHEMA TO ROLE',
  'SELECT and DELETE on tokens': 'GRANT USAGE ON SCHEMA TO ROLE; GRANT SELECT, DELETE ON tokens TO ROLE'
}

const EVENT = "(type, hash, name, role, actor) VALUES ('token.revoked', repeat('0', 64), 'forged', 'admin', 'alice')"

/** Each is refused, whoever tries. */
const ATTEMPTS = [
  `INSERT INTO SCHEMA.events ${EVENT}`,
  "UPDATE SCHEMA.events SET actor = 'nobody'",
  'DELETE FROM SCHEMA.events',
  'TRUNCATE SCHEMA.events',
  'SELECT 1 FROM SCHEMA.events FOR UPDATE',
  'BEGIN; LOCK TABLE SCHEMA.events IN EXCLUSIVE MODE',
  "SELECT nextval('SCHEMA.events_seq_seq')",
  'SELECT SCHEMA.record_event()',
  'CREATE TEMP TABLE mine (LIKE SCHEMA.tokens); CREATE TRIGGER forge AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION SCHEMA.record_event()',
  'CREATE TEMP TABLE mine (hash text); CREATE TRIGGER forge AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION SCHEMA.record_event()',
  'CREATE TRIGGER forge BEFORE DELETE ON SCHEMA.tokens FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
  'CREATE RULE forge AS ON INSERT TO SCHEMA.events DO INSTEAD NOTHING',
  'ALTER TABLE SCHEMA.tokens DISABLE TRIGGER ALL',
  'ALTER FUNCTION SCHEMA.record_event() SECURITY INVOKER',
  'CREATE OR REPLACE FUNCTION SCHEMA.record_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$',
  'CREATE TABLE SCHEMA.mine (hash text)',
  'ALTER TABLE SCHEMA.events ENABLE ROW LEVEL SECURITY',
  'SET session_replication_role = replica',
  'SET SESSION AUTHORIZATION postgres',
  'SET ROLE postgres',
  'INSERT INTO SCHEMA.tokens VALUES (repeat(\'0\', 64), \'forged\', \'admin\', \'x\', now(), now(), now())',
  'UPDATE SCHEMA.tokens SET hash = repeat(\'0\', 64)',
  'UPDATE SCHEMA.tokens SET valid_until = now()',
  'TRUNCATE SCHEMA.tokens'
]

async function isRefused (t: Test, query: Query, attempt: string): Promise<void> {
  const error = await query(attempt).catch((error: unknown) => error) as { code?: string }
  t.match(error.code, /^(42501|0A000)$/, attempt)
  await query('ROLLBACK; DROP TABLE IF EXISTS pg_temp.mine')
}

for (const [name, grants] of Object.entries(ROLES)) {
  t.test(`${name}: no event can be made up, changed, locked or taken away, and no trigger turned off`, async t => {
    const world = await createWorld(t)
    const { query } = await connectAs(t, world, grants)
    const { hash } = await world.issue()
    await world.events.until(1)
    for (const attempt of ATTEMPTS) await isRefused(t, query, attempt)
    if (name === 'SELECT on all tables') t.ok(await query('SELECT 1 FROM SCHEMA.events'))
    else await isRefused(t, query, 'SELECT 1 FROM SCHEMA.events')
    // Anybody may notify; it makes a node look, and no more.
    await query("NOTIFY mmc_tokens, '!'")
    await world.app.tokens.revoke(hash, { revokedBy: 'alice' })
    t.match(await world.events.until(2), [{ type: 'token.issued' }, { type: 'token.revoked', actor: 'alice' }])
    await until(async () => (await world.database.query('SELECT 1 FROM events')).length === 0)
    t.equal(world.events.all.length, 2)
  })
}

t.test('where EXECUTE was granted by mistake, the function works for no other table', async t => {
  const world = await createWorld(t)
  const { query } = await connectAs(
    t, world, `${ROLES['SELECT on all tables']}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA TO ROLE`
  )
  await query(
    'CREATE TEMP TABLE tokens (LIKE SCHEMA.tokens); CREATE TRIGGER forge AFTER INSERT OR DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION SCHEMA.record_event()'
  )
  await t.rejects(
    query('INSERT INTO pg_temp.tokens SELECT repeat(\'0\', 64), \'forged\', \'admin\', \'x\', now(), now(), now()'),
    { code: 'P0001' }
  )
  t.strictSame(await world.database.query('SELECT 1 FROM events'), [])
})

t.test('who may delete tokens says who did it and how, but each deletion is an event, under the true user of the database', async t => {
  const world = await createWorld(t)
  const { role, query } = await connectAs(t, world, ROLES['SELECT and DELETE on tokens'])
  const tricks = [
    "SET mmc_tokens.origin = E'node\\x1fsomebody\\x1f192.0.2.1\\x1freq-1'", "SET mmc_tokens.origin = E'purge'", 'SET application_name = \'fastify-mmc-tokens\'',
    'CREATE TEMP TABLE events (LIKE SCHEMA.tokens); SET search_path = pg_temp, SCHEMA',
    // What would be called in the place of Postgres's own, if names were looked up where the session says.
    `CREATE FUNCTION pg_temp.left(text, integer) RETURNS text LANGUAGE sql AS $$ SELECT 'forged' $$;
      CREATE FUNCTION pg_temp.forged(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
      CREATE OPERATOR pg_temp.<> (LEFTARG = oid, RIGHTARG = oid, FUNCTION = pg_temp.forged); SET search_path = pg_temp, SCHEMA, pg_catalog`,
    'SET row_security = off', "SET lock_timeout = '1ms'; SET default_transaction_deferrable = on"
  ]
  for (const trick of tricks) {
    await world.issue({ name: trick.slice(0, 100).replaceAll(/\s+/g, ' ') })
    await query(`${trick}; DELETE FROM SCHEMA.tokens`)
    await query('RESET search_path; RESET mmc_tokens.origin')
  }
  // Nothing happened, so nothing is told.
  await world.issue({ name: 'kept' })
  await query('BEGIN; DELETE FROM SCHEMA.tokens; ROLLBACK')
  const expired = await world.issue({ name: 'expired' })
  await world.database.query(
    "UPDATE tokens SET valid_until = now() - interval '1 hour' WHERE hash = $1", [expired.hash]
  )
  await query("SET mmc_tokens.origin = 'purge'; DELETE FROM SCHEMA.tokens WHERE valid_until < now()")
  await world.issue({ name: 'last' })
  await until(() => world.events.all.some(({ name }) => name === 'last'))
  const ends = world.events.all.filter(({ type }) => type !== 'token.issued')
  t.strictSame(ends.map(({ type }) => type), [...tricks.map(() => 'token.revoked'), 'token.expired-purged'])
  t.ok(ends.every(({ databaseUser }) => databaseUser === role))
  t.match(ends[0], { actor: 'somebody', address: '192.0.2.1', requestId: 'req-1' })
  t.notOk(ends.some(({ name, role }) => name === 'forged' || role === 'forged'))
})

t.test("the nodes' role can delay an event and take it out, but neither make one up nor change one", async t => {
  const world = await createWorld(t)
  const { query } = await connectAs(
    t,
    world,
    'GRANT USAGE ON SCHEMA TO ROLE; GRANT SELECT, INSERT, DELETE, UPDATE (last_used) ON tokens TO ROLE; GRANT SELECT, DELETE, UPDATE (attempts, claimed_until) ON events TO ROLE'
  )
  const allowed = [
    'SELECT 1 FROM SCHEMA.events', 'SELECT 1 FROM SCHEMA.events FOR UPDATE', 'UPDATE SCHEMA.events SET attempts = 0',
    'BEGIN; LOCK TABLE SCHEMA.events IN EXCLUSIVE MODE; ROLLBACK', 'DELETE FROM SCHEMA.events'
  ]
  for (const attempt of allowed) await t.resolves(query(attempt), attempt)
  const isAllowed = /^(DELETE FROM SCHEMA.events|SELECT 1|BEGIN; LOCK|INSERT INTO SCHEMA.tokens)/
  for (const attempt of ATTEMPTS.filter(attempt => !isAllowed.test(attempt))) await isRefused(t, query, attempt)
})
