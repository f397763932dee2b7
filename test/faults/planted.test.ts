import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import type { BugName } from './bugs.js'
import { type Fault, isAccepted } from './fault.js'
import { chosen } from './faults.js'
import { SEED } from './random.js'
import { runFault } from './run-fault.js'
import { createWorld, startServer } from './world.js'

t.comment(`FAULT_SEED=${SEED}`)

/** Some bugs show only where a token was looked up, or revoked, in a moment that chance must bring about. */
const RUNS = 8

const postgres = await startServer(t)
const faults = new Map<BugName, Fault[]>()
for (const fault of chosen()) for (const bug of [fault.bug].flat()) faults.set(bug, [...faults.get(bug) ?? [], fault])

for (const [bug, finders] of faults) {
  t.test(`a planted bug is found: ${bug}`, async t => {
    for (const fault of finders) {
      await t.test(fault.name, async t => {
        // Of its own: some bugs end a node.
        const world = await createWorld(t, postgres, bug)
        for (let run = 1; ; run++) {
          // A planted bug may keep a dead connection for ten seconds.
          if (run > 1) await setTimeout(5000)
          const { violations, summary } = await runFault(world, { ...fault, name: `${fault.name}, run ${run}` }, {
            after: fault.caught === isAccepted ? 5500 : 1500,
            // Another draw each time.
            seed: SEED + run
          })
          const isFound = violations.some(violation => fault.caught.test(violation))
          if (!isFound && run < RUNS) continue
          t.ok(isFound, JSON.stringify(summary))
          t.comment(`found in run ${run}`)
          break
        }
      })
    }
  })
}
