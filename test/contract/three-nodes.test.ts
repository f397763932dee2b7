import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createSeparateDatabase } from '../support/database.js'
import { type NodeProcess, startNode } from '../support/node-process.js'

t.test('of three node processes, the one that answers the DELETE refuses the token at once, the others never later than 2 s after', async t => {
  const { url } = await createSeparateDatabase(t)
  const nodes = await Promise.all(Array.from({ length: 3 }, async () => await startNode(t, url)))

  // A light load beside it, all the while.
  const good = await (nodes[0] as NodeProcess).issue('good')
  const over = new AbortController()
  const load = Promise.all(nodes.map(async node => {
    const statuses = new Set<number>()
    while (!over.signal.aborted) {
      statuses.add((await node.use(good.token)).status)
      await sleep(5)
    }
    return statuses
  }))

  let slowest = 0
  for (let round = 0; round < 30 && slowest < 2000; round++) {
    const [revoking, ...others] = [...nodes.slice(round % 3), ...nodes.slice(0, round % 3)] as [NodeProcess, NodeProcess, NodeProcess]
    const { token, hash } = await revoking.issue(`round ${round}`)
    // Twice, so that it is known everywhere.
    for (const node of [...nodes, ...nodes]) if ((await node.use(token)).status !== 200) t.fail('a live token is accepted')
    await revoking.revoke(hash)
    const answered = performance.now()
    const [there, ...elsewhere] = await Promise.all([
      revoking.use(token),
      ...others.map(async node => {
        let last = 0
        for (;;) {
          const { status, begun } = await node.use(token)
          if (status === 401 || begun - answered > 3000) return last
          if (status === 200) last = begun - answered
        }
      })
    ])
    t.equal(there.status, 401)
    slowest = Math.max(slowest, ...elsewhere)
  }
  t.ok(slowest < 2000, `last accepted ${slowest} ms after the answer`)
  t.comment(`last accepted ${slowest.toFixed(1)} ms after the answer`)

  over.abort()
  for (const statuses of await load) t.notOk(statuses.has(401) || statuses.has(403), 'and a good token is never refused')
})
