import t from 'tap'
import { auditUnder, type OutboxFault } from './outbox.js'
import { SEED } from './random.js'

/** Creates and revokes: more in the soak. */
const ACTS = Number(process.env.ACTS ?? 500)

t.comment(`FAULT_SEED=${SEED}`)

for (const fault of [
  'a node is killed', 'Postgres is restarted', 'the answer of each statement is lost once'
] satisfies OutboxFault[]) {
  t.test(`no act is missing from the audit when ${fault}, under a publication for all tables`, async t => {
    const { missing, wrong, figures } = await auditUnder(t, { fault, acts: ACTS })
    t.comment(JSON.stringify(figures))
    t.strictSame([missing, wrong], [[], []])
    t.ok(figures.acts > ACTS / 2 && figures.unanswered > 0, 'something was in its way')
  })
}

for (const bug of [
  'an event leaves the outbox before it is reported', 'what fails is not retried', 'who acts is not said'
] as const) {
  t.test(`a planted bug is found: ${bug}`, async t => {
    const { missing, wrong } = await auditUnder(t, { fault: 'a node is killed', acts: 200, bug })
    t.ok(missing.length + wrong.length > 0)
  })
}
