import type { Watched } from './server.js'
import type { Start } from './start-server.js'
import { show, table } from './statistics.js'

const MIB = 1024 * 1024
const TIMES = 5

/**
 * The answers that are lists, to GET and to the DELETE of no token, some times each, and what they do to the process
 * meanwhile.
 */
export async function measureList (start: Start): Promise<string> {
  const server = await start('list')
  const authorization = server.sent[0]?.authorization ?? ''
  const rows: string[][] = []
  for (const total of [100, 10_000, 100_000]) {
    await server.ask('fill', total)
    for (const [method, path] of [['GET', ''], ['DELETE', '/none']] as const) {
      const { rss: before } = await server.stats()
      await server.ask('watch')
      const started = performance.now()
      for (let n = 0; n < TIMES; n++) {
        const response = await fetch(`${server.url}/api/tokens${path}`, { method, headers: { authorization } })
        let bytes = 0
        for await (const chunk of response.body as AsyncIterable<Uint8Array>) bytes += chunk.length
        if (response.status !== 200 ||
          bytes < total * 100) throw new Error(`a list of ${total} answers ${response.status} with ${bytes} bytes`)
      }
      const took = (performance.now() - started) / TIMES
      const { p99, max, rss } = await server.ask<Watched>('watched')
      rows.push([`${method} ${total}`, show(took), show(p99), show(max), show((rss - before) / MIB)])
    }
  }
  return 'The event loop\'s delay counts from 1 ms, the step of its monitor. To reach with 100,000: p99 ≤ 50 ms, RSS growth ≤ 64 MiB\n\n' +
    table([['tokens', 'ms a list', 'delay p99 ms', 'delay max ms', 'RSS growth MiB'], ...rows])
}
