import { Agent, request as send } from 'node:http'
import type { IssuedToken } from '../../lib/index.js'
import { load } from './load.js'
import type { Server, Start } from './start-server.js'
import { quantile, show, table } from './statistics.js'

const NODES = 3
/** Requests a second to each node meanwhile. */
const RATE = 300

/**
 * From the answer to the DELETE on one node to the first refusal by each of the others, which are asked without pause.
 */
export async function measureRevocation (start: Start, revocations: number): Promise<string> {
  const nodes = await Promise.all(Array.from({ length: NODES }, async () => await start('node', 'bench_nodes')))
  await Promise.all(nodes.map(async node => await node.ask('ready')))
  const agent = new Agent({ keepAlive: true })
  const over = new AbortController()
  const under = nodes.map(
    async node => { while (!over.signal.aborted) await load(node, { seconds: 5, connections: 5, rate: RATE }) }
  )
  // Until the load is there.
  await new Promise(resolve => setTimeout(resolve, 2000))

  const waits: number[] = []
  try {
    for (let n = 0; n < revocations; n++) {
      const revoking = nodes[n % NODES] as Server
      const { token, hash } = await revoking.ask<IssuedToken>('issue')
      const ask = async (node: Server): Promise<number> =>
        await status(agent, 'GET', `${node.url}/hello`, `Bearer ${token}`)
      for (const node of nodes) if (await ask(node) !== 200) throw new Error(`a new token is refused by ${node.url}`)
      const refusals = nodes.filter(node => node !== revoking).map(async node => {
        while (await ask(node) === 200);
        return performance.now()
      })
      const code = await status(
        agent, 'DELETE', `${revoking.url}/api/tokens/${hash}`, revoking.sent[0]?.authorization ?? ''
      )
      const answeredAt = performance.now()
      if (code !== 200) throw new Error(`DELETE answers ${code}`)
      for (const refusedAt of await Promise.all(refusals)) waits.push(Math.max(0, refusedAt - answeredAt))
    }
  } finally {
    over.abort()
    await Promise.all(under)
    agent.destroy()
  }
  return `${waits.length} refusals by ${NODES - 1} other nodes, ${RATE} requests a second to each node; milliseconds after the DELETE's answer\n\n` + table([
    ['', 'measured', 'to reach'],
    ['p50', show(quantile(waits, 0.5)), '≤ 2'],
    ['p99', show(quantile(waits, 0.99)), '≤ 50'],
    ['max', show(Math.max(...waits)), '≤ 250']
  ])
}

function status (agent: Agent, method: string, url: string, authorization: string): Promise<number> {
  return new Promise((resolve, reject) => {
    send(url, { agent, method, headers: { authorization } }, response => {
      response.resume().on('end', () => { resolve(response.statusCode ?? 0) })
    }).on('error', reject).end()
  })
}
