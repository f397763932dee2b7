import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import type { Cache, Known } from '../../lib/tokens/cache.js'
import { createCache } from '../../lib/tokens/cache.js'
import { createNaiveCache } from '../support/naive-cache.js'

const known = (name: string): Known => ({ token: { name, hash: name, validUntil: '', role: 'viewer', requestedBy: '', issueDate: '', lastUsed: '' }, endsAt: Infinity, expires: '', lastUsed: 0 })

t.test('a token that is known is there at once; what is not known, or while changes are not heard of, is undefined', async t => {
  let isTrusted = true
  const cache = createCache(() => isTrusted, () => 0)
  t.equal(cache.get('a'), undefined)
  const a = known('a')
  t.equal(await cache.load('a', async () => a), a)
  t.equal(cache.get('a'), a)
  isTrusted = false
  t.equal(cache.get('a'), undefined)
  isTrusted = true
  cache.forget('b')
  t.equal(cache.get('a'), a)
  cache.forget('a')
  t.equal(cache.get('a'), undefined)
  await cache.load('a', async () => a)
  cache.clear()
  t.equal(cache.get('a'), undefined)
})

t.test('a token that is known is believed until a change is heard of, however long that takes', async t => {
  let now = 0
  const cache = createCache(() => true, () => now)
  const a = known('a')
  await cache.load('a', async () => a)
  now = Number.MAX_SAFE_INTEGER
  t.equal(cache.get('a'), a)
})

t.test('that a token does not exist is believed for a second', async t => {
  let now = 0
  const cache = createCache(() => true, () => now)
  t.equal(await cache.load('a', async () => null), null)
  now = 999
  t.equal(cache.get('a'), null)
  now = 1000
  t.equal(cache.get('a'), undefined)
})

t.test('all who ask for one digest share a lookup, its failure too, which is not remembered', async t => {
  const cache = createCache(() => true, () => 0)
  let lookups = 0
  const find = async (): Promise<Known> => {
    lookups++
    await Promise.resolve()
    if (lookups === 1) throw new Error('out of reach')
    return known('a')
  }
  const first = await Promise.allSettled(Array.from({ length: 1000 }, () => cache.load('a', find)))
  t.ok(first.every(({ status }) => status === 'rejected'))
  t.equal(lookups, 1)
  await Promise.all(Array.from({ length: 1000 }, () => cache.load('a', find)))
  t.equal(lookups, 2)
})

t.test('ten thousand digests are kept, those used last, and ten thousand lookups at once are the most', async t => {
  const cache = createCache(() => true, () => 0)
  for (let n = 0; n < 10_000; n++) await cache.load(`${n}`, async () => known(`${n}`))
  cache.get('0')
  await cache.load('one more', async () => known('one more'))
  t.ok(cache.get('0'))
  t.equal(cache.get('1'), undefined)
  const never = new Promise<null>(() => {})
  for (let n = 0; n < 10_000; n++) cache.load(`load ${n}`, async () => await never)
  await t.rejects(cache.load('too much', async () => null), { code: 'MMC_TOKENS_OVERLOAD' })
})

t.test('a lookup that lost the race against a change asks once more, unless the row is gone anyway', async t => {
  for (const change of ['forget', 'clear'] as const) {
    const cache = createCache(() => true, () => 0)
    const answers = [known('before'), known('after')]
    const loading = cache.load('a', async () => {
      const answer = answers.shift() ?? null
      if (answer?.token.name === 'before') cache[change]('a')
      return answer
    })
    t.equal((await loading)?.token.name, 'after')
    t.equal(cache.get('a'), undefined, 'and is not believed')
    let lookups = 0
    t.equal(await cache.load('b', async () => { lookups++; cache[change]('b'); return null }), null)
    t.equal(lookups, 1)
  }
})

t.test('a lookup that a change overtook leaves the next one alone: that is shared, and hears of the next change', async t => {
  for (const change of ['forget', 'clear'] as const) {
    const cache = createCache(() => true, () => 0)
    const answers: Array<(known: Known | null) => void> = []
    const find = (): Promise<Known | null> => new Promise(resolve => { answers.push(resolve) })
    const overtaken = cache.load('a', find)
    cache[change]('a')
    const next = cache.load('a', find)
    answers[0]?.(null)
    await overtaken
    const shared = cache.load('a', find)
    t.equal(answers.length, 2)
    cache[change]('a')
    answers[1]?.(known('a'))
    while (answers.length < 3) await turn()
    answers[2]?.(null)
    t.strictSame([await next, await shared, cache.get('a')], [null, null, undefined])
  }
})

/** A token is used while it is revoked, in every order that a scheduler finds; afterwards it must not be believed. */
async function raceOf (create: () => Cache): Promise<void> {
  await fc.assert(fc.asyncProperty(fc.scheduler(), fc.integer({ min: 1, max: 4 }), fc.boolean(), async (scheduler, uses, isTruncate) => {
    const cache = create()
    let row: Known | null = known('a')
    let isAnswered = false
    const find = async (): Promise<Known | null> => {
      await scheduler.schedule(Promise.resolve(), 'the query is sent')
      const read = row
      await scheduler.schedule(Promise.resolve(), 'the rows arrive')
      return read
    }
    const use = async (): Promise<void> => {
      await scheduler.schedule(Promise.resolve(), 'a request comes')
      const begunAfter = isAnswered
      const believed = cache.get('a')
      const token = believed === undefined ? await cache.load('a', find) : believed
      if (begunAfter && token !== null) throw new Error('accepted after the revocation was heard of')
    }
    const revoke = async (): Promise<void> => {
      await scheduler.schedule(Promise.resolve(), 'the row is deleted')
      row = null
      await scheduler.schedule(Promise.resolve(), 'the notification arrives')
      if (isTruncate) cache.clear()
      else cache.forget('a')
      isAnswered = true
    }
    await scheduler.waitFor(Promise.all([revoke(), ...Array.from({ length: uses }, use), ...Array.from({ length: uses }, use)]))
    if (cache.get('a')) throw new Error('believed after the revocation was heard of')
  }), { numRuns: 2000 })
}

t.test('no order of lookups and revocations fills the cache with a token that is gone', async t => {
  await raceOf(() => createCache(() => true, () => 0))
  await t.rejects(raceOf(createNaiveCache), 'a naive cache fails the same test')
})
