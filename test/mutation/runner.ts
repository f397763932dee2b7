import { readFileSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import module from 'node:module'
import { relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Test, TestOpts } from 'tap'

// A test runner for Stryker that stays warm: Fastify, pg and the rest are loaded once, and each mutant meets the tests
// of tap that reach it one by one in the same process, the quickest first. To start a process for each mutant and file
// would take hundreds of times as long.

/** What Stryker's instrumented sources read and write. */
interface Switchboard {
  activeMutant?: string | undefined
  currentTestId?: string | undefined
  hitCount?: number | undefined
  hitLimit?: number | undefined
  mutantCoverage?: { static: object, perTest: object }
}
interface MutantRun { activeMutant: { id: string }, sandboxFileName: string, testFilter?: string[], hitLimit?: number, mutantActivation: 'static' | 'runtime', reloadEnvironment: boolean }
interface Options {
  mutate: string[]
  warmTap: {
    /** Files, such as `contract/lease`, in which lib runs in other processes, where no mutant is. */
    without: string[]
    /** Files that take long, and the sources for which they run nevertheless. */
    slow: Record<string, string[]>
  }
}
interface Claim { id: string, fileName: string, args: unknown[] }
interface Result { failure?: string, isLate: boolean, time: number }

// Node 22 has them, the types of Node 20 do not.
const { registerHooks, stripTypeScriptTypes } = module as unknown as {
  registerHooks: (hooks: object) => void
  stripTypeScriptTypes: (source: string, options: object) => string
}

// Tests that try a great many inputs try fewer.
Object.assign(process.env, { MUTATIONS: '2000', CANARIES: '20' })

// A test may put its own in their place.
const { setTimeout } = globalThis
const now = performance.now.bind(performance)

const TIMES = 'test-times.json'
const END = '.test.ts'
const SUCCESS = 0
const SKIPPED = 2

/**
 * How long a test may take under a mutant, in milliseconds: then it hangs. The second time it is given more, for a
 * machine that was busy.
 */
const limitOf = (usual: number, patience: number): number => 4 * usual + patience

function createRunner ({ mutate, warmTap: { without, slow } }: Options) {
  const board: Switchboard = (globalThis as unknown as { __stryker__?: Switchboard }).__stryker__ ??= {}
  const claims: Claim[] = []
  const leave: Array<() => unknown> = []
  /** How long each test takes, in milliseconds. */
  let times: Record<string, number> = {}
  /** How many mutants each test killed: it is likely to kill the next one, too. */
  const kills: Record<string, number> = {}
  /** What was thrown where no test could catch it. */
  const strays: string[] = []
  let fresh: (name: string) => Test

  const isMutated = (source: string): boolean =>
    mutate.some(pattern => pattern.includes('*') || pattern.startsWith(source))
  const isWanted = (name: string): boolean => !without.includes(name) && (slow[name]?.some(isMutated) ?? true)

  /** Loads lib and the tests anew, so that a mutant of what runs while a module loads is met, too. */
  let generation = 0
  async function load (): Promise<void> {
    generation++
    claims.length = 0
    board.currentTestId = undefined
    const files = (await readdir('test', { recursive: true })).filter(name =>
      name.endsWith(END) && !/(^faults|node_modules)\//.test(name) && isWanted(name.slice(0, -END.length))).sort()
    for (const name of files) {
      const test = (...args: unknown[]): void => {
        claims.push({ id: `${name}: ${String(args[0])}`, fileName: `test/${name}`, args })
      }
      Object.assign(globalThis, {
        warmTap: Object.assign(fresh(name), { test, teardown: (step: () => unknown) => { leave.push(step) } })
      })
      await import(`${pathToFileURL(`test/${name}`).href}?${generation}`)
    }
  }

  async function run ({ id, args }: Claim, limit: number): Promise<Result> {
    board.currentTestId = id
    strays.length = 0
    const begun = now()
    const suite = fresh(id)
    let failure: string | undefined
    const ended = new Promise<boolean>(resolve => { suite.on('end', () => { resolve(true) }) })
    const within = (limit: number): Promise<boolean> => Promise.race([
      ended, new Promise<boolean>(resolve => { setTimeout(resolve, limit, false).unref() })
    ])
    suite.resume()
    Reflect.apply(suite.test, suite, args)
    suite.end()
    const isDone = await within(limit)
    if (!isDone) {
      // Its teardown puts back what it took.
      suite.timeout()
      await within(2000)
    }
    if (isDone &&
      !suite.passing()) failure = `${id}: ${JSON.stringify((suite as unknown as { results?: { failures?: unknown[] } }).results?.failures ?? []).slice(0, 300)}`
    failure ??= strays[0]
    return { ...failure !== undefined && { failure }, isLate: !isDone, time: Math.round(now() - begun) }
  }

  const costOf = ({ id }: Claim): number => (times[id] ?? 0) / (1 + (kills[id] ?? 0))

  return {
    capabilities: () => ({ reloadEnvironment: true }),

    async init () {
      hook()
      process.on('disconnect', () => process.exit())
      // tap would tell its own runner of time-outs; Stryker takes strings alone.
      const send = process.send?.bind(process) as (message: unknown) => boolean
      process.send = (message: unknown) => typeof message !== 'string' || send(message)
      const { default: root, Test } = await import('tap')
      // Its root test, which nobody uses, would end the process after half a minute.
      root.setTimeout(0)
      fresh = name => new Test({ name } as TestOpts)
      for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
        process.on(event, (error: unknown) => { strays.push(`${event}: ${String(error)}`) })
      }
      times = await readFile(TIMES, 'utf8').then(text => JSON.parse(text) as typeof times, () => ({}))
    },

    async dryRun () {
      await load()
      const tests = []
      for (const claim of claims) {
        let result = await run(claim, 120_000)
        // On a busy machine a deadline may be missed.
        for (let tries = 1; tries < 3 &&
          (result.failure !== undefined || result.isLate); tries++) result = await run(claim, 120_000)
        // A test that this machine is too busy for kills nothing.
        const isGood = result.failure === undefined && !result.isLate
        if (isGood) times[claim.id] = result.time
        tests.push({
          id: claim.id,
          name: claim.id,
          fileName: claim.fileName,
          timeSpentMs: result.time,
          status: isGood
            ? SUCCESS
            : SKIPPED
        })
      }
      await writeFile(TIMES, JSON.stringify(times, null, 2))
      return { status: 'complete', tests, mutantCoverage: board.mutantCoverage }
    },

    async mutantRun (
      { activeMutant, sandboxFileName, testFilter, hitLimit, mutantActivation, reloadEnvironment }: MutantRun
    ) {
      board.hitLimit = hitLimit
      board.hitCount = hitLimit === undefined ? undefined : 0
      board.activeMutant = mutantActivation === 'static' ? activeMutant.id : undefined
      const killed = (by: string, failureMessage: string, nrOfTests: number) => ({
        status: 'killed', killedBy: [by], failureMessage, nrOfTests
      })
      try {
        if (reloadEnvironment || generation === 0) await load()
      } catch (error) {
        return killed(Object.keys(times)[0] ?? '', `does not load: ${String(error)}`, 0)
      }
      board.activeMutant = activeMutant.id
      const wanted = testFilter && new Set(testFilter)
      const source = relative(process.cwd(), sandboxFileName)
      const isFor = ({ fileName }: Claim): boolean =>
        slow[fileName.slice('test/'.length, -END.length)]?.includes(source) ?? true
      const chosen = claims.filter(claim => isFor(claim) && times[claim.id] !== undefined &&
        (wanted?.has(claim.id) ?? true)).sort((a, b) => costOf(a) - costOf(b))
      try {
        for (const [index, claim] of chosen.entries()) {
          const usual = times[claim.id] ?? 0
          const first = await run(claim, limitOf(usual, 1000))
          if (first.failure === undefined && !first.isLate) continue
          if (board.hitCount !== undefined &&
            board.hitCount > (hitLimit as number)) return { status: 'timeout', reason: 'hit limit' }
          // Killed is what fails twice with the mutant and not without: a busy machine misses a deadline now and then.
          const second = await run(claim, limitOf(usual, 3000))
          if (second.failure === undefined && !second.isLate) continue
          board.activeMutant = undefined
          const sound = mutantActivation === 'static' ? undefined : await run(claim, limitOf(usual, 10_000))
          // Something that an earlier mutant left behind: Stryker tries again in a new process.
          if (sound?.failure !== undefined || sound?.isLate === true) process.exit(1)
          kills[claim.id] = (kills[claim.id] ?? 0) + 1
          if (second.failure !== undefined) return killed(claim.id, second.failure, index + 1)
          return { status: 'timeout', reason: claim.id }
        }
      } finally {
        board.activeMutant = undefined
      }
      return { status: 'survived', nrOfTests: chosen.length }
    },

    async dispose () {
      for (const step of leave) await step()
    }
  }
}

/**
 * Makes the sources of the sandbox modules: TypeScript without its types, `tap` as above, and anew with each
 * generation.
 */
function hook (): void {
  const root = pathToFileURL(`${process.cwd()}/`).href
  const isOurs = (url: string | undefined): boolean => url?.startsWith(root) === true && !url.includes('/node_modules/')
  const sources = new Map<string, string>()
  registerHooks({
    resolve (specifier: string, context: { parentURL?: string }, next: (specifier: string, context: object) => object) {
      const { parentURL } = context
      if (parentURL === undefined || !isOurs(parentURL)) return next(specifier, context)
      if (specifier === 'tap') {
        return {
          url: `warm:tap${new URL(parentURL).pathname}${new URL(parentURL).search}`, shortCircuit: true
        }
      }
      if (!specifier.startsWith('.')) return next(specifier, context)
      const url = new URL(specifier.replace(/\.js$/, '.ts'), parentURL)
      return isOurs(url.href) && url.pathname.endsWith('.ts')
        ? {
            url: url.href +
        new URL(parentURL).search,
            shortCircuit: true
          }
        : next(specifier, context)
    },
    load (url: string, context: object, next: (url: string, context: object) => object) {
      if (url.startsWith('warm:')) {
        return {
          format: 'module', source: 'export default globalThis.warmTap', shortCircuit: true
        }
      }
      if (!isOurs(url) || !new URL(url).pathname.endsWith('.ts')) return next(url, context)
      const path = fileURLToPath(url)
      const source = sources.get(path) ?? stripTypeScriptTypes(readFileSync(path, 'utf8'), { mode: 'transform' })
      sources.set(path, source)
      return { format: 'module', source, shortCircuit: true }
    }
  })
}

createRunner.inject = ['options'] as const

/** The name of an export may be a string, but no expression: Stryker would put one there. */
const exportedNames = {
  shouldIgnore: (path: { isExportSpecifier: () => boolean }): string | undefined =>
    path.isExportSpecifier() ? 'a name' : undefined
}

export const strykerPlugins = [
  { kind: 'TestRunner', name: 'warm-tap', factory: createRunner },
  { kind: 'Ignore', name: 'exported-names', value: exportedNames }
]
export const strykerValidationSchema = {
  type: 'object',
  properties: { warmTap: { type: 'object', properties: { without: { type: 'array' }, slow: { type: 'object' } } } }
}
