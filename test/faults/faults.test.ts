import t from 'tap'
import { checkTable } from './check.js'
import { chosen } from './faults.js'
import type { Call } from './load.js'
import { SEED } from './random.js'
import { runFault } from './run-fault.js'
import { createWorld, startServer } from './world.js'

t.comment(`FAULT_SEED=${SEED}`)

t.test('one fault after the other, the same three nodes all the while', async t => {
  const world = await createWorld(t, await startServer(t))
  const revocations: Call[] = []
  for (const fault of chosen()) {
    await t.test(`${fault.name}: nothing lost, nobody let in, and back within 3 s`, async t => {
      const { history, summary, figures } = await runFault(world, fault)
      revocations.push(...history.filter(({ what }) => what === 'revoke'))
      t.comment(JSON.stringify(figures))
      t.strictSame(summary, {})
      t.ok(fault.isFelt(figures), 'the fault is felt')
    })
  }
  t.strictSame(checkTable(revocations, await world.takeRows()), [], 'no token that was revoked is back at the end')
})
