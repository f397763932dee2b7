import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { until } from '../support/until.js'
import { LASTS, type Strike } from './fault.js'
import { chosen } from './faults.js'
import { startLoad } from './load.js'
import { createRandom } from './random.js'
import type { Node } from './start-node.js'
import { askLoop, createAdmin, figures, type Live, openLive, ping } from './sockets.js'
import { connectTo, createWorld, startServer, type World } from './world.js'

/** From the signal to the end of the connection, in milliseconds. */
const CUT = 1100
/** From a revocation to the signal where a node does not receive it but can ask: a lease, and a pause of questions. */
const UNHEARD = 3000
/** From when Postgres can be asked again to the signal. */
const RECOVERY = 2000
/** A connection that held the lease for so long is connected again without a longer pause. */
const SOUND = 2100
/** What a busy machine adds. */
const SLACK = 500

const world = await createWorld(t, await startServer(t))
const { near, far, apart, nodes } = world
const isHeld = async ({ address }: Node): Promise<boolean> =>
  (await (await fetch(`${address}/health`)).json() as { lease: string }).lease === 'held'
for (const node of nodes) await until(async () => await isHeld(node))
const admin = await createAdmin(near)

t.test('1,000 tokens revoked under load: the sockets on the other nodes get the signal, and are cut', async t => {
  const load = await startLoad(nodes, createRandom(), 'under load')
  const signals: number[] = []
  const cuts: number[] = []
  const here: number[] = []
  const plain: number[] = []
  const followed: Array<Promise<void>> = []
  for (let n = 0; n < 1000; n++) {
    const token = await admin.issue(`live ${n}`)
    const opened = await Promise.all(nodes.map(async node => await openLive(node, token.token)))
    plain.push(...await Promise.all(nodes.map(ping)))
    const answered = await admin.revoke(token)
    followed.push(...opened.map(async (live, index) => {
      await live.closed
      cuts.push(live.closedAt - live.signalledAt)
      const after = Math.max(0, live.signalledAt - answered)
      if (nodes[index] === near) here.push(after)
      else signals.push(after)
    }))
  }
  await Promise.all(followed)
  await load.stop()
  const measured = {
    others: figures(signals), here: figures(here), cutAfterSignal: figures(cuts), plainRequest: figures(plain)
  }
  t.comment(JSON.stringify(measured))
  t.equal(signals.length, 2000)
  // A busy machine adds to each process on the way what it adds to a plain request.
  const { others, plainRequest, cutAfterSignal } = measured
  t.ok(others.p99 <= 50 + 3 * plainRequest.p99 && others.max <= 250 + 3 * plainRequest.max, JSON.stringify(measured))
  t.ok(cutAfterSignal.max <= CUT + 3 * plainRequest.max, 'cut in time')
})

t.test('a token that expires: its sockets are cut', async t => {
  const token = await admin.issue('expires', new Date(Date.now() + 3000).toISOString())
  const opened = await Promise.all(nodes.map(async node => await openLive(node, token.token)))
  await Promise.all(opened.map(async ({ closed }) => await closed))
  const expired = Date.parse(token.validUntil) - Date.now() + performance.now()
  const after = figures(opened.map(({ closedAt }) => closedAt - expired))
  t.comment(JSON.stringify({ afterExpiry: after }))
  t.ok(after.max <= CUT + SLACK)
})

/** Revokes tokens with open sockets on every node while a fault lasts, and when it is healed. */
async function revokeDuring (t: Test, { name, strike, frozen = [] }: Strike, world: World): Promise<void> {
  // Single faults: the one before is over once a connection is taken to be sound.
  for (const node of nodes) await until(async () => await isHeld(node))
  await sleep(SOUND)
  const issued = await Promise.all(Array.from({ length: 12 }, async (_, n) => await admin.issue(`${name} ${n}`)))
  const opened = await Promise.all(issued.map(async ({ token }) =>
    await Promise.all(nodes.map(async node => await openLive(node, token)))))
  const [ended, kept] = [opened.slice(0, 8), opened.slice(8).flat()]
  const heal = await strike(world)
  const full = performance.now()
  // Nodes that are frozen answer nothing.
  const awake = nodes.filter(node => !frozen.includes(node.name))
  const answers = issued.slice(0, 8).map(async (token, n) => {
    await sleep(n * LASTS / 8)
    return await admin.revoke(token, awake)
  })
  await sleep(LASTS)
  await heal()
  const healed = performance.now()
  const answered = await Promise.all(answers)
  await Promise.race([
    Promise.all(ended.flat().map(async ({ closed }) => await closed)),
    sleep(15_000, undefined, { ref: false })
  ])
  const late = ended.flatMap((sockets, n) => sockets.map(({ signalledAt, closedAt }) => {
    const at = answered[n] ?? NaN
    return {
      signal: signalledAt - at,
      closed: closedAt - at,
      closedAfterHealed: closedAt - healed,
      due: Math.max(at + UNHEARD, healed + RECOVERY) + CUT + SLACK - closedAt
    }
  }))
  t.comment(JSON.stringify({
    signal: figures(late.map(({ signal }) => signal)),
    closed: figures(late.map(({ closed }) => closed)),
    closedAfterHealed: figures(late.map(({ closedAfterHealed }) => closedAfterHealed)).max,
    answeredAfterFull: Math.round(Math.max(...answered) - full)
  }))
  t.strictSame(late.filter(({ due }) => !(due >= 0)), [], 'every socket is closed in time')
  t.equal(kept.filter(({ signalledAt, closedAt }) => signalledAt + closedAt < Infinity).length, 0, 'no other is')
  for (const { socket } of kept) socket.terminate()
}

for (const fault of chosen()) {
  t.test(`sockets of revoked tokens are closed, and no others: ${fault.name}`, async t => {
    await revokeDuring(t, fault, world)
  })
}

t.test('5,000 sockets of 500 tokens on one node, all ended by one TRUNCATE, delay no other request', async t => {
  const node = apart
  const opened: Live[] = []
  for (let n = 0; n < 500; n++) {
    const { token } = await admin.issue(`truncated ${n}`)
    opened.push(...await Promise.all(Array.from({ length: 10 }, async () => await openLive(node, token))))
  }
  t.equal((await askLoop(node)).open, 5000)
  await sleep(500)
  const before = await askLoop(node)
  const client = await connectTo(world.postgres.url)
  const begun = performance.now()
  await client.query('TRUNCATE mmc_tokens.tokens')
  await client.end()
  await Promise.all(opened.map(async ({ closed }) => await closed))
  const during = await askLoop(node)
  const closed = figures(opened.map(({ closedAt }) => closedAt - begun))
  const signal = figures(opened.map(({ signalledAt }) => signalledAt - begun))
  t.comment(JSON.stringify({ before, during, signal, closed }))
  t.equal(during.open, 0)
  t.ok(during.stretch <= 50, JSON.stringify(during))
})

t.test('a socket whose client does not read, and half-open sockets, are closed in the node, too', async t => {
  const sockets: Socket[] = []
  const { port, hostname } = new URL(far.address)
  // Its clients go, and the node does not know.
  const proxy = createServer(client => {
    const upstream = connect(Number(port), hostname)
    sockets.push(client)
    client.pipe(upstream, { end: false })
    upstream.on('data', chunk => { if (!client.destroyed) client.write(chunk) }).on('error', () => {})
    client.on('error', () => {})
    t.teardown(() => { client.destroy(); upstream.destroy() })
  }).listen(0, '127.0.0.1')
  t.teardown(() => proxy.close())
  await once(proxy, 'listening')
  const through = { address: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` }

  const [deaf, half] = [await admin.issue('deaf'), await admin.issue('half-open')]
  const client = await openLive(far, deaf.token)
  client.socket.pause()
  client.socket.send('more than it reads')
  for (let n = 0; n < 10; n++) await openLive(through, half.token)
  await sleep(200)
  t.equal((await askLoop(far)).open, 11)
  for (const socket of sockets) socket.destroy()
  await sleep(200)
  t.equal((await askLoop(far)).open, 11, 'the node does not know')
  const answered = performance.now()
  await Promise.all([admin.revoke(deaf), admin.revoke(half)])
  await until(async () => (await askLoop(far)).open === 0)
  const after = performance.now() - answered
  t.comment(JSON.stringify({ after: Math.round(after) }))
  t.ok(after <= CUT + SLACK)
})
