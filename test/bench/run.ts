// npm run bench -- [--cycles 15] [--slice 1] [--revocations 1000] [--nodes 300]… [--seconds 20] [--only hit]… [--part
// compare]…
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { startPostgres } from '../support/postgres.js'
import { compare } from './compare.js'
import { measureConnections } from './connections.js'
import { compared } from './contenders.js'
import { measureCreate } from './create.js'
import { measureFlood } from './flood.js'
import { measureHit } from './hit.js'
import { measureList } from './list.js'
import { generator } from './load.js'
import { measureNodes } from './nodes.js'
import { measureReady } from './ready.js'
import { measureRevocation } from './revocation.js'
import { buildServer, isPinned, pin, type Server, startServer } from './start-server.js'

const { values: { cycles, slice, revocations, nodes, seconds, only, part } } = parseArgs({
  options: {
    /** How often each contender has its turn. */
    cycles: { type: 'string', default: '15' },
    /** Whole seconds of a turn. */
    slice: { type: 'string', default: '1' },
    revocations: { type: 'string', default: '1000' },
    /** How many nodes share one Postgres, one count after the other. */
    nodes: { type: 'string', multiple: true, default: ['10', '100', '300', '600', '1000'] },
    /** How long each count of nodes is watched. */
    seconds: { type: 'string', default: '20' },
    /** Compare only contenders with this in their name, and bare Fastify. */
    only: { type: 'string', multiple: true },
    /** Only these parts. Default: all. */
    part: { type: 'string', multiple: true }
  }
})
const turns = { cycles: Number(cycles), seconds: Number(slice) }

await buildServer()
// The first is for servers.
pin(process.pid, 1)
const postgres = await startPostgres({ settings: ['max_connections=400'], isDurable: true })
const running = new Set<Server>()
let count = 0

async function start (name: string, schema = `bench_${++count}`): Promise<Server> {
  const server = await startServer(name, { postgres: postgres.url, schema })
  running.add(server)
  return {
    ...server,
    async stop () {
      running.delete(server)
      await server.stop()
    }
  }
}

async function stopAll (): Promise<void> {
  const servers = [...running]
  running.clear()
  await Promise.all(servers.map(async server => { await server.stop() }))
}

async function compareAll (): Promise<string> {
  const names = Object.keys(compared).filter(name =>
    only === undefined || name.startsWith('bare') || only.some(word => name.includes(word)))
  const servers: Server[] = []
  for (const name of names) {
    const server = await start(name).catch((error: Error) => { console.log(`SKIPPED ${name}: ${error.message}`) })
    if (server !== undefined) servers.push(server)
  }
  return await compare(servers, turns)
}

const parts: Record<string, () => Promise<string>> = {
  hit: async () => await measureHit(postgres.url),
  connections: async () => await measureConnections(postgres.url),
  compare: compareAll,
  flood: async () => await measureFlood(start, turns),
  revocation: async () => await measureRevocation(start, Number(revocations)),
  nodes: async () => await measureNodes(nodes.map(Number), Number(seconds)),
  create: async () => await measureCreate(start, turns),
  list: async () => await measureList(start),
  ready: async () => await measureReady(start, turns.cycles)
}

console.log(
  `Node.js ${process.version}, ${cpus().length} cores, ${isPinned ? 'servers on one of their own' : 'not bound to cores'}, load by ${generator}`
)
try {
  for (const name of part ?? Object.keys(parts)) {
    console.log(`\n== ${name}\n\n${await parts[name]?.() ?? 'there is no such part'}`)
    await stopAll()
  }
} finally {
  await stopAll()
  await postgres.end()
}
