import type { Start } from './start-server.js'
import { showSpread, spread, table } from './statistics.js'

/** From registration to ready in fresh processes, the tables there already, beside a host without the plugin. */
export async function measureReady (start: Start, times: number): Promise<string> {
  const figures: Record<'bare' | 'ours', number[]> = { bare: [], ours: [] }
  for (let n = -1; n < times; n++) {
    const [bare, ours] = [await start('bare Fastify'), await start('ours, no credential', 'bench_ready')]
    await Promise.all([bare.stop(), ours.stop()])
    // The first migrates.
    if (n < 0) continue
    figures.bare.push(bare.readyIn ?? NaN)
    figures.ours.push(ours.readyIn ?? NaN)
  }
  return table([
    ['milliseconds', 'measured', 'to reach'],
    ['bare Fastify', showSpread(spread(figures.bare)), ''],
    ['with the plugin', showSpread(spread(figures.ours)), ''],
    ['beyond the host\'s own', showSpread(spread(figures.ours.map((ms, n) => ms - (figures.bare[n] ?? NaN)))), '≤ 150']
  ])
}
