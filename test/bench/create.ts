import type { Start } from './start-server.js'
import { showSpread, spread, table } from './statistics.js'

/** Tokens a second, 8 at once, beside rows a second that the bare INSERT writes in the same process, in turns. */
export async function measureCreate (start: Start, { cycles, seconds }: { cycles: number, seconds: number }): Promise<string> {
  const server = await start('create')
  const rates: Record<'issue' | 'insert', number[]> = { issue: [], insert: [] }
  for (let cycle = -1; cycle < cycles; cycle++) {
    for (const task of cycle % 2 === 0 ? ['issue', 'insert'] as const : ['insert', 'issue'] as const) {
      const rate = await server.ask<number>(task, seconds)
      // The first is to get warm.
      if (cycle >= 0) rates[task].push(rate)
    }
  }
  return table([
    ['', 'measured', 'to reach'],
    ['app.tokens.issue, per second', showSpread(spread(rates.issue)), ''],
    ['INSERT through pg, per second', showSpread(spread(rates.insert)), ''],
    ['ratio', showSpread(spread(rates.issue.map((rate, cycle) => rate / (rates.insert[cycle] ?? NaN)))), '≥ 0.7']
  ])
}
