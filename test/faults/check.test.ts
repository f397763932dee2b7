import t from 'tap'
import { check, type Row, type Rules } from './check.js'
import type { Call } from './load.js'

const RULES: Rules = { struck: 1000, full: 1000, healed: 5000 }

/** A call of 10 ms. */
function call (what: Call['what'], status: number, begun: number, more: Partial<Call> = {}): Call {
  return {
    node: 'a',
    what,
    status,
    begun,
    ended: begun + 10,
    ...what !== 'plain' && what !== 'forged' &&
    { name: 'n', hash: 'h' },
    ...more
  }
}

const ISSUED = call('issue', 200, 0)
const REVOKED = call('revoke', 200, 2000)
const ROW: Row = { name: 'n', hash: 'h' }

t.test('a history that keeps every promise is found good', t => {
  t.strictSame(check([
    ISSUED, call('use', 200, 100), call('use', 500, 1100), call('plain', 200, 1200), call('forged', 401, 1300)
  ], [ROW], RULES), [])
  t.strictSame(
    check([ISSUED, REVOKED, call('use', 200, 4005, { node: 'b' }), call('use', 401, 2020)], [], RULES),
    [],
    'another node may believe for 2 s'
  )
  t.strictSame(
    check([ISSUED, call('revoke', 500, 2000), call('use', 401, 2500)], [], RULES),
    [],
    'a DELETE that failed may have been done'
  )
  t.strictSame(check([ISSUED, call('revoke', 500, 2000), call('use', 200, 2500)], [ROW], RULES), [], 'or not')
  t.strictSame(check([call('issue', 500, 2000, { hash: '' })], [ROW], RULES), [], 'as may a POST')
  t.end()
})

t.test('each broken promise is found', t => {
  const broken: Record<string, [history: Call[], rows: Row[], rules?: Partial<Rules>]> = {
    'accepted by the node that had answered': [[ISSUED, REVOKED, call('use', 200, 2011)], []],
    'accepted 2001 ms after': [[ISSUED, REVOKED, call('use', 200, 4011, { node: 'b' })], []],
    'a good token was refused': [[ISSUED, call('use', 401, 1100)], [ROW]],
    'an answer that nothing explains': [[call('forged', 200, 1100)], []],
    'a request without a credential failed': [[call('plain', 500, 1100)], []],
    'an error without a fault': [[ISSUED, call('use', 500, 500)], [ROW]],
    'a guess': [[ISSUED, call('use', 200, 1100)], [ROW], { only: [500] }],
    'not recovered in time': [[ISSUED, call('use', 500, 8001)], [ROW]],
    'not answered in time': [[ISSUED, call('use', 500, 1100, { ended: 2700 })], [ROW], { calls: 1 }],
    lost: [[ISSUED], []],
    'revoked and back': [[ISSUED, REVOKED], [ROW]],
    'stored 2 times': [[ISSUED], [ROW, ROW]]
  }
  for (const [promise, [history, rows, rules]] of Object.entries(broken)) {
    const violations = check(history, rows, { ...RULES, ...rules })
    t.equal(violations.length, 1, promise)
    t.ok(violations[0]?.startsWith(promise), violations.join())
  }
  t.end()
})
