import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { ask, build, DIST, start, WARM_UP } from './hit.js'
import { spread, table } from './statistics.js'

const COPY = fileURLToPath(new URL('node_modules/.bench/switched/', import.meta.url))
const FILE = 'lib/http/authenticate.js'
/** What a request does for open connections although it opens none, and the same behind a switch. */
const SWITCHED = [
  ['state.accepted = {', 'if (!globalThis.isOff) state.accepted = {'],
  ['if (isUpgrade(request))\n                connections', 'if (!globalThis.isOff && isUpgrade(request))\n                connections']
] as const

const PROCESSES = 12
/** Pairs of slices per process. */
const PAIRS = 60
const SLICE = 2000

/**
 * What open connections cost a request that opens none: slices with and without, in the same process and random order,
 * since two processes differ by more than one per cent.
 */
export async function measureConnections (postgres: string): Promise<string> {
  build()
  await cp(fileURLToPath(DIST), COPY, { recursive: true })
  let code = await readFile(join(COPY, FILE), 'utf8')
  for (const [from, to] of SWITCHED) {
    if (code.split(from).length !== 2) throw new Error(`${FILE} has changed: ${from}`)
    code = code.replace(from, to)
  }
  await writeFile(join(COPY, FILE), code)

  const rows = [['', 'with : without', 'with : with']]
  for (const name of ['ours, header', 'ours, no credential']) {
    const [ratios, noise] = [[] as number[], [] as number[]]
    for (let count = 0; count < PROCESSES; count++) {
      const server = await start(name, postgres, pathToFileURL(join(COPY, 'lib/index.js')))
      const measure = async (isOff: boolean): Promise<number> => await ask(server, isOff ? -SLICE : SLICE)
      for (const requests of [WARM_UP, -WARM_UP]) await ask(server, requests)
      for (let pair = 0; pair < PAIRS; pair++) {
        const isOff = Math.random() < 0.5
        const [one, other] = [await measure(isOff), await measure(!isOff)]
        ratios.push(isOff ? other / one : one / other)
        noise.push(await measure(false) / await measure(false))
      }
      server.disconnect()
    }
    rows.push([name, interval(ratios), interval(noise)])
  }
  return `CPU per request, ${PROCESSES} × ${PAIRS} pairs of ${SLICE} requests; median (its 95 % interval)\n\n${table(rows)}`
}

/** The median and its 95 % interval, from the quartiles (McGill, Tukey and Larsen, 1978, with 1.96 for 1.7). */
function interval (values: number[]): string {
  const { median, first, third } = spread(values)
  const margin = 1.96 * 1.25 * (third - first) / (1.35 * Math.sqrt(values.length))
  return `${median.toFixed(3)} (${(median - margin).toFixed(3)}–${(median + margin).toFixed(3)})`
}
