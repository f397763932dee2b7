import type { Start } from './start-server.js'
import { showSpread, spread, table } from './statistics.js'

const GROUPS = [['issue', 'insert', 'insertTriggered'], ['revoke', 'delete', 'deleteTriggered']] as const

/**
 * Tokens created and revoked a second, 8 at once, beside rows that the bare statements write and delete in the same
 * process, in turns: in a table without triggers, and in one with the plugin's (the floor). Acts are reported
 * meanwhile; what waits for that is waited for between the turns.
 */
export async function measureCreate (
  start: Start, { cycles, seconds }: { cycles: number, seconds: number }
): Promise<string> {
  const server = await start('create')
  const rates: Record<typeof GROUPS[number][number], number[]> = {
    issue: [], insert: [], insertTriggered: [], revoke: [], delete: [], deleteTriggered: []
  }
  const drains: number[] = []
  for (let cycle = -1; cycle < cycles; cycle++) {
    for (const group of GROUPS) {
      for (const task of cycle % 2 === 0 ? group : group.toReversed()) {
        const rate = await server.ask<number>(task, seconds)
        const begun = performance.now()
        await server.ask('drain', 0)
        // The first is to get warm.
        if (cycle < 0) continue
        rates[task].push(rate)
        if (task === 'issue') drains.push(performance.now() - begun)
      }
    }
  }
  const ratio = (own: keyof typeof rates, bare: keyof typeof rates): string =>
    showSpread(spread(rates[own].map((rate, cycle) => rate / (rates[bare][cycle] ?? NaN))))
  return table([
    ['', 'measured', 'to reach'],
    ['app.tokens.issue, per second', showSpread(spread(rates.issue)), ''],
    ['INSERT through pg, per second', showSpread(spread(rates.insert)), ''],
    ['ratio', ratio('issue', 'insert'), '≥ 0.6'],
    ['… of the same INSERT, with the triggers', ratio('insertTriggered', 'insert'), 'the floor'],
    ['app.tokens.revoke, per second', showSpread(spread(rates.revoke)), ''],
    ['DELETE through pg, per second', showSpread(spread(rates.delete)), ''],
    ['ratio', ratio('revoke', 'delete'), '≥ 0.6'],
    ['… of the same DELETE, with the triggers', ratio('deleteTriggered', 'delete'), 'the floor'],
    ['the last event is reported after the last answer, ms', showSpread(spread(drains)), '']
  ])
}
