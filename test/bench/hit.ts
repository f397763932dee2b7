import { type ChildProcess, fork, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { pin } from './start-server.js'
import { show, showSpread, spread, type Spread, table } from './statistics.js'

const ROOT = new URL('../../', import.meta.url)
const SERVER = fileURLToPath(new URL('node_modules/.bench/test/bench/hit-server.js', import.meta.url))
/** The package as `build` makes it. */
export const DIST = new URL('dist/', ROOT)

/** Each process compiles its code a little differently, so new ones take over. */
const GENERATIONS = 3
/** Cycles of a generation. */
const CYCLES = 9
/** Requests of a slice. */
const SLICE = 2000
/** Requests before the first slice: the first 8,000 cost up to 17 times as much, until V8 has compiled everything. */
export const WARM_UP = 10_000
/** How far the ratio of bare Fastify to itself may be off. */
const NOISE = 0.03

/** CPU per request of one to that of another, in the same cycle. */
const PAIRS: Array<[contender: string, to: string, goal: string]> = [
  ['bare again', 'bare', ''],
  ['ours, header', 'floor', '≤ 1.08'],
  ['ours, header', 'bare', '≤ 1.36'],
  ['floor', 'bare', ''],
  ['ours, query', 'ours, header', '≤ 1.20'],
  ['ours, query', 'floor, query', ''],
  ['floor, query', 'floor', ''],
  ['ours, no credential', 'bare', '≤ 1.05'],
  ['hooks', 'bare', ''],
  ['ours, forged', 'bare', '≤ 2.5'],
  ['ours, revoked', 'bare', ''],
  ['ours, header', '@fastify/bearer-auth, 1 key', '< 1.0'],
  ['floor', '@fastify/bearer-auth, 1 key', ''],
  ['ours, header', '@fastify/bearer-auth, 64 keys', ''],
  ['ours, header', '@fastify/jwt, no cache', '≤ 0.45'],
  ['floor', '@fastify/jwt, no cache', ''],
  ['ours, header', '@fastify/jwt, cache', '']
]

/**
 * The cost of a hit in memory: contenders in processes of their own, one at a time, in short slices and random order.
 */
export async function measureHit (postgres: string): Promise<string> {
  build()
  const names = await namesOf()
  const slices = new Map(names.map((name): [string, number[]] => [name, []]))
  for (let generation = 0; generation < GENERATIONS; generation++) {
    const servers = new Map(await Promise.all(names.map(async name => [name, await start(name, postgres)] as const)))
    try {
      for (const server of servers.values()) {
        await ask(server, WARM_UP)
        pin(server.pid, 0, 0)
      }
      for (let cycle = 0; cycle < CYCLES; cycle++) {
        for (const name of shuffle(names)) slices.get(name)?.push(await ask(servers.get(name) as ChildProcess, SLICE))
      }
    } finally {
      for (const server of servers.values()) server.disconnect()
    }
  }
  return report(slices)
}

/** Builds the package as it is published. Lint and tests check its types. */
export function build (): void {
  const tsc = fileURLToPath(new URL('node_modules/typescript/bin/tsc', ROOT))
  const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', 'lib', '--noCheck'], { cwd: ROOT, encoding: 'utf8' })
  if (status !== 0) throw new Error(stdout)
}

/** On all cores. */
function run (...args: string[]): ChildProcess {
  const child = fork(SERVER, args, { execArgv: [], env: { ...process.env, NODE_ENV: 'production' } })
  pin(child.pid, 0)
  return child
}

async function namesOf (): Promise<string[]> {
  const server = run('')
  const [names] = await once(server, 'message') as [string[]]
  server.disconnect()
  return names
}

/** A contender in a process of its own, which serves when this resolves. */
export async function start (
  name: string, postgres: string, plugin = new URL('lib/index.js', DIST)
): Promise<ChildProcess> {
  const server = run(name, postgres, plugin.href)
  await answerOf(server)
  return server
}

/** Has it serve requests; resolves with the CPU of each, in microseconds. */
export async function ask (server: ChildProcess, requests: number): Promise<number> {
  const answer = answerOf(server)
  server.send(requests)
  return await answer
}

/** @throws Error if the process ends instead, which has said why */
async function answerOf (server: ChildProcess): Promise<number> {
  const ended = new AbortController()
  const [answer] = await Promise.race([
    once(server, 'message', { signal: ended.signal }) as Promise<[number]>,
    once(server, 'exit', { signal: ended.signal }).then(() => { throw new Error('a contender ended') })
  ]).finally(() => { ended.abort() })
  return answer
}

function shuffle<T> (items: T[]): T[] {
  return items.map(item => ({ item, at: Math.random() })).toSorted((a, b) => a.at - b.at).map(({ item }) => item)
}

function report (slices: Map<string, number[]>): string {
  const ratio = (name: string, to: string): Spread => {
    const others = slices.get(to) ?? []
    return spread((slices.get(name) ?? []).map((cpu, cycle) => cpu / (others[cycle] ?? NaN)))
  }
  const noise = Math.abs(ratio('bare again', 'bare').median - 1)
  return [
    `CPU per request, ${GENERATIONS} × ${CYCLES} cycles of ${SLICE} requests; ratios in the same cycle, median (quartiles)`,
    '',
    table([
      ['', 'measured', 'goal'],
      ...PAIRS.map(([name, to, goal]) => [`${name} : ${to}`, showSpread(ratio(name, to)), goal])
    ]),
    '',
    table([
      ['', 'µs', ': bare', ': floor'],
      ...[...slices].map(([name, cpu]) => [
        name, show(spread(cpu).median), showSpread(ratio(name, 'bare')), showSpread(ratio(name, 'floor'))
      ])
    ]),
    '',
    `${noise > NOISE ? 'noisy' : 'quiet'}: bare Fastify differs from itself by ${(100 * noise).toFixed(1)} %`
  ].join('\n')
}
