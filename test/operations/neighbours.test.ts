import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { createNeighbours } from '../../lib/store/neighbours.js'
import type { Log } from '../../lib/types.js'
import { buildHost } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'

const [OLD, NEW, STRANGER] = ['aaaa', 'bbbb', 'cccc']

function create (fingerprints = [OLD, NEW]) {
  const said: string[] = []
  const warnings: string[] = []
  const neighbours = createNeighbours('a schema', fingerprints, async (channel, text) => {
    said.push(`${channel} ${text}`)
    throw new Error('out of reach, which nobody need hear of')
  }, { warn: (line: string) => { warnings.push(line) } } as unknown as Log)
  return { neighbours, said, warnings }
}

t.test('who comes asks the nodes of its schema, by what it signs with', async t => {
  const { neighbours, said } = create()
  t.equal(neighbours.channel, 'mmc_tokens_keys_a schema')
  neighbours.greet()
  t.strictSame(said, ['mmc_tokens_keys_a schema aaaa?'])
})

t.test('a node answers whoever signs with another secret and asks, and no answer', async t => {
  const { neighbours, said } = create()
  for (const payload of [OLD, `${OLD}?`, NEW, STRANGER]) neighbours.hear(payload)
  t.strictSame(said, [])
  for (const payload of [`${NEW}?`, `${STRANGER}?`]) {
    neighbours.hear(payload)
    await turn()
  }
  t.strictSame(said, ['mmc_tokens_keys_a schema aaaa', 'mmc_tokens_keys_a schema aaaa'])
})

t.test('any number who ask while an answer is under way cost one more', async t => {
  const { neighbours, said } = create()
  for (let n = 0; n < 200; n++) neighbours.hear(`${n}?`)
  await turn()
  t.equal(said.length, 2)
})

t.test('a secret that this node does not know is warned of, once a minute at most, whoever writes how much of it', async t => {
  let now = 1000
  t.intercept(performance, 'now', { value: () => now })
  const { neighbours, warnings } = create()
  for (const payload of [OLD, `${OLD}?`, NEW, `${NEW}?`]) neighbours.hear(payload)
  t.strictSame(warnings, [], 'it verifies with both')
  for (let n = 0; n < 200; n++) neighbours.hear(`${STRANGER}${n}`)
  now += 59_999
  neighbours.hear('dddd')
  t.match(warnings, [/^another node signs tokens with a secret that this node does not know, and they are refused here: give all nodes the same option "secret"/])
  t.equal(warnings.length, 1)
  now++
  neighbours.hear(STRANGER)
  t.equal(warnings.length, 2)
})

t.test('200 notifications by a user of the database are one warning in the log', async t => {
  const lines: string[] = []
  const database = await createSeparateDatabase(t)
  const { onEvent, until } = collectEvents()
  const { app } = await buildHost(t, { database, tokens: { onEvent }, fastify: { logger: { level: 'warn', stream: { write (line: string) { lines.push(line) } } } } })
  while (app.tokens.health().lease !== 'held') await turn()
  const { hash } = await app.tokens.issue({ name: 'last', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'test' })
  for (let n = 0; n < 200; n++) await database.query("SELECT pg_notify('mmc_tokens_keys_mmc_tokens', $1)", [`${n}?`])
  // Heard after them, on the same connection.
  await database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  await until(1, 'token.revoked')
  t.equal(lines.filter(line => line.includes('another node signs')).length, 1)
})
