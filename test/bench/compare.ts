import { compared } from './contenders.js'
import { load } from './load.js'
import type { Server } from './start-server.js'
import { show, showSpread, spread, type Spread, table } from './statistics.js'

/**
 * One slice: requests a second, p99 in milliseconds, CPU of the server in microseconds a request, queries a request and
 * a second.
 */
interface Slice { rate: number, p99: number, cpu: number, queries: number, queryRate: number }

const CONNECTIONS = 20

/** Seconds before the first slice: what V8 has not compiled yet costs a multiple. */
const WARM_UP = 5

/** Server CPU a request of one to that of another, in pairs of the same cycle. */
const PAIRS: Array<[contender: string, to: string, goal: string]> = [
  ['ours, hit', 'floor', '≤ 1.20'],
  ['ours, hit', 'bare Fastify', '≤ 1.35'],
  ['ours, hit by query', 'ours, hit', '≤ 1.20'],
  ['ours, no credential', 'bare Fastify', '≤ 1.05'],
  ['ours, hit', '@fastify/jwt', '≤ 0.55'],
  ['ours, hit', '@fastify/jwt + SELECT', '≤ 0.25'],
  ['ours, hit', '@fastify/jwt + SELECT + UPDATE', '≤ 0.15'],
  ['ours, hit', 'better-auth api-key', '≤ 0.03'],
  ['ours, lease lost', '@fastify/jwt + SELECT', '≤ 1.0'],
  ['ours, forged', 'bare Fastify', '≤ 3'],
  ['ours, revoked', 'bare Fastify', '≤ 1.5']
]

/**
 * Short slices of all, in a random order that is another in each cycle: what slows the machine for a while slows all
 * alike.
 */
export async function compare (
  servers: Server[], { cycles, seconds }: { cycles: number, seconds: number }
): Promise<string> {
  const slices = new Map(servers.map(({ name }): [string, Slice[]] => [name, []]))
  for (const server of servers) await slice(server, WARM_UP)
  for (let cycle = 0; cycle < cycles; cycle++) {
    for (const server of shuffle(servers)) slices.get(server.name)?.push(await slice(server, seconds))
  }
  return report(slices)
}

async function slice (server: Server, seconds: number): Promise<Slice> {
  const before = await server.stats()
  const { requests, seconds: took, p99 } = await load(server, { seconds, connections: CONNECTIONS })
  const after = await server.stats()
  const queries = after.queries - before.queries
  return {
    rate: requests / took,
    p99,
    cpu: (after.cpu - before.cpu) / requests,
    queries: queries / requests,
    queryRate: queries / took
  }
}

function shuffle<T> (items: T[]): T[] {
  return items.map(item => ({ item, at: Math.random() })).toSorted((a, b) => a.at - b.at).map(({ item }) => item)
}

function report (slices: Map<string, Slice[]>): string {
  const ratio = (name: string, to: string, figure: keyof Slice): Spread | undefined => {
    const [own, others] = [slices.get(name), slices.get(to)]
    if (own === undefined || others === undefined) return undefined
    return spread(own.map((slice, cycle) => slice[figure] / (others[cycle]?.[figure] ?? NaN)))
  }
  const [first = ''] = Object.keys(compared)
  const rows = [...slices].map(([name, own]) => {
    const ratios = (['cpu', 'rate', 'p99'] as const).map(figure => ratio(name, first, figure))
    const medians = (['cpu', 'rate', 'p99', 'queries', 'queryRate'] as const).map(figure =>
      show(spread(own.map(slice => slice[figure])).median))
    return [name, ...ratios.map(spread => spread === undefined ? '–' : showSpread(spread)), ...medians]
  })
  const pairs = PAIRS.flatMap(([name, to, goal]) => {
    const cpu = ratio(name, to, 'cpu')
    return cpu === undefined ? [] : [[`${name} : ${to}`, showSpread(cpu), goal]]
  })
  const bare = spread((slices.get(first) ?? []).map(slice => slice.cpu))
  const width = (bare.third - bare.first) / bare.median
  return [
    'Ratios to bare Fastify in the same cycle, median (quartiles); then medians: CPU µs a request, requests/s, p99 ms, queries a request, queries/s',
    '',
    table([['', 'CPU', 'requests/s', 'p99', 'µs', 'req/s', 'ms', 'q/req', 'q/s'], ...rows]),
    '',
    'Server CPU a request against each other',
    '',
    table([['', 'measured', 'to reach'], ...pairs]),
    '',
    `${width > 0.1 ? 'noisy' : 'quiet'}: the quartiles of bare Fastify's own CPU lie ${(100 * width).toFixed(0)} % apart`
  ].join('\n')
}
