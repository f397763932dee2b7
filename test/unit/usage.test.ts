import t, { type Test } from 'tap'
import type { Log, Store, Token } from '../../lib/types.js'
import { createUsage, type Usage } from '../../lib/tokens/usage.js'

const TOKEN: Token = { name: 'a', hash: 'h', validUntil: '', role: 'viewer', requestedBy: 'x', issueDate: '1970-01-01T00:00:00.000Z', lastUsed: '1970-01-01T00:00:00.000Z' }

/** What is noted, before a store that fails on demand; `tick` is the timer's turn. */
function build (t: Test): { usage: Usage, written: Array<Map<string, string>>, warnings: unknown[], tick: () => Promise<void>, fail: (yes: boolean) => void } {
  let due: (() => Promise<void>) | undefined
  t.intercept(globalThis, 'setTimeout', {
    value: ((callback: () => Promise<void>, delay: number) => {
      t.equal(delay, 4000)
      due = callback
      return { unref () { return this } }
    }) as unknown as typeof setTimeout
  })
  const written: Array<Map<string, string>> = []
  const warnings: unknown[] = []
  let isFailing = false
  const store = {
    async touch (uses: Map<string, string>) {
      if (isFailing) throw new Error('Postgres is out of reach')
      written.push(uses)
    }
  } as unknown as Store
  const log = { warn: (...words: unknown[]) => { warnings.push(words) } } as unknown as Log
  return { usage: createUsage(store, log), written, warnings, tick: async () => await due?.(), fail: yes => { isFailing = yes } }
}

t.test('a thousand uses are one statement', async t => {
  const { usage, written, tick } = build(t)
  for (let n = 0; n < 1000; n++) usage.note(`h${n % 10}`, n)
  await tick()
  t.equal(written.length, 1)
  t.strictSame(written[0]?.get('h9'), new Date(999).toISOString())
  await tick()
  t.equal(written.length, 1, 'and nothing is written twice')
})

t.test('what can not be written is kept, merged and written with the next', async t => {
  const { usage, written, warnings, tick, fail } = build(t)
  usage.note('h', 1000)
  fail(true)
  await tick()
  t.match(warnings, [[{ err: Error }, 'could not write when tokens were last used; it is kept for the next try']])
  t.equal(usage.apply(TOKEN).lastUsed, '1970-01-01T00:00:01.000Z', 'told meanwhile')
  usage.note('h', 2000)
  usage.note('i', 1000)
  fail(false)
  await tick()
  t.strictSame(written, [new Map([['h', '1970-01-01T00:00:02.000Z'], ['i', '1970-01-01T00:00:01.000Z']])])
  t.equal(usage.apply(TOKEN).lastUsed, TOKEN.lastUsed, 'then it is in the row')
})

t.test('a use while its token is being written is written again', async t => {
  const { usage, written, tick } = build(t)
  usage.note('h', 1000)
  const writing = tick()
  usage.note('h', 2000)
  await Promise.all([writing, tick()])
  await tick()
  t.strictSame(written.map(uses => uses.get('h')), ['1970-01-01T00:00:01.000Z', '1970-01-01T00:00:02.000Z'])
})

t.test('a token that is used all the while is written once a flush, and what came during the last flush on close', async t => {
  const { usage, written, tick } = build(t)
  let now = 1000
  written.push = (...uses) => {
    if (now < 50_000) usage.note('h', now += 1000)
    return Array.prototype.push.apply(written, uses)
  }
  usage.note('h', now)
  await tick()
  t.equal(written.length, 1)
  const writing = tick()
  usage.note('i', 1)
  await Promise.all([writing, usage.close()])
  t.strictSame(written.map(uses => uses.get('h')), [1000, 2000, 3000].map(at => new Date(at).toISOString()))
  t.ok(written.at(-1)?.has('i'))
})

t.test('what waits is bounded, and so is a statement', async t => {
  const { usage, written } = build(t)
  for (let n = 0; n < 100_010; n++) usage.note(`h${n}`, 1000)
  usage.note('h0', 2000)
  await usage.close()
  t.equal(written.length, 20)
  t.ok(written.every(uses => uses.size === 5000))
  t.equal(written[0]?.get('h0'), '1970-01-01T00:00:02.000Z')
})

t.test('a row that is newer than what is remembered here wins', t => {
  const { usage } = build(t)
  usage.note('h', 1000)
  const newer = { ...TOKEN, lastUsed: '1970-01-01T00:00:09.000Z' }
  t.equal(usage.apply(newer), newer)
  t.end()
})

t.test('the lag is how long the first use that is not written has waited, also of those that came while others were written', async t => {
  const { usage, tick, fail } = build(t)
  let now = 1000
  t.intercept(performance, 'now', { value: () => now })
  t.strictSame(usage.lag(), { waiting: 0, lagSeconds: 0 })
  usage.note('h', 1000)
  now = 3000
  usage.note('i', 1000)
  t.strictSame(usage.lag(), { waiting: 2, lagSeconds: 2 })
  now = 5000
  fail(true)
  await tick()
  t.strictSame(usage.lag(), { waiting: 2, lagSeconds: 4 }, 'what could not be written still waits')
  fail(false)
  const writing = tick()
  usage.note('h', 2000)
  await writing
  now = 6500
  t.strictSame(usage.lag(), { waiting: 1, lagSeconds: 1.5 })
  await tick()
  t.strictSame(usage.lag(), { waiting: 0, lagSeconds: 0 })
})

t.test('a use that is older than what is remembered, or as old as the row, changes nothing', t => {
  const { usage } = build(t)
  usage.note('h', 2000)
  usage.note('h', 1000)
  t.equal(usage.apply(TOKEN).lastUsed, '1970-01-01T00:00:02.000Z')
  const same = { ...TOKEN, lastUsed: '1970-01-01T00:00:02.000Z' }
  t.equal(usage.apply(same), same)
  t.end()
})

t.test('the timer runs while something waits and no longer: again after a failure, not after success, not once closed', async t => {
  const running = new Set<object>()
  let [run, isFailing] = [async (): Promise<void> => {}, false]
  t.intercept(globalThis, 'setTimeout', {
    value: ((callback: typeof run) => {
      const timer = { unref () { return this } }
      running.add(timer)
      run = async () => {
        running.delete(timer)
        await callback()
      }
      return timer
    }) as unknown as typeof setTimeout
  })
  t.intercept(globalThis, 'clearTimeout', { value: (timer: object) => { running.delete(timer) } })
  const store = { async touch () { if (isFailing) throw new Error('out of reach') } } as unknown as Store
  const usage = createUsage(store, { warn () {} } as unknown as Log)
  const isRunning = (): boolean => running.size === 1
  t.strictSame(running.size, 0)
  usage.note('h', 1000)
  usage.note('i', 1000)
  t.ok(isRunning(), 'one for all')
  isFailing = true
  await run()
  t.ok(isRunning(), 'for the next try')
  isFailing = false
  await run()
  t.equal(running.size, 0)
  usage.note('h', 2000)
  await usage.close()
  t.equal(running.size, 0, 'written on close, not once more')
  isFailing = true
  usage.note('h', 3000)
  await usage.close()
  t.equal(running.size, 0, 'nothing tries after the close')
})
