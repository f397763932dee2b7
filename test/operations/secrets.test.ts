import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createKeyCheck } from '../../lib/store/key-check.js'
import type { Log } from '../../lib/types.js'
import { type TestHost, bearer, buildHost } from '../support/build-host.js'
import { type Database, createDatabase, createSeparateDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { until } from '../support/until.js'

const OLD = 'the old secret of the tests, long enough: 0123456789'
const NEW = 'the new secret of the tests, long enough: 0123456789'
const WARNING = 'another node signs tokens with a secret that this node does not know'
/** Programs that use tokens all the while. */
const CLIENTS = 8
/** Requests from one restart to the next. */
const REQUESTS = 200

interface Node extends TestHost {
  secrets: string[]
  /** Requests under way. */
  busy: number
}

interface Outcome {
  used: number
  /** Of tokens whose key nobody has dropped yet, or not on this node. */
  refused: number
  /** Of tokens whose key the node has dropped. */
  acceptedLate: number
  refusedRightly: number
  /** Warnings of nodes about others. */
  warnings: number
}

/**
 * Restarts two nodes with each of these lists of secrets, one after the other, while clients make and use tokens on
 * both.
 */
async function rotate (t: Test, steps: string[][]): Promise<Outcome> {
  const database = await createDatabase(t)
  const outcome: Outcome = { used: 0, refused: 0, acceptedLate: 0, refusedRightly: 0, warnings: 0 }
  const stream = { write (line: string) { if (line.includes(WARNING)) outcome.warnings++ } }
  const start = async (secrets: string[]): Promise<Node> => ({
    ...await buildHost(t, { database, tokens: { secret: secrets }, fastify: { logger: { level: 'warn', stream } } }),
    secrets,
    busy: 0
  })
  const nodes = [await start([OLD]), await start([OLD])]
  const tokens: Array<{ token: string, secret: string }> = []
  const any = <T>(from: T[]): T => from[Math.floor(Math.random() * from.length)] as T

  async function issue ({ app, secrets: [secret = ''] }: Node): Promise<void> {
    const { token } = await app.tokens.issue({
      name: crypto.randomUUID(), role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
    })
    tokens.push({ token, secret })
  }
  async function use ({ app, secrets }: Node, { token, secret }: { token: string, secret: string }): Promise<void> {
    const { statusCode } = await app.inject({ url: '/api/viewer', headers: bearer(token) })
    // A 500 is what a busy Postgres costs.
    if (statusCode !== 200 && statusCode !== 401 && statusCode !== 500) throw new Error(`status ${statusCode}`)
    const isDropped = secret === OLD && !secrets.includes(OLD)
    outcome.used++
    if (statusCode === 200 && isDropped) outcome.acceptedLate++
    if (statusCode === 401) outcome[isDropped ? 'refusedRightly' : 'refused']++
  }

  for (const node of nodes) await issue(node)
  const over = new AbortController()
  const clients = Array.from({ length: CLIENTS }, async () => {
    for (let n = 0; !over.signal.aborted; n++) {
      const node = any(nodes)
      node.busy++
      if (n % 10 === 0) await issue(node)
      await use(node, any(tokens))
      node.busy--
      await turn()
    }
  })
  for (const secrets of steps) {
    for (const [index, before] of nodes.entries()) {
      nodes[index] = await start(secrets)
      // Its first request is with a token that the one before it knew well.
      await use(nodes[index], tokens[0] as { token: string, secret: string })
      // As whoever balances the load does.
      while (before.busy > 0) await Promise.race([turn(), ...clients])
      await before.app.close()
      for (const enough = outcome.used + REQUESTS; outcome.used < enough;) await Promise.race([turn(), ...clients])
    }
  }
  over.abort()
  await Promise.all(clients)
  return outcome
}

t.test('a secret is replaced under load, node by node: verified by all, then signed with, then alone; no token is refused before its key is dropped, and each is from then on', async t => {
  const { used, refused, acceptedLate, refusedRightly, warnings } = await rotate(t, [[OLD, NEW], [NEW, OLD], [NEW]])
  t.comment(`${used} uses, ${refusedRightly} with the dropped secret`)
  t.equal(refused, 0)
  t.equal(acceptedLate, 0)
  t.ok(refusedRightly > 0)
  t.equal(warnings, 0)
})

t.test('the same load notices a rotation in the wrong order: signed with before all verify, and without an overlap', async t => {
  t.ok((await rotate(t, [[NEW, OLD]])).refused > 0)
  t.ok((await rotate(t, [[NEW]])).refused > 0)
})

/** A node, and its warnings of others: those that came, and the next. */
async function startNode (
  t: Test, database: Database, ...secret: string[]
): Promise<TestHost & { warnings: string[], warned: () => Promise<unknown> }> {
  const log = new EventEmitter()
  const warnings: string[] = []
  const stream = {
    write (line: string) {
      if (!line.includes(WARNING)) return
      warnings.push(line)
      log.emit('warning')
    }
  }
  const host = await buildHost(t, { database, tokens: { secret }, fastify: { logger: { level: 'warn', stream } } })
  return { ...host, warnings, warned: async () => { if (warnings.length === 0) await once(log, 'warning') } }
}

t.test('two nodes that sign with different secrets both say so when the second starts, once, and none that knows both', async t => {
  const database = await createDatabase(t)
  const knowing = await startNode(t, database, OLD, NEW)
  const elsewhere = await startNode(t, await createDatabase(t), `elsewhere ${OLD}`)
  const old = await startNode(t, database, OLD)
  const [fresh, another] = [await startNode(t, database, NEW), await startNode(t, database, NEW)]
  await Promise.all([old.warned(), fresh.warned(), another.warned()])
  // A node of their own kind is heard by all, and nobody answers it but `old`.
  await (await startNode(t, database, NEW)).warned()
  for (const { warnings } of [old, fresh, another]) {
    t.equal(warnings.length, 1)
    t.match(warnings[0], '"level":40')
    t.notOk([OLD, NEW].some(secret => warnings[0]?.includes(secret)))
  }
  for (const { warnings } of [knowing, elsewhere]) t.strictSame(warnings, [])
})

t.test('a node that signs with a secret which others do not know yet is warned of by them alone', async t => {
  const database = await createDatabase(t)
  const old = await startNode(t, database, OLD)
  const both = await startNode(t, database, NEW, OLD)
  await old.warned()
  t.strictSame(both.warnings, [])
})

const [FIRST, SECOND, STRANGER] = ['aaaa', 'bbbb', 'cccc']

function create (fingerprints = [FIRST, SECOND]) {
  const said: string[] = []
  const warnings: string[] = []
  const keys = createKeyCheck('a schema', fingerprints, async (channel, text) => {
    said.push(`${channel} ${text}`)
    throw new Error('out of reach')
  }, { warn: (line: string) => { warnings.push(line) } } as unknown as Log)
  return { keys, said, warnings }
}

t.test('who comes asks the nodes of its schema, by what it signs with', async t => {
  const { keys, said } = create()
  t.equal(keys.channel, 'mmc_tokens_keys_a schema')
  keys.ask()
  t.strictSame(said, ['mmc_tokens_keys_a schema aaaa?'])
})

t.test('a node answers whoever signs with another secret and asks, and no answer', async t => {
  const { keys, said } = create()
  for (const payload of [FIRST, `${FIRST}?`, SECOND, STRANGER]) keys.hear(payload)
  t.strictSame(said, [])
  for (const payload of [`${SECOND}?`, `${STRANGER}?`]) {
    keys.hear(payload)
    await turn()
  }
  t.strictSame(said, ['mmc_tokens_keys_a schema aaaa', 'mmc_tokens_keys_a schema aaaa'])
})

t.test('any number who ask while an answer is under way cost one more', async t => {
  const { keys, said } = create()
  for (let n = 0; n < 200; n++) keys.hear(`${n}?`)
  await turn()
  t.equal(said.length, 2)
})

t.test('a secret that this node does not know is warned of, once a minute at most, whoever writes how much of it', async t => {
  let now = 1000
  t.intercept(performance, 'now', { value: () => now })
  const { keys, warnings } = create()
  for (const payload of [FIRST, `${FIRST}?`, SECOND, `${SECOND}?`]) keys.hear(payload)
  t.strictSame(warnings, [], 'it verifies with both')
  for (let n = 0; n < 200; n++) keys.hear(`${STRANGER}${n}`)
  now += 59_999
  keys.hear('dddd')
  t.match(warnings, [
    /^another node signs tokens with a secret that this node does not know, so this node rejects them: give all nodes the same option "secret"/
  ])
  t.equal(warnings.length, 1)
  now++
  keys.hear(STRANGER)
  t.equal(warnings.length, 2)
})

t.test('200 notifications by a user of the database are one warning in the log', async t => {
  const lines: string[] = []
  const database = await createSeparateDatabase(t)
  const events = collectEvents()
  const { app } = await buildHost(t, {
    database,
    tokens: { onEvent: events.onEvent },
    fastify: { logger: { level: 'warn', stream: { write (line: string) { lines.push(line) } } } }
  })
  await until(() => app.tokens.health().lease === 'held')
  const { hash } = await app.tokens.issue({
    name: 'last', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'test'
  })
  for (let n = 0; n < 200; n++) await database.query("SELECT pg_notify('mmc_tokens_keys_mmc_tokens', $1)", [`${n}?`])
  // Heard after them, on the same connection.
  await database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  await events.until(1, 'token.revoked')
  t.equal(lines.filter(line => line.includes('another node signs')).length, 1)
})
