import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import type { InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { IssuedToken } from '../../lib/index.js'
import { bearer, buildHost, type TestHost } from '../support/build-host.js'
import { createSeparateDatabase, type Database } from '../support/database.js'

/** How long after a token died elsewhere a node may still accept it, in milliseconds. */
const BOUND = 2000

/** What is true of a token. */
interface ModelToken {
  /** When whoever ended it had the answer. */
  deadSince?: number
  /** The nodes to which it is dead at once: they answered a DELETE of it, were started after it died, or have refused it. */
  deadOn: Set<number>
}
interface Model { tokens: ModelToken[], isEnabled: boolean[] }

interface Node extends TestHost { log: EventEmitter }
interface Real { nodes: Node[], tokens: IssuedToken[], database: Database, session: { cookie: string }, restart: (node: number) => Promise<void> }

/** Something that happens, with a name to be printed when it went wrong. */
class Step implements fc.AsyncCommand<Model, Real> {
  constructor (readonly name: string, readonly run: (model: Model, real: Real) => Promise<void>) {}
  check = (): boolean => true
  toString = (): string => this.name
}

/** Something that happens to a token, here the last but `pick`, on a node or behind its back. */
type OnToken = (token: ModelToken, real: Real, issued: IssuedToken, model: Model) => Promise<void>

function onToken (name: string, pick: number, act: OnToken): Step {
  const step = new Step(`${name} token -${pick}`, async (model, real) => {
    const index = model.tokens.length - 1 - pick % model.tokens.length
    await act(model.tokens[index] as ModelToken, real, real.tokens[index] as IssuedToken, model)
  })
  return Object.assign(step, { check: ({ tokens }: Model) => tokens.length > 0 })
}

let count = 0

const issue = (node: number): Step => new Step(`issue on ${node}`, async (model, { nodes, tokens, session }) => {
  const payload = { name: `token ${++count}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  const response = await ask(nodes[node] as Node, { method: 'POST', url: '/api/tokens', headers: session, payload })
  expect(response.statusCode, model.isEnabled[node] === true ? 200 : 404)
  if (response.statusCode === 404) return
  model.tokens.push({ deadOn: new Set() })
  tokens.push(response.json())
})

const useOn = (node: number): OnToken => async ({ deadSince, deadOn }, { nodes }, { token }, { isEnabled }) => {
  for (;;) {
    const begun = performance.now()
    const { statusCode, headers } = await ask(nodes[node] as Node, { url: '/api/viewer', headers: bearer(token) })
    const answer = `${statusCode}${String(headers['www-authenticate']).includes('error="invalid_token"') ? ' invalid_token' : ''}`
    // A disabled node knows of no tokens: its guard found nobody.
    if (isEnabled[node] !== true) return expect(answer, '401')
    if (deadSince === undefined) return expect(answer, '200')
    if (answer !== '200') {
      deadOn.add(node)
      return expect(answer, '401 invalid_token')
    }
    if (deadOn.has(node)) throw new Error('accepted by a node to which it was dead')
    if (begun - deadSince >= BOUND) throw new Error(`accepted ${begun - deadSince} ms after it died`)
    await turn()
  }
}

const dieOn = (node: number, revoke: (real: Real, issued: IssuedToken) => Promise<number>): OnToken => async (token, real, issued, model) => {
  await useOn(node)(token, real, issued, model)
  const status = await revoke(real, issued)
  expect(status, model.isEnabled[node] === true ? 200 : 404)
  if (status === 404) return
  token.deadSince ??= performance.now()
  token.deadOn.add(node)
  // Before Postgres can tell it to this node, which has just used it.
  await useOn(node)(token, real, issued, model)
}
const revokeOn = (node: number): OnToken => dieOn(node, async ({ nodes, session }, { hash }) =>
  (await ask(nodes[node] as Node, { method: 'DELETE', url: `/api/tokens/${hash}`, headers: session })).statusCode)
/** By the host's own code, whose answer comes sooner than one over HTTP: nobody lists what remains. */
const endOn = (node: number): OnToken => dieOn(node, async ({ nodes }, { hash }) => {
  for (;;) {
    const status = await (nodes[node] as Node).app.tokens.revoke(hash).then(() => 200, (error: { statusCode: number }) => error.statusCode)
    if (status !== 0) return status
  }
})

const bySql = (statement: string): OnToken => async (token, { database }, { hash }) => {
  await database.query(statement, [hash])
  token.deadSince ??= performance.now()
}

/** The listeners' backends are ended. What happens then may happen while nobody hears of it; the nodes hear again afterwards. */
const endListeners = (meanwhile: Step | null): Step => {
  const step = new Step(`end listeners, meanwhile ${String(meanwhile)}`, async (model, real) => {
    const held = Promise.all(real.nodes.map(({ log }) => once(log, 'held')))
    await real.database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' AND datname = current_database()")
    await meanwhile?.run(model, real)
    if (meanwhile !== null) await held
  })
  return Object.assign(step, { check: meanwhile?.check ?? step.check })
}

const restart = (node: number): Step => new Step(`restart ${node}`, async (model, real) => {
  await real.restart(node)
  model.isEnabled[node] = true
  for (const { deadSince, deadOn } of model.tokens) if (deadSince !== undefined) deadOn.add(node)
})

const switchTo = (isOn: boolean, node: number): Step => new Step(`${isOn ? 'enable' : 'disable'} ${node}`, async (model, { nodes }) => {
  await (nodes[node] as Node).app.tokens[isOn ? 'enable' : 'disable']()
  model.isEnabled[node] = isOn
})

/** Asks; again where Postgres took its second and said nothing, as it may on a busy machine. */
async function ask ({ app }: Node, request: InjectOptions) {
  for (;;) {
    const begun = performance.now()
    const response = await app.inject(request)
    if (response.statusCode !== 500 || performance.now() - begun < 900) return response
  }
}

function expect<T> (found: T, wanted: T): void {
  if (found !== wanted) throw new Error(`${String(found)} instead of ${String(wanted)}`)
}

/** Two nodes that hear of revocations. */
async function build (t: Test, database: Database): Promise<Real> {
  async function start (): Promise<Node> {
    const log = new EventEmitter()
    const stream = { write (line: string) { if (line.includes('"hears of revocations')) log.emit('held') } }
    const held = once(log, 'held')
    const host = await buildHost(t, { database, fastify: { logger: { stream } } })
    await host.app.listen({ port: 0, host: '127.0.0.1' })
    await held
    return { ...host, log }
  }
  const nodes = await Promise.all([start(), start()]) as [Node, Node]
  return {
    nodes,
    tokens: [],
    database,
    session: await nodes[0].login(),
    async restart (node) {
      await nodes[node]?.app.close()
      nodes[node] = await start()
    }
  }
}

t.test('whatever happens to two nodes, a dead token is refused: at once where it was revoked, within 2 s elsewhere; a live one never is', async t => {
  const database = await createSeparateDatabase(t)
  const node = fc.nat(1)
  const token = fc.nat(2)
  const use = fc.tuple(node, token).map(([node, pick]) => onToken(`use on ${node}`, pick, useOn(node)))
  const death = fc.oneof(
    fc.tuple(node, token).map(([node, pick]) => onToken(`revoke on ${node}`, pick, revokeOn(node))),
    fc.tuple(node, token).map(([node, pick]) => onToken(`end on ${node}`, pick, endOn(node))),
    token.map(pick => onToken('expire', pick, bySql("UPDATE tokens SET valid_until = now() - interval '1 s' WHERE hash = $1"))),
    token.map(pick => onToken('delete', pick, bySql('DELETE FROM tokens WHERE hash = $1')))
  )
  const steps = fc.commands([
    node.map(issue), use, use, use, death, death, fc.option(death).map(endListeners), node.map(restart),
    fc.tuple(fc.boolean(), node).map(([isOn, node]) => switchTo(isOn, node))
  ], { maxCommands: 40, size: 'max' })
  const totals = { runs: 0, issued: 0, dead: 0 }
  // A slow machine tries fewer.
  const end = performance.now() + 30_000
  await fc.assert(fc.asyncProperty(steps, async steps => {
    if (performance.now() > end) return
    const [model, real] = [{ tokens: [] as ModelToken[], isEnabled: [true, true] }, await build(t, database)]
    try {
      for (const node of [0, 1]) await issue(node).run(model, real)
      await fc.asyncModelRun(() => ({ model, real }), steps)
      for (const [pick] of model.tokens.entries()) for (const node of [0, 1]) await onToken(`use on ${node}`, pick, useOn(node)).run(model, real)
    } finally {
      await Promise.all(real.nodes.map(async ({ app }) => { await app.close() }))
    }
    totals.runs++
    totals.issued += model.tokens.length
    totals.dead += model.tokens.filter(({ deadSince }) => deadSince !== undefined).length
  }), { numRuns: 50 })
  t.pass(JSON.stringify(totals))
})
