import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import pg from 'pg'
import { createPostgresStore } from '../../lib/store/postgres.js'
import type { Store } from '../../lib/types.js'
import { type Postgres, startPostgres } from '../support/postgres.js'
import { until } from '../support/until.js'
import { quantile, show, table } from './statistics.js'

/** Ticks a second in which Linux counts the CPU of a process. */
const TICKS = 100
const BEATS = 'bench_beats'
const SCHEMA = 'bench_nodes'
/** Nodes that start at once. */
const BATCH = 20
/** The count of nodes on which the node that beats is ended, and Postgres restarted. */
const STRUCK = 300

interface Nodes {
  stores: Store[]
  /** Whether what is known is used, so that the pool is asked where it is. */
  use: (isUsed: boolean) => void
  /** Resolves when every node has received this hash. */
  allHear: (hash: string) => Promise<void>
  close: () => Promise<void>
}

/**
 * What many nodes on one Postgres cost it, with the plugin's own store and listener; they share a process and a pool.
 */
export async function measureNodes (counts: readonly number[], seconds: number): Promise<string> {
  const postgres = await startPostgres({ settings: [`max_connections=${Math.max(...counts) + 50}`] })
  const client = new pg.Client(postgres.url)
  client.on('error', () => {})
  await client.connect()
  const rows = [[
    'nodes', 'cores of Postgres', 'with use', 'beats a second', 'last to hear: p50', 'p99', 'max', 'leases lost',
    'start of one'
  ]]
  let struck = ''
  try {
    for (const count of counts) {
      const started = performance.now()
      const nodes = await startNodes(postgres.url, count)
      const ready = (performance.now() - started) / count
      // Until the pool is idle.
      await sleep(2000)
      const losses = lossesOf(nodes)
      const beats = await countBeats(client, seconds)
      const idle = await coresOf(postgres, async () => { await sleep(seconds * 1000) })
      nodes.use(true)
      const waits: number[] = []
      const used = await coresOf(postgres, async () => {
        for (let n = 0; n < seconds; n++) {
          const next = sleep(1000)
          waits.push(await revoke(client, nodes))
          await next
        }
      })
      nodes.use(false)
      const lost = lossesOf(nodes) - losses
      rows.push([String(count), show(idle), show(used), show(beats.length / seconds), ...[0.5, 0.99, 1].map(share =>
        show(quantile(waits, share))), String(lost), show(ready)])
      if (count === STRUCK) struck = await strike(postgres, client, nodes)
      await nodes.close()
    }
  } finally {
    await client.end().catch(() => {})
    await postgres.end()
  }
  return `${seconds} s each, one revocation a second meanwhile with use; milliseconds after the DELETE's answer\n\n${table(rows)}\n\n${struck}`
}

async function startNodes (url: string, count: number): Promise<Nodes> {
  const pool = new pg.Pool({ connectionString: url, max: 10 })
  pool.setMaxListeners(0).on('error', () => {})
  const { log } = Fastify()
  let isUsed = false
  let waiting: { hash: string, left: number, resolve: () => void } | undefined
  const stores = Array.from({ length: count }, (_, index) => createPostgresStore({
    postgres: pool, schema: SCHEMA, migrate: index === 0, fingerprints: ['bench'], beats: [BEATS], log
  }))
  const cache = {
    forget (hash: string) { if (hash === waiting?.hash && --waiting.left === 0) waiting.resolve() },
    clear () {},
    wasUsed: () => isUsed,
    refresh: async () => []
  }
  for (let started = 0; started < count; started += BATCH) {
    const batch = stores.slice(started, started + BATCH)
    // Again where the machine is too busy for a start within its 5 s.
    for (const store of batch) while (!await store.start(cache, () => {}).then(() => true, () => false));
    await until(() => batch.every(store => store.isTrusted()))
  }
  return {
    stores,
    use (now) { isUsed = now },
    allHear: async hash => { await new Promise<void>(resolve => { waiting = { hash, left: count, resolve } }) },
    async close () {
      await Promise.all(stores.map(async store => { await store.close() }))
      await pool.end()
    }
  }
}

function lossesOf ({ stores }: Nodes): number {
  return stores.reduce((sum, store) => sum + store.lease().losses, 0)
}

/** From the answer to a DELETE until the last node heard, in milliseconds. */
async function revoke (client: pg.Client, { allHear }: Nodes): Promise<number> {
  const { rows: [row] } = await client.query<{ hash: string }>(`INSERT INTO ${SCHEMA}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    SELECT encode(sha256(random()::text::bytea), 'hex'), random(), 'viewer', 'bench', now(), '2999-01-01Z', now() RETURNING hash`)
  const hash = row?.hash ?? ''
  let heardAt = NaN
  const heard = allHear(hash).then(() => { heardAt = performance.now() })
  await client.query(`DELETE FROM ${SCHEMA}.tokens WHERE hash = $1`, [hash])
  const answeredAt = performance.now()
  await heard
  return Math.max(0, heardAt - answeredAt)
}

interface Beat { at: number, pid: number }

async function countBeats (client: pg.Client, seconds: number): Promise<Beat[]> {
  const beats: Beat[] = []
  const listen = ({ processId: pid }: pg.Notification): void => { beats.push({ at: performance.now(), pid }) }
  client.on('notification', listen)
  await client.query(`LISTEN ${BEATS}`)
  await sleep(seconds * 1000)
  await client.query(`UNLISTEN ${BEATS}`)
  client.off('notification', listen)
  return beats
}

/** The node that beats is ended and, another time, frozen; then Postgres is restarted. */
async function strike (postgres: Postgres, client: pg.Client, nodes: Nodes): Promise<string> {
  const lines: string[] = []
  for (const signal of ['SIGTERM', 'SIGSTOP'] as const) {
    const { pid = NaN } = (await countBeats(client, 2)).at(-1) ?? {}
    const watched = countBeats(client, 4)
    const started = performance.now()
    process.kill(pid, signal)
    let [samples, lost] = [0, 0]
    while (performance.now() - started < 4000) {
      samples += nodes.stores.length
      lost += nodes.stores.filter(store => !store.isTrusted()).length
      await sleep(20)
    }
    const [first, ...others] = (await watched).filter(beat => beat.at > started && beat.pid !== pid)
    const crowd = 1 + others.filter(({ at }) => at < (first?.at ?? NaN) + 50).length
    if (signal === 'SIGSTOP') process.kill(pid, 'SIGCONT')
    lines.push(
      `${signal} to the backend of the node that beats: ${show(lost / samples * 100)} % of node-seconds without a lease, ${crowd} beats took over at once`
    )
  }
  await postgres.stop()
  await sleep(2000)
  await postgres.start()
  const started = performance.now()
  await until(() => nodes.stores.every(store => store.isTrusted()))
  lines.push(`Postgres restarted: all hold their leases after ${show((performance.now() - started) / 1000)} s`)
  return lines.join('\n')
}

/** How many cores the server and its backends keep busy meanwhile. */
async function coresOf (postgres: Postgres, work: () => Promise<void>): Promise<number> {
  const pid = await postgres.pid()
  const [before, started] = [await ticksOf(pid), performance.now()]
  await work()
  return (await ticksOf(pid) - before) / TICKS / (performance.now() - started) * 1000
}

/** CPU of a process and its children, those that have ended included. */
async function ticksOf (pid: number): Promise<number> {
  let ticks = 0
  for (const name of await readdir('/proc')) {
    const stat = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '') : ''
    const [, parent, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [user, system, userOfEnded, systemOfEnded] = rest.slice(9, 13).map(Number)
    if (Number(name) === pid) ticks += Number(user) + Number(system) + Number(userOfEnded) + Number(systemOfEnded)
    else if (Number(parent) === pid) ticks += Number(user) + Number(system)
  }
  return ticks
}
