import { load } from './load.js'
import type { Server, Start } from './start-server.js'
import { showSpread, spread, table } from './statistics.js'

const FLOOD = 20
const HONEST = 2

/**
 * p99 of honest requests beside a flood of forged or revoked tokens to the same server, to that beside as many
 * connections of honest ones.
 */
export async function measureFlood (
  start: Start, { cycles, seconds }: { cycles: number, seconds: number }
): Promise<string> {
  const rows: string[][] = []
  for (const name of ['ours, forged', 'ours, revoked']) {
    const schema = `bench_flood_${name.slice(6)}`
    // The other server makes what floods this one.
    const [honest, other] = [await start('ours, hit', schema), await start(name, schema)]
    const flood: Server = { ...other, url: honest.url }
    const more: Server = { ...honest }
    const ratios: number[] = []
    const lookups: number[] = []
    const writes: number[] = []
    for (let cycle = -1; cycle < cycles; cycle++) {
      const figures = new Map<Server, number>()
      for (const beside of cycle % 2 === 0 ? [more, flood] : [flood, more]) {
        const before = await honest.stats()
        const [{ p99, seconds: took }] = await Promise.all([
          load(honest, { seconds, connections: HONEST }),
          load(beside, { seconds, connections: FLOOD })
        ])
        figures.set(beside, p99)
        if (beside === more || cycle < 0) continue
        const after = await honest.stats()
        const written = after.writes - before.writes
        lookups.push((after.queries - before.queries - written) / took)
        writes.push(written / took)
      }
      // The first is to get warm.
      if (cycle >= 0) ratios.push((figures.get(flood) ?? NaN) / (figures.get(more) ?? NaN))
    }
    rows.push([`p99 of honest requests beside "${name}"`, `${showSpread(spread(ratios))} ×`, '≤ 2 ×'])
    rows.push([
      `lookups a second beside "${name}"`, showSpread(spread(lookups)),
      name === 'ours, forged' ? '0' : '≤ 1, and 1 as a slice begins'
    ])
    rows.push([`writes of lastUsed a second beside "${name}"`, showSpread(spread(writes)), '≤ 0.25'])
  }
  return table([['', 'measured', 'to reach'], ...rows])
}
