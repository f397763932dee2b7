import { EventEmitter, once } from 'node:events'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { bearer, buildHost, type TestHost } from './build-host.js'
import { createDatabase } from './database.js'
import { createProxy, type Proxy } from './proxy.js'

export interface Node extends TestHost {
  proxy: Proxy
  /** Resolves with the log line when the lease is held, or lost, from now on. */
  becomes: (lease: 'held' | 'lost') => Promise<string>
}

/** A node behind a proxy of its own, its lease held. */
export async function createNode (t: Test, options: Parameters<typeof buildHost>[1] = {}): Promise<Node> {
  const database = options.database ?? await createDatabase(t)
  const proxy = await createProxy(t, database.url)
  const log = new EventEmitter()
  const stream = {
    write (line: string) {
      if (line.includes('revocation listener lost')) log.emit('lost', line)
      else if (line.includes('revocation listener connected')) log.emit('held', line)
    }
  }
  const becomes = async (lease: string): Promise<string> => (await once(log, lease) as [string])[0]
  const held = becomes('held')
  const host = await buildHost(t, {
    ...options, database, tokens: { postgres: proxy.url, ...options.tokens }, fastify: { logger: { stream } }
  })
  // A host that listens stays; our timers and idle connections are no reason to.
  await host.app.listen({ port: 0, host: '127.0.0.1' })
  await held
  t.strictSame(host.app.tokens.health(), { enabled: true, lease: 'held' })
  return { ...host, proxy, becomes }
}

/** One request, in a turn of the event loop of its own, as from a socket. */
export async function use ({ app }: TestHost, token: string): Promise<number> {
  await turn()
  return (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode
}

/** Statuses until the token is refused: nobody may be let in by it later than 2 s from now. */
export async function lastAccepted (node: TestHost, token: string): Promise<number> {
  const answered = performance.now()
  let last = 0
  for (; performance.now() - answered < 3000; await sleep(2)) {
    const begun = performance.now()
    const status = await use(node, token)
    if (status === 401) break
    if (status === 200) last = begun - answered
  }
  return last
}
