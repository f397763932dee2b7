import { setImmediate as turn } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { buildHost } from '../support/build-host.js'
import { createSeparateDatabase, type Database } from '../support/database.js'

const ISOLATIONS = ['repeatable read', 'serializable'] as const
/** How often so many nodes boot at once; more of it by `BOOT_ROUNDS=20`. */
const ROUNDS = Number(process.env.BOOT_ROUNDS ?? 2)

async function createDefaulting (t: Test, isolation: string): Promise<Database> {
  const database = await createSeparateDatabase(t)
  const [{ name }] = await database.query('SELECT current_database() AS name') as [{ name: string }]
  await database.query(`ALTER DATABASE ${name} SET default_transaction_isolation = '${isolation}'`)
  return database
}

for (const isolation of ISOLATIONS) {
  for (const nodes of [2, 3, 6]) {
    t.test(`${nodes} nodes boot at once on an empty database whose default isolation is ${isolation}`, async t => {
      const database = await createDefaulting(t, isolation)
      let rejected = 0
      for (let round = 0; round < ROUNDS; round++) {
        await database.query('DROP SCHEMA IF EXISTS mmc_tokens CASCADE')
        const booted = await Promise.allSettled(Array.from({ length: nodes }, async () => await buildHost(t, { database })))
        for (const boot of booted) {
          if (boot.status === 'rejected') rejected++
          else await boot.value.app.close()
        }
      }
      t.comment(`${ROUNDS} rounds, ${rejected} of ${ROUNDS * nodes} rejected`)
      t.equal(rejected, 0)
    })
  }

  t.test(`of many who create a token of one name at once, exactly one gets 200 and all others 409: ${isolation}`, async t => {
    const database = await createDefaulting(t, isolation)
    const hosts = [await buildHost(t, { database }), await buildHost(t, { database })]
    const sessions = await Promise.all(hosts.map(async ({ login }) => await login()))
    for (let round = 0; round < 20; round++) {
      const answers = await Promise.all(Array.from({ length: 8 }, async (_, n) => await hosts[n % 2]?.app.inject({
        method: 'POST', url: '/api/tokens', headers: { ...sessions[n % 2] }, payload: { name: `name ${round}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
      })))
      t.strictSame(answers.map(answer => answer?.statusCode).sort(), [200, 409, 409, 409, 409, 409, 409, 409])
    }
  })

  t.test(`a DELETE beside a change of its row is done when that is: ${isolation}`, async t => {
    const database = await createDefaulting(t, isolation)
    const { app, issue, login } = await buildHost(t, { database })
    const { hash } = await issue()
    const headers = await login()
    const other = new pg.Client(database.url)
    await other.connect()
    t.teardown(() => other.end())
    await other.query('BEGIN')
    await other.query("UPDATE mmc_tokens.tokens SET role = 'editor'")
    const deleting = app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    const isWaiting = async (): Promise<boolean> => (await database.query("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")).length > 0
    while (!await isWaiting()) await turn()
    await other.query('COMMIT')
    const { statusCode, body } = await deleting
    t.strictSame([statusCode, body], [200, '[]'])
  })
}
