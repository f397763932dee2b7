import type { Test } from 'tap'
import { bearer, SECRET } from '../support/build-host.js'
import { buildNode } from './build-node.js'
import type { BugName } from './bugs.js'
import { checkTable, type Row } from './check.js'
import { type Call, login } from './load.js'
import { createRandom } from './random.js'
import { startNode } from './start-node.js'
import { connectTo, startServer } from './world.js'

interface Token { name: string, hash: string, token: string }

/** Processes at a time. */
const LANES = 3

/**
 * Nodes that die at a step of a creating POST or of a DELETE, from the first to the moment it is answered, evenly
 * spread; every fifth dies at some moment with many of both under way. Afterwards table and history must agree, and a
 * node must say the same.
 */
export async function crash (t: Test, { points, bug }: { points: number, bug?: BugName }) {
  const [postgres, build] = await Promise.all([startServer(t), buildNode(bug)])
  t.teardown(build.remove)
  const random = createRandom()
  const settings = { postgres: postgres.url, secret: SECRET }
  const steady = await startNode('steady', build, settings)
  t.teardown(steady.kill)
  const session = await login(steady)
  const history: Call[] = []
  const tokens: Token[] = []
  let count = 0

  async function request (address: string, what: 'issue' | 'revoke', {
    hash = '', name = `crash ${++count}`
  }: Partial<Token> = {}, dieAt?: number): Promise<Call> {
    const call: Call = { node: address, what, name, hash, begun: performance.now(), ended: NaN, status: 0 }
    const headers = { ...session, ...dieAt !== undefined && { 'die-at': String(dieAt) } }
    try {
      const response = what === 'issue'
        ? await fetch(`${address}/api/tokens`, {
          method: 'POST', headers, body: JSON.stringify({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
        })
        : await fetch(`${address}/api/tokens/${hash}`, { method: 'DELETE', headers })
      const body = await response.json() as Token
      call.status = response.status
      if (what === 'issue') {
        call.hash = body.hash
        tokens.push(body)
      }
    } catch {
      // It died first.
    }
    call.ended = performance.now()
    history.push(call)
    return call
  }

  async function spare (): Promise<Token> {
    await request(steady.address, 'issue')
    return tokens.at(-1) as Token
  }

  /** A node of its own, which does not survive. */
  async function live (what: 'issue' | 'revoke' | 'many', dieAt: number): Promise<void> {
    const spares = what === 'issue' ? [] : await Promise.all(Array.from({ length: what === 'many' ? 8 : 1 }, spare))
    const node = await startNode(what, build, settings)
    if (what === 'many') {
      const calls = spares.flatMap(token => [request(node.address, 'revoke', token), request(node.address, 'issue')])
      setTimeout(() => { node.kill().catch(() => {}) }, random() * 40)
      await Promise.all(calls)
    } else {
      await request(node.address, what, spares[0], dieAt)
    }
    await node.kill()
  }

  async function stepsOf (what: 'issue' | 'revoke'): Promise<number> {
    const token = await spare()
    const node = await startNode('counts', build, settings)
    await request(node.address, what, what === 'issue' ? {} : token, 0)
    const steps = Number(await (await fetch(`${node.address}/steps`)).text())
    await node.kill()
    return steps
  }

  const steps = { issue: await stepsOf('issue'), revoke: await stepsOf('revoke') }
  const plan = Array.from({ length: points - 2 }, (_, n) => {
    const what: 'issue' | 'revoke' | 'many' = n % 5 === 4 ? 'many' : n % 2 === 0 ? 'issue' : 'revoke'
    return { what, dieAt: what === 'many' ? 0 : 1 + Math.floor(((n + random()) / points) * (steps[what] + 1)) }
  })
  // The very moment after the answer.
  for (const what of ['issue', 'revoke'] as const) plan.push({ what, dieAt: Infinity })
  await Promise.all(Array.from({ length: LANES }, async () => {
    for (let next = plan.shift(); next !== undefined; next = plan.shift()) await live(next.what, next.dieAt)
  }))

  const client = await connectTo(postgres.url)
  const { rows } = await client.query<Row>('SELECT hash, name FROM mmc_tokens.tokens')
  await client.end()
  const violations = checkTable(history, rows)
  const fresh = await startNode('fresh', build, settings)
  t.teardown(fresh.kill)
  for (const { name, hash, token } of tokens) {
    const { status } = await fetch(`${fresh.address}/api/viewer`, { headers: bearer(token) })
    if (status !== (rows.some(row => row.hash === hash) ? 200 : 401)) {
      violations.push(
      `a node that starts answers ${status}: ${name}`
      )
    }
  }
  const unanswered = history.filter(({ status }) => status === 0)
  const isThere = ({ name }: Call): boolean => rows.some(row => row.name === name)
  return {
    violations,
    figures: {
      points,
      steps,
      calls: history.length,
      unanswered: unanswered.length,
      unansweredAndDone: unanswered.filter(call => isThere(call) === (call.what === 'issue')).length
    }
  }
}
