import t from 'tap'
import type { BugName } from './bugs.js'
import { type Fault, isAccepted } from './fault.js'
import { chosen } from './faults.js'
import { SEED } from './random.js'
import { seek } from './run-fault.js'
import { createWorld, startServer } from './world.js'

t.comment(`FAULT_SEED=${SEED}`)

const postgres = await startServer(t)
const faults = new Map<BugName, Fault[]>()
for (const fault of chosen()) for (const bug of [fault.bug].flat()) faults.set(bug, [...faults.get(bug) ?? [], fault])

for (const [bug, finders] of faults) {
  t.test(`a planted bug is found: ${bug}`, async t => {
    for (const fault of finders) {
      await t.test(fault.name, async t => {
        // Of its own: some bugs end a node.
        const world = await createWorld(t, postgres, bug)
        const { caught } = fault
        const { isFound, run, summary } = await seek(world, fault, caught, caught === isAccepted ? 5500 : 1500)
        t.ok(isFound, JSON.stringify(summary))
        t.comment(`found in run ${run}`)
      })
    }
  })
}
