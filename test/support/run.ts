import { spawn } from 'node:child_process'
import { readdirSync, rmSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createRandom } from '../faults/random.js'
import { compile } from './compile.js'
import { startPostgres } from './postgres.js'
import { compiled } from './program.js'
import { createReport, type FileRun } from './report.js'

// Runs test files, each in a process of its own, and prints a line a file; see test/README.md.
process.chdir(fileURLToPath(new URL('../..', import.meta.url)))

const QUICK = ['contract', 'unit', 'operations', 'coexistence']
const ALL = ['consumer', 'demo', 'attacks', 'docs', ...QUICK]
// They are first, so that no job waits for them at the end.
const LONG = ['consumer/package', 'contract/several-nodes', 'unit/cache', 'contract/the-database-in-trouble']
  .map(name => `test/${name}.test.ts`)
// Tests wait more than they work; one Postgres has connections for six files.
const JOBS = Math.min(2 * availableParallelism() + 1, 6)
const COVERAGE = resolve('.tap/coverage')
// Files that run mostly a compiler, a browser or other processes: coverage would slow them down and add nothing.
const UNCOVERED = /^test\/(consumer\/|demo\/|docs\/typescript)/
// Nothing of these is left when the types are gone.
const TYPES = ['lib/api.ts', 'lib/types.ts']

const FLAGS = [
  '--enable-source-maps',
  // Timers in the hands of a test are an experiment to Node.js 20.
  '--disable-warning=ExperimentalWarning',
  // What the programs do that a test starts, such as npm and tsc, is no coverage of ours.
  '--import', 'data:text/javascript,delete process.env.NODE_V8_COVERAGE'
]

const { values, positionals } = parseArgs({
  strict: false,
  allowPositionals: true,
  options: {
    quick: { type: 'boolean' },
    faults: { type: 'boolean' },
    'disable-coverage': { type: 'boolean' },
    jobs: { type: 'string', short: 'j', default: String(JOBS) },
    timeout: { type: 'string', default: '600' }
  }
})
const { quick = false, faults = false, 'disable-coverage': isUncovered = false, jobs, timeout, ...ofTap } = values
const hasCoverage = !quick && !faults && !isUncovered && positionals.length === 0
const seconds = Number(timeout)

const named = positionals.length > 0
  ? positionals
  : (faults ? ['faults'] : quick ? QUICK : ALL).map(folder => `test/${folder}`)
const files = inOrder(named.flatMap(filesAt))
const report = createReport(files.length)
rmSync(COVERAGE, { recursive: true, force: true })
await compile()

const postgres = process.env.DATABASE_URL === undefined
  ? await startPostgres({ settings: ['max_connections=300'] })
  : undefined
const env = {
  ...process.env,
  ...postgres && { DATABASE_URL: postgres.url },
  TAP_TIMEOUT: timeout as string,
  // Options that are tap's own, such as --grep=name or --bail, are read by the tests.
  ...Object.fromEntries(Object.entries(ofTap).map(
    ([name, value]) => [`TAP_${name.toUpperCase().replaceAll('-', '_')}`, value === true ? '1' : String(value)]
  ))
}
const running = new Set<ReturnType<typeof spawn>>()
const interrupted = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interrupted.abort()
    for (const child of running) child.kill(signal)
  })
}

const queue = [...files]
await Promise.all(Array.from({ length: Number(jobs) }, work))
await postgres?.end()
const isCovered = !hasCoverage || interrupted.signal.aborted || await checkCoverage()
process.exitCode = report.end(isCovered, interrupted.signal.aborted) ? 0 : 1

async function work (): Promise<void> {
  for (let file = queue.shift(); file !== undefined &&
    !interrupted.signal.aborted; file = queue.shift()) report.add(await run(file))
}

async function run (file: string): Promise<FileRun> {
  const begun = performance.now()
  const coverage = hasCoverage && !UNCOVERED.test(file) ? { NODE_V8_COVERAGE: COVERAGE } : {}
  const child = spawn(process.execPath, [...FLAGS, compiled(file)], {
    env: { ...env, ...coverage }, stdio: ['ignore', 'pipe', 'pipe']
  })
  running.add(child)
  // tap ends what takes too long and says where it stood; this is for one that can't.
  const timer = setTimeout(() => { child.kill('SIGKILL') }, (seconds + 10) * 1000)
  const ended = new Promise<number | string>(
    resolve => { child.on('exit', (code, signal) => { resolve(code ?? String(signal)) }) }
  )
  const [output, errors, status] = await Promise.all([text(child.stdout), text(child.stderr), ended])
  clearTimeout(timer)
  running.delete(child)
  return { file, output, errors, status, seconds: (performance.now() - begun) / 1000 }
}

/** All of lib and schemas, line by line and branch by branch. */
async function checkCoverage (): Promise<boolean> {
  const child = spawn(process.execPath, ['node_modules/c8/bin/c8.js', 'report', '--temp-directory', COVERAGE, '--all', '--exclude-after-remap', '--100',
    ...['lib', 'schemas'].flatMap(
      folder => ['--include', `${folder}/**/*.ts`]
    ), ...TYPES.flatMap(file => ['--exclude', file]), '--reporter', 'text'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<boolean>(resolve => { child.on('exit', code => { resolve(code === 0) }) })
  const [table, isWhole] = await Promise.all([text(child.stdout), ended])
  if (!isWhole) console.log(table)
  return isWhole
}

function filesAt (path: string): string[] {
  if (statSync(path).isFile()) return [path]
  return readdirSync(path, { recursive: true, encoding: 'utf8' }).filter(name =>
    name.endsWith('.test.ts') && !name.includes('node_modules'))
    .sort().map(name => `${path.replace(/\/$/, '')}/${name}`)
}

/** With `TEST_ORDER_SEED` in the order of that number, or with `random` of one that is printed. */
function inOrder (files: string[]): string[] {
  const { TEST_ORDER_SEED: wish } = process.env
  if (wish === undefined) return files.toSorted((a, b) => Number(LONG.includes(b)) - Number(LONG.includes(a)))
  const seed = wish === 'random' ? Math.floor(Math.random() * 2 ** 32) : Number(wish)
  console.log(`files in random order: TEST_ORDER_SEED=${seed}`)
  const random = createRandom(seed)
  return files.map(file => ({ file, place: random() })).sort((a, b) => a.place - b.place).map(({ file }) => file)
}
