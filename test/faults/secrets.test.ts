import t, { type Test } from 'tap'
import { bearer, SECRET } from '../support/build-host.js'
import { buildNode } from './build-node.js'
import type { BugName } from './bugs.js'
import { login } from './load.js'
import { startNode } from './start-node.js'
import { startServer } from './world.js'

interface Token { token: string, hash: string }

/**
 * Two nodes on one database whose secrets differ: what each answers to a token of the other, and what both answer after
 * it was revoked by the other.
 */
async function cross (t: Test, bug?: BugName): Promise<number[]> {
  const [postgres, build] = await Promise.all([startServer(t), buildNode(bug)])
  t.teardown(build.remove)
  const nodes = [
    await startNode('one', build, { postgres: postgres.url, secret: SECRET }),
    await startNode('two', build, { postgres: postgres.url, secret: `${SECRET}, and another` })
  ]
  for (const node of nodes) t.teardown(node.kill)
  const statuses: number[] = []
  for (const [home, away] of [nodes, nodes.toReversed()] as Array<[typeof nodes[0], typeof nodes[0]]>) {
    const headers = await login(home)
    const use = async ({ address }: typeof home, token: string): Promise<void> => {
      statuses.push((await fetch(`${address}/api/viewer`, { headers: bearer(token) })).status)
    }
    const body = JSON.stringify({ name: `of ${home.name}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
    const { token, hash } = await (await fetch(
      `${home.address}/api/tokens`, { method: 'POST', headers, body }
    )).json() as Token
    await use(home, token)
    await use(away, token)
    statuses.push((await fetch(`${away.address}/api/tokens/${hash}`, { method: 'DELETE', headers })).status)
    const answered = performance.now()
    while ((await fetch(`${home.address}/api/viewer`, { headers: bearer(token) })).status === 200 &&
      performance.now() - answered < 2000);
    await use(home, token)
    await use(away, token)
  }
  return statuses
}

t.test('two nodes with different secrets: neither lets in by a token of the other, and each revokes it', async t => {
  t.not((await cross(t, 'all secrets make one key'))[1], 401, 'a planted bug is found')
  t.strictSame(await cross(t), [200, 401, 200, 401, 401, 200, 401, 200, 401, 401])
})
