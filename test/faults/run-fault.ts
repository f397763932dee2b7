import { setTimeout } from 'node:timers/promises'
import { check, measure } from './check.js'
import { LASTS, type Strike } from './fault.js'
import { startLoad } from './load.js'
import { createRandom, SEED } from './random.js'
import type { World } from './world.js'

/** Before it, in milliseconds. */
const BEFORE = 500
/** After it was healed: long enough to see what recovers too late, and what is accepted too late. */
const AFTER = 3500
/** Some planted bugs show only where a token was looked up, or revoked, in a moment that chance must bring about. */
const RUNS = 8

/** A fault under load, and what the history says of it. */
export async function runFault (
  world: World, { name, strike, frozen = [], calls, only }: Strike, { after = AFTER, seed = SEED } = {}
) {
  const load = await startLoad(world.nodes, createRandom(seed), name)
  let struck = NaN
  let full = NaN
  let healed = NaN
  try {
    await setTimeout(BEFORE)
    struck = performance.now()
    const heal = await strike(world)
    full = performance.now()
    await setTimeout(LASTS / 2)
    load.revokeKnown()
    await setTimeout(LASTS / 2)
    // The others ask by chance, and may miss it.
    load.askHealth(frozen)
    await heal()
    healed = performance.now()
    await setTimeout(after)
    load.useRevoked()
  } finally {
    await load.stop()
  }
  const rules = { struck, full, healed, frozen, ...calls && { calls }, ...only && { only } }
  // Its last words say more than all the errors that follow.
  const dead = world.nodes.filter(node => !node.isRunning()).map(node =>
    `node "${node.name}" died: ${node.said().slice(-3000)}`)
  const violations = [...dead, ...check(load.history, await world.takeRows(), rules)]
  return { history: load.history, violations, summary: summarise(violations), figures: measure(load.history, rules) }
}

/** Strikes until a planted bug is caught, eight times at most, with another draw each time. */
export async function seek (world: World, strike: Strike, caught: RegExp, after = AFTER) {
  for (let run = 1; ; run++) {
    // A planted bug may keep a dead connection for ten seconds.
    if (run > 1) await setTimeout(5000)
    const { violations, summary } = await runFault(world, { ...strike, name: `${strike.name}, run ${run}` }, {
      after, seed: SEED + run
    })
    const isFound = violations.some(violation => caught.test(violation))
    if (isFound || run === RUNS) return { isFound, run, summary }
  }
}

/** How many of each kind, and the first. */
function summarise (violations: string[]): Record<string, string> {
  const kinds = new Map<string, string[]>()
  for (const violation of violations) {
    const kind = violation.split(':', 1)[0]?.replace(/\d+ ms/, 'n ms') ?? ''
    kinds.set(kind, [...kinds.get(kind) ?? [], violation])
  }
  return Object.fromEntries([...kinds].map(([kind, all]) => [kind, `${all.length}, such as ${all[0]}`]))
}
