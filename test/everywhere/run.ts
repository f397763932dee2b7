import { once } from 'node:events'
import { createWriteStream, mkdirSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { parseArgs, stripVTControlCharacters } from 'node:util'
import { type Environment, ENVIRONMENTS } from './environments.js'
import { Machine } from './machine.js'

// npm run test:everywhere -- [--only 2,4] [test files]: the tests of HEAD in environments that are not this one; then a
// table.

const { values: { only }, positionals: files } = parseArgs({
  allowPositionals: true, options: { only: { type: 'string' } }
})
const chosen = only === undefined ? ENVIRONMENTS.map((_, index) => index + 1) : only.split(',').map(Number)
const LOGS = '.data/everywhere'

interface Row { result: string, passed?: number, failed?: number, skipped?: number, seconds?: number }

const rows = new Map<number, Row>()
let machine: Machine | undefined
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await machine?.end()
    process.exit(1)
  })
}
mkdirSync(LOGS, { recursive: true })
for (const number of chosen) {
  const environment = ENVIRONMENTS[number - 1]
  if (environment === undefined) throw new Error(`there is no environment ${number}`)
  console.log(`\n== ${number}: ${environment.title}`)
  machine = new Machine()
  const row = await runIn(environment, machine, `${LOGS}/${number}.log`).catch(
    (error: Error) => ({ result: `BROKEN: ${error.message}` })
  )
  await machine.end()
  if (row.result.startsWith('SKIPPED')) console.error(`\n==== ${row.result}\n`)
  rows.set(number, row)
}
printTable()
if ([...rows.values()].some(({ result }) => result !== 'green' && !result.startsWith('SKIPPED'))) process.exitCode = 1

async function runIn (environment: Environment, machine: Machine, log: string): Promise<Row> {
  const missing = machine.missing(environment)
  if (missing !== undefined) return { result: `SKIPPED: ${missing}` }
  const {
    user, umask = '022', locale, wrapper = [], folder = 'checkout', variables, hasDebianPostgres = false, busyLoops = 0
  } = environment
  if (locale !== undefined) machine.makeLocale(locale)
  const checkout = machine.checkOut(folder, user)
  const env: NodeJS.ProcessEnv = {
    PATH: process.env.PATH,
    USER: process.env.USER,
    ...machine.makeHome(user),
    ...hasDebianPostgres && { DATABASE_URL: await machine.startDebianPostgres() },
    ...variables
  }
  machine.startBusyLoops(busyLoops)

  const become = user === undefined ||
    user === 'root'
    ? []
    : ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups', '--']
  // With coverage where everything runs, as the README has it.
  const command = [
    ...become, 'sh', '-c', `umask ${umask}; exec "$@"`, 'sh', ...wrapper, 'npm', 'test',
    ...files.length > 0 ? ['--', '--disable-coverage', ...files] : []
  ]
  const begun = performance.now()
  const child = machine.start(command[0] as string, command.slice(1), {
    cwd: checkout, env, stdio: ['ignore', 'pipe', 'pipe']
  })
  const [stdout, stderr] = [child.stdout, child.stderr] as [NodeJS.ReadableStream, NodeJS.ReadableStream]
  const file = createWriteStream(log)
  for (const stream of [stdout, stderr]) stream.pipe(file, { end: false })
  const [coloured, , [code]] = await Promise.all([text(stdout), text(stderr), once(child, 'close')])
  const output = stripVTControlCharacters(coloured)
  file.end()
  const sums = sumsOf(output)
  const isGreen = code === 0 && sums.passed > 0
  console.log(isGreen ? 'green' : `RED: see ${log}\n${failuresOf(output)}`)
  return { result: isGreen ? 'green' : 'RED', ...sums, seconds: (performance.now() - begun) / 1000 }
}

/** What the last line says: "13 passed, 1 failed, 0 skipped", or tap's own "# { total: 14, pass: 13, fail: 1 }". */
function sumsOf (output: string): { passed: number, failed: number, skipped: number } {
  const line = output.match(/^(\d+ passed, .*|# \{ total: .*)$/gm)?.at(-1) ?? ''
  const [passed = 0, failed = 0, skipped = 0] = ['pass', 'fail', 'skip'].map(word =>
    Number(new RegExp(`(\\d+) ${word}|${word}: (\\d+)`).exec(line)?.slice(1).find(Boolean) ?? 0))
  return { passed, failed, skipped }
}

function failuresOf (output: string): string {
  return output.slice(output.lastIndexOf('\nFailures, once more:')).split('\n').slice(0, 200).join('\n')
}

function printTable (): void {
  console.log('\n| | environment | result | passed | failed | skipped | time |\n|---|---|---|---|---|---|---|')
  for (const [number, { result, passed = '', failed = '', skipped = '', seconds }] of rows) {
    const time = seconds === undefined ? '' : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    console.log(
      `| ${number} | ${ENVIRONMENTS[number - 1]?.title} | ${result} | ${passed} | ${failed} | ${skipped} | ${time} |`
    )
  }
}
