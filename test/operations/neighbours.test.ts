import t from 'tap'
import { createNeighbours } from '../../lib/store/neighbours.js'
import type { Log } from '../../lib/types.js'

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
  for (const payload of [`${NEW}?`, `${STRANGER}?`]) neighbours.hear(payload)
  t.strictSame(said, ['mmc_tokens_keys_a schema aaaa', 'mmc_tokens_keys_a schema aaaa'])
})

t.test('a secret that this node does not know is warned of once, and again when others came between', async t => {
  const { neighbours, warnings } = create()
  for (const payload of [OLD, `${OLD}?`, NEW, `${NEW}?`]) neighbours.hear(payload)
  t.strictSame(warnings, [], 'it verifies with both')
  neighbours.hear(STRANGER)
  neighbours.hear(`${STRANGER}?`)
  neighbours.hear(STRANGER)
  t.match(warnings, [/^another node signs tokens with a secret that this node does not know, and they are refused here: give all nodes the same option "secret"/])
  neighbours.hear('dddd')
  neighbours.hear(STRANGER)
  t.equal(warnings.length, 3)
})
