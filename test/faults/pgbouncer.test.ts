import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { bearer, SECRET } from '../support/build-host.js'
import { buildNode } from './build-node.js'
import type { BugName } from './bugs.js'
import { isSlow, type Strike } from './fault.js'
import { login } from './load.js'
import { HAS_PGBOUNCER, startPgBouncer } from './pgbouncer.js'
import { SEED } from './random.js'
import { runFault, seek } from './run-fault.js'
import { startNode } from './start-node.js'
import { createWorld, startServer, type World } from './world.js'

const skip = HAS_PGBOUNCER ? false : 'PgBouncer is not installed'
if (skip !== false) console.error(`SKIPPED, NOT TESTED: ${skip}`)
t.comment(`FAULT_SEED=${SEED}`)

/** Two nodes whose lookups go through PgBouncer, and what freezes it for a while. */
async function createFrozen (t: Test, bug?: BugName): Promise<{ world: World, freeze: Strike }> {
  const postgres = await startServer(t)
  const bouncer = await startPgBouncer(t, postgres.url)
  const world = await createWorld(t, postgres, bug)
  world.proxy.lead(bouncer.url)
  world.proxy.cut()
  await setTimeout(500)
  return {
    world: { ...world, nodes: [world.near, world.apart] },
    freeze: {
      name: 'PgBouncer freezes',
      calls: 1,
      async strike () {
        process.kill(bouncer.pid, 'SIGSTOP')
        return () => process.kill(bouncer.pid, 'SIGCONT')
      }
    }
  }
}

/**
 * A node without the option `listen` listens through the pooler, and receives nothing: how long after its revocation
 * it accepts a token.
 */
async function lastAccepted (t: Test, bug?: BugName): Promise<number> {
  const [postgres, build] = await Promise.all([startServer(t), buildNode(bug)])
  t.teardown(build.remove)
  const near = await startNode('near', build, { postgres: postgres.url, secret: SECRET })
  t.teardown(near.kill)
  const misled = await startNode('misled', build, {
    postgres: (await startPgBouncer(t, postgres.url)).url, secret: SECRET
  })
  t.teardown(misled.kill)
  const headers = await login(near)
  const body = JSON.stringify({ name: 'revoked', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
  const { token, hash } = await (await fetch(
    `${near.address}/api/tokens`, { method: 'POST', headers, body }
  )).json() as { token: string, hash: string }
  const use = async (): Promise<number> => (await fetch(
    `${misled.address}/api/viewer`, { headers: bearer(token) }
  )).status
  // Long enough for a lease, if there were one.
  await setTimeout(1500)
  while (await use() !== 200);
  await fetch(`${near.address}/api/tokens/${hash}`, { method: 'DELETE', headers })
  const answered = performance.now()
  let last = 0
  while (performance.now() - answered < 3000) {
    const begun = performance.now()
    if (await use() === 200) last = begun - answered
  }
  return last
}

t.test('a planted bug is found: a call may take 5 s', { skip }, async t => {
  const { world, freeze } = await createFrozen(t, 'a call may take 5 s')
  const { isFound, summary } = await seek(world, freeze, isSlow)
  t.ok(isFound, JSON.stringify(summary))
})

t.test('PgBouncer that freezes: nothing lost, nobody let in, and back within 3 s', { skip }, async t => {
  const { world, freeze } = await createFrozen(t)
  const { summary, figures } = await runFault(world, freeze)
  t.comment(JSON.stringify(figures))
  t.strictSame(summary, {})
  t.ok(figures.errors > 0, 'the fault is felt')
})

t.test('a node that listens through PgBouncer, where its own notifications arrive and no others, never believes that it hears', { skip }, async t => {
  let planted = 0
  // A named statement may fail in a pooler now and then, and the lie ends.
  for (let run = 0; run < 4 &&
    planted <= 2000; run++) planted = await lastAccepted(t, 'a connection is taken to hear before anything was heard')
  t.ok(planted > 2000, `a planted bug is found: ${planted} ms`)
  t.equal(await lastAccepted(t), 0)
})
