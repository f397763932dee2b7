import t from 'tap'
import { crash } from './crash.js'
import { SEED } from './random.js'

/** How many processes die: more in the soak. */
const POINTS = Number(process.env.CRASHES ?? 60)

t.comment(`FAULT_SEED=${SEED}`)

for (const bug of [
  'a token is answered first, and stored afterwards', 'a revocation is answered first, and stored afterwards'
] as const) {
  t.test(`a planted bug is found: ${bug}`, async t => {
    const { violations } = await crash(t, { points: 4, bug })
    t.match(violations.join(), bug.startsWith('a token') ? /lost/ : /revoked and back/)
  })
}

t.test('a host that is killed at any step of a POST or a DELETE loses no token it answered, and brings none back', async t => {
  const { violations, figures } = await crash(t, { points: POINTS })
  t.comment(JSON.stringify(figures))
  t.strictSame(violations, [])
  t.ok(figures.unanswered > POINTS / 2, 'most died before they answered')
  t.ok(figures.unansweredAndDone > 0 && figures.unansweredAndDone < figures.unanswered, 'on both sides of the commit')
})
