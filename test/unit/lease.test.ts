import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { type Lease, createLease, randomFraction } from '../../lib/store/lease.js'
import { holdTimers } from '../support/timers.js'

interface Scripted {
  lease: Lease
  /** The clocks, in milliseconds: the monotonic one and the one on the wall. */
  clock: { now: number, date: number }
  /** Lets time pass, on both clocks and for timers. */
  pass: (milliseconds: number) => void
  /** Answers the oldest question that waits. */
  answer: (xmax: bigint) => Promise<void>
  /** How many questions and beats were sent. */
  sent: () => { questions: number, beats: number }
  /** The transaction of the oldest beat that waits has ended. */
  beaten: () => Promise<void>
  fail: (what: 'questions' | 'beats') => Promise<void>
  isHeld: () => boolean
  held: () => number
  /** Why the connection is dead. */
  reasons: string[]
}

interface Waiting { resolve: (xmax: bigint) => void, reject: (error: Error) => void }

/** A lease on a connection in our hands. Each wait is the longest. */
function createScripted (t: Test): Scripted {
  const clock = { now: 10_000, date: 1_000_000 }
  t.intercept(performance, 'now', { value: () => clock.now })
  t.intercept(Date, 'now', { value: () => clock.date })
  t.intercept(Math, 'random', { value: () => 1 })
  const tick = holdTimers(t, 'setTimeout')
  const waiting = { questions: [] as Waiting[], beats: [] as Waiting[] }
  const sent = { questions: 0, beats: 0 }
  const reasons: string[] = []
  let held = 0
  const wait = async (what: 'questions' | 'beats'): Promise<bigint> => {
    sent[what]++
    return await new Promise((resolve, reject) => { waiting[what].push({ resolve, reject }) })
  }
  const lease = createLease({
    ask: async () => await wait('questions'),
    beat: async () => await wait('beats'),
    onHeld: () => { held++ },
    onDead: error => { reasons.push(error.message) }
  })
  return {
    lease,
    clock,
    pass (milliseconds) {
      for (let passed = 0; passed < milliseconds; passed++) {
        clock.now++
        clock.date++
        tick(1)
      }
    },
    async answer (xmax) {
      waiting.questions.shift()?.resolve(xmax)
      await turn()
    },
    sent: () => ({ ...sent }),
    async beaten () {
      waiting.beats.shift()?.resolve(0n)
      await turn()
    },
    async fail (what) {
      waiting[what].shift()?.reject(new Error(`no ${what}`))
      await turn()
    },
    isHeld: () => lease.isHeld(),
    held: () => held,
    reasons
  }
}

t.test('a beat that was not committed when a question was answered holds the lease for two seconds from when the question was sent', async t => {
  const { lease, clock, pass, answer, isHeld, held } = createScripted(t)
  lease.start()
  pass(100)
  await answer(100n)
  t.equal(isHeld(), false, 'an answer alone proves nothing')
  lease.hear('99', false)
  t.equal(isHeld(), false, 'nor does a beat that may have been committed before')
  lease.hear('100', false)
  t.strictSame([isHeld(), held()], [true, 1])
  pass(1899)
  t.equal(isHeld(), true)
  clock.now++
  t.equal(isHeld(), false, 'by the clock that only goes forward')
  t.equal(lease.isHeld(11_999), true, 'a time may be given')
})

t.test('a beat that arrives before the answer to the question is compared with it when it comes', async t => {
  for (const [xmax, isProved] of [[100n, true], [101n, false]] as const) {
    await t.test(`${xmax}`, async t => {
      const { lease, answer, isHeld } = createScripted(t)
      lease.start()
      lease.hear('100', false)
      t.equal(isHeld(), false)
      await answer(xmax)
      t.equal(isHeld(), isProved)
    })
  }
})

t.test('transaction ids are compared as numbers, also those that no double can hold', async t => {
  for (const [xmax, below] of [[10n, '9'], [9_007_199_254_740_993n, '9007199254740992']] as const) {
    await t.test(below, async t => {
      const { lease, answer, isHeld } = createScripted(t)
      lease.start()
      await answer(xmax)
      lease.hear(below, false)
      t.equal(isHeld(), false)
      lease.hear(String(xmax), false)
      t.equal(isHeld(), true)
    })
  }
})

t.test('of several questions that a beat answers the newest counts; a proof that comes too late is none', async t => {
  const { lease, clock, pass, answer, isHeld, held } = createScripted(t)
  lease.start()
  await answer(100n)
  pass(500)
  await answer(100n)
  pass(500)
  await answer(200n)
  lease.hear('150', false)
  t.strictSame([isHeld(), lease.isHeld(12_499), lease.isHeld(12_500)], [true, true, false])
  clock.now += 2000
  lease.hear('250', false)
  t.strictSame([isHeld(), held()], [false, 1])
})

t.test('a question is sent every 500 ms, the next one after the answer', async t => {
  const { lease, pass, answer, sent } = createScripted(t)
  lease.start()
  t.equal(sent().questions, 1)
  pass(700)
  t.equal(sent().questions, 1)
  await answer(1n)
  pass(1)
  t.equal(sent().questions, 2, 'that is late')
  pass(100)
  await answer(1n)
  pass(399)
  t.equal(sent().questions, 2)
  pass(1)
  t.equal(sent().questions, 3)
})

t.test('what is no transaction id, or not above the last one, proves nothing and is no beat', async t => {
  const { lease, pass, answer, sent, isHeld } = createScripted(t)
  lease.start()
  await answer(5n)
  pass(249)
  for (const payload of [
    '', ' 5', '5 ', '-1', '+5', '0x10', '1e3', '5n', '٥', '5'.repeat(21), '*', 'NaN'
  ]) lease.hear(payload, true)
  t.equal(isHeld(), false)
  pass(1)
  t.equal(sent().beats, 1, 'it still waits for the first one')
  lease.hear('4', false)
  pass(700)
  for (const payload of ['4', '3', '0']) lease.hear(payload, false)
  pass(549)
  t.equal(sent().beats, 1)
  pass(1)
  t.equal(sent().beats, 2, 'heard again they are no beats')
})

t.test('after connecting it beats within 250 ms, after its own beat 450 ms later, after that of another when that one is silent', async t => {
  const { lease, pass, sent, beaten, reasons } = createScripted(t)
  lease.start()
  pass(249)
  t.equal(sent().beats, 0)
  pass(1)
  t.equal(sent().beats, 1)
  lease.hear('1', true)
  await beaten()
  for (let beat = 2; beat < 5; beat++) {
    pass(449)
    t.equal(sent().beats, beat - 1)
    pass(1)
    t.equal(sent().beats, beat)
    lease.hear(String(beat), true)
    await beaten()
  }
  for (let beat = 5; beat < 10; beat++) {
    lease.hear(String(beat), false)
    pass(1249)
    t.equal(sent().beats, 4)
  }
  pass(1)
  t.equal(sent().beats, 5)
  t.strictSame(reasons, [])
})

t.test('of two that beat at once, the one that is heard last beats on, unless its transaction began before the other', async t => {
  const { lease, pass, sent, beaten } = createScripted(t)
  lease.start()
  pass(250)
  lease.hear('10', false)
  lease.hear('11', true)
  await beaten()
  pass(450)
  t.equal(sent().beats, 2)
  lease.hear('13', false)
  lease.hear('12', true)
  await beaten()
  pass(1249)
  t.equal(sent().beats, 2)
})

t.test('its own beat that is not heard a second after its answer says that the connection is dead; that of another is as good', async t => {
  for (const other of [undefined, '7']) {
    await t.test(other ?? 'none', async t => {
      const { lease, pass, beaten, reasons } = createScripted(t)
      lease.start()
      pass(250)
      await beaten()
      pass(999)
      t.strictSame(reasons, [])
      if (other !== undefined) lease.hear(other, false)
      pass(1)
      t.strictSame(reasons, other === undefined ? ['this node does not receive its own notification'] : [])
    })
  }
})

t.test('a question or a beat that fails says that the connection is dead', async t => {
  for (const what of ['questions', 'beats'] as const) {
    await t.test(what, async t => {
      const { lease, pass, fail, reasons } = createScripted(t)
      lease.start()
      pass(250)
      await fail(what)
      t.strictSame(reasons, [`no ${what}`])
    })
  }
})

t.test('a machine that slept ends the lease, and so does a clock that is set forward; one that is set back does not prolong it', async t => {
  const { lease, clock, pass, answer, isHeld, held } = createScripted(t)
  lease.start()
  await answer(1n)
  lease.hear('1', false)
  t.equal(isHeld(), true)
  clock.date += 2000
  t.equal(isHeld(), false)
  clock.date -= 3_600_000
  t.equal(isHeld(), true)
  clock.now += 2000
  t.equal(isHeld(), false)
  pass(500)
  await answer(2n)
  lease.hear('2', false)
  t.strictSame([isHeld(), held()], [true, 2])
})

t.test('once ended it holds nothing, sends nothing and hears nothing, whatever was under way', async t => {
  const { lease, pass, answer, beaten, sent, isHeld, reasons } = createScripted(t)
  lease.start()
  await answer(1n)
  lease.hear('1', false)
  pass(1250)
  t.strictSame([isHeld(), sent()], [true, { questions: 2, beats: 1 }])
  lease.end()
  t.equal(isHeld(), false)
  await answer(2n)
  await beaten()
  lease.hear('3', true)
  pass(5000)
  t.strictSame([isHeld(), sent(), reasons], [false, { questions: 2, beats: 1 }, []])
})

t.test('of any number of nodes that step in, few go first', t => {
  let seed = 1
  // Not by `t.intercept`, which notes the stack of each of 100,000 calls.
  const { random } = Math
  t.teardown(() => { Math.random = random })
  Math.random = () => (seed = seed * 48_271 % 0x7fffffff) / 0x7fffffff
  for (const nodes of [1, 10, 100, 1000]) {
    let [total, longest] = [0, 0]
    for (let run = 0; run < 100; run++) {
      const waits = Array.from({ length: nodes }, () => randomFraction() * 500).sort((a, b) => a - b)
      // Within the time that a beat takes to be heard.
      total += waits.filter(wait => wait < (waits[0] ?? 0) + 10).length
      longest = Math.max(longest, ...waits)
    }
    t.ok(total / 100 < 2, `${total / 100} of ${nodes}`)
    t.ok(longest <= 500)
  }
  Math.random = () => 0
  t.equal(randomFraction(), 0)
  t.end()
})
