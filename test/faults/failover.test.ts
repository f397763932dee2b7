import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startPostgres } from '../support/postgres.js'
import { SEED } from './random.js'
import { runFault } from './run-fault.js'
import { connectTo, createWorld, SETTINGS, startServer } from './world.js'

t.comment(`FAULT_SEED=${SEED}`)

/** The primary dies under load, its standby is promoted, and the nodes are led there. */
async function failOver (t: Test, isSynchronous: boolean) {
  const primary = await startServer(t)
  const world = await createWorld(t, primary, undefined, true)
  await primary.stop()
  const standby = await startPostgres({ standbyOf: primary, settings: SETTINGS })
  t.teardown(() => standby.end())
  await primary.start()
  const [onPrimary, onStandby] = await Promise.all([connectTo(primary.url), connectTo(standby.url)])
  t.teardown(() => Promise.all([onPrimary.end(), onStandby.end()]))
  if (isSynchronous) await onPrimary.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
  await onPrimary.query('SELECT pg_reload_conf()')
  const state = isSynchronous ? 'sync' : 'async'
  while ((await onPrimary.query(
    'SELECT FROM pg_stat_replication WHERE sync_state = $1', [state]
  )).rows.length === 0) await setTimeout(50)

  return await runFault(world, {
    name: 'the primary crashes, and its standby is promoted',
    async strike ({ proxy }) {
      if (!isSynchronous) {
        // A standby that nobody waits for may fall behind.
        await onStandby.query("ALTER SYSTEM SET primary_conninfo = ''")
        await onStandby.query('SELECT pg_reload_conf()')
        await setTimeout(2000)
      }
      await primary.stop('SIGQUIT')
      return async () => {
        await onStandby.query('SELECT pg_promote()')
        proxy.lead(standby.url)
      }
    }
  })
}

t.test('what a configuration that is not to be trusted loses is found: a failover to an asynchronous standby', async t => {
  const { summary } = await failOver(t, false)
  t.match(Object.keys(summary).join(), /lost|revoked and back/)
})

t.test('a failover to a synchronous standby: nothing lost, nobody let in, and back within 3 s of its promotion', async t => {
  const { summary, figures } = await failOver(t, true)
  t.comment(JSON.stringify(figures))
  t.strictSame(summary, {})
  t.ok(figures.errors > 0, 'the fault is felt')
})
