import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { beatChannel } from '../../lib/tokens/jwt.js'
import { SECRET } from '../support/build-host.js'
import { createProxy, type Proxy } from '../support/proxy.js'
import { until } from '../support/until.js'
import type { BugName } from './bugs.js'
import { buildNode } from './build-node.js'
import { type Node, startNode } from './start-node.js'
import { connectTo, startServer } from './world.js'

/** Each with a way to Postgres, and a role there, of its own. */
interface Member { node: Node, proxy: Proxy }

/** What becomes of the node that beats, for longer than a lease. */
const STRIKES: Record<string, (member: Member) => Promise<unknown>> = {
  'is frozen': async ({ node }) => {
    process.kill(node.pid, 'SIGSTOP')
    await sleep(3000)
    process.kill(node.pid, 'SIGCONT')
  },
  'can send, but not hear': async ({ proxy }) => {
    proxy.set('swallow notifications')
    await sleep(3000)
    proxy.set('none')
  },
  'is killed': async ({ node }) => {
    await node.kill()
    await sleep(3000)
  }
}

interface Seen {
  /** Beats a second while nothing happens. */
  rate: number
  /** How often the beats that took over were more than one within 100 ms. */
  crowds: number[]
  /** For each strike, the other nodes that lost the lease. */
  lost: Record<string, string[]>
}

/** Five nodes, of which the one that beats is struck, in one way after the other. */
async function observe (t: Test, bug?: BugName): Promise<Seen> {
  const [postgres, build] = await Promise.all([startServer(t), buildNode(bug)])
  t.teardown(build.remove)
  const client = await connectTo(postgres.url)
  t.teardown(() => client.end())
  const members = new Map<string, Member>()
  for (const name of ['a', 'b', 'c', 'd', 'e']) {
    await client.query(`CREATE ROLE ${name} LOGIN SUPERUSER`)
    const proxy = await createProxy(t, Object.assign(new URL(postgres.url), { username: name }).href)
    const node = await startNode(name, build, { postgres: proxy.url, secret: SECRET })
    t.teardown(node.kill)
    members.set(name, { node, proxy })
  }
  const isHeld = async ({ node }: Member): Promise<boolean> => (await (await fetch(`${node.address}/health`)).json() as { lease: string }).lease === 'held'
  const allHeld = async (): Promise<boolean> => (await Promise.all([...members.values()].map(isHeld))).every(Boolean)

  const beats: Array<{ at: number, pid: number }> = []
  client.on('notification', ({ processId }) => { beats.push({ at: performance.now(), pid: processId }) })
  await client.query(`LISTEN "${beatChannel(SECRET, 'mmc_tokens')}"`)
  await until(allHeld)
  await sleep(1000)
  beats.length = 0
  await sleep(4000)
  const seen: Seen = { rate: beats.length / 4, crowds: [], lost: {} }

  for (const [what, strike] of Object.entries(STRIKES)) {
    await until(allHeld).catch(() => {})
    let name = ''
    // The connection that beat last may have been replaced since.
    await until(async () => {
      const { rows } = await client.query<{ usename: string }>(
        'SELECT usename FROM pg_stat_activity WHERE pid = $1', [beats.at(-1)?.pid]
      )
      name = rows[0]?.usename ?? ''
      return members.has(name)
    })
    const struck = members.get(name) as Member
    members.delete(name)
    beats.length = 0
    const lost = new Set<string>()
    const over = new AbortController()
    const striking = strike(struck).finally(() => { over.abort() })
    while (!over.signal.aborted) {
      for (const [other, member] of members) if (!await isHeld(member)) lost.add(other)
      await sleep(20)
    }
    await striking
    const first = beats[0]?.at ?? NaN
    seen.crowds.push(beats.filter(({ at }) => at < first + 100).length)
    seen.lost[what] = [...lost]
    if (what !== 'is killed') members.set(name, struck)
  }
  return seen
}

t.test('one node at a time beats; when it freezes, can not hear or dies another does in time, and few at once', async t => {
  let seen = await observe(t)
  // On a busy machine a beat arrives late, and others step in meanwhile.
  for (let tries = 1; tries < 3 && seen.crowds.some(count => count > 3); tries++) seen = await observe(t)
  const { rate, crowds, lost } = seen
  t.comment(JSON.stringify(seen))
  t.ok(rate > 1.5 && rate < 2.7, `${rate} beats a second`)
  t.ok(crowds.every(count => count <= 3), crowds.join())
  t.strictSame(Object.values(lost).flat(), [])
})

t.test('a planted bug is found: a node never steps in', async t => {
  const { lost } = await observe(t, 'a node never steps in')
  t.ok(Object.values(lost).flat().length > 0, JSON.stringify(lost))
})

t.test('a planted bug is found: every node beats', async t => {
  const { rate } = await observe(t, 'every node beats')
  t.ok(rate > 5, `${rate} beats a second`)
})
