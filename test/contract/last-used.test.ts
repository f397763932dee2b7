import t from 'tap'
import { createBareHost } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

t.test('a use moves lastUsed at once as this node tells it, also when the answer is 403, and never backwards', async t => {
  let now = Date.parse('2026-11-24T12:00:00.500Z')
  t.intercept(Date, 'now', { value: () => now })
  const { app, login, issue } = await buildHost(t)
  const { token, hash, issueDate } = await issue()
  const headers = await login()
  const lastUsed = async (): Promise<string[]> => {
    const [record] = (await app.inject({ url: '/api/tokens', headers })).json<Array<{ lastUsed: string }>>()
    return [record?.lastUsed ?? '', (await app.inject({ url: `/api/tokens/${hash}`, headers })).json<{ lastUsed: string }>().lastUsed, (await app.tokens.get(hash))?.lastUsed ?? '']
  }
  const use = async (url: string): Promise<number> => (await app.inject({ url, headers: bearer(token) })).statusCode

  t.strictSame(await lastUsed(), Array(3).fill(issueDate), 'never used')
  now += 1000
  t.equal(await use('/api/viewer'), 200)
  t.strictSame(await lastUsed(), Array(3).fill('2026-11-24T12:00:01.500Z'))
  now += 1000
  t.equal(await use('/api/editor'), 403)
  t.strictSame(await lastUsed(), Array(3).fill('2026-11-24T12:00:02.500Z'))
  now -= 60_000
  t.equal(await use('/api/viewer'), 200)
  t.strictSame(await lastUsed(), Array(3).fill('2026-11-24T12:00:02.500Z'))
})

t.test('the record on the request tells the use that it is, the next time, too, and can not be changed', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/', async request => ({ ...request.applicationToken, isFrozen: Object.isFrozen(request.applicationToken) }))
  const { token, ...record } = await issue()
  for (const seconds of [1, 2]) {
    const now = Date.parse(record.issueDate) + seconds * 1000
    t.intercept(Date, 'now', { value: () => now })
    t.strictSame((await app.inject({ url: '/', headers: bearer(token) })).json(), { ...record, lastUsed: new Date(now).toISOString(), isFrozen: true })
  }
})

t.test('other nodes tell it within 5 s; it is written on close, too, and never revives a revoked token', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { database: one.database })
  const { token, hash, issueDate } = await one.issue({ name: 'used' })
  const other = await one.issue({ name: 'on close' })
  const gone = await one.issue({ name: 'gone' })
  // Its timer fires 4 s after a use, and writing takes a second at most. The test is that timer.
  let due = (): void => {}
  const { setTimeout: real } = globalThis
  t.intercept(globalThis, 'setTimeout', {
    value: ((callback: () => void, delay: number) => {
      const timer = real(callback, delay)
      if (delay === 4000) due = callback
      return timer
    }) as typeof setTimeout
  })
  await one.app.inject({ url: '/api/viewer', headers: bearer(token) })
  t.equal((await two.app.tokens.get(hash))?.lastUsed, issueDate, 'not yet')
  await (due as unknown as () => Promise<void>)()
  t.equal((await two.app.tokens.get(hash))?.lastUsed, (await one.app.tokens.get(hash))?.lastUsed)
  t.not((await two.app.tokens.get(hash))?.lastUsed, issueDate)

  await one.app.inject({ url: '/api/viewer', headers: bearer(other.token) })
  await one.app.inject({ url: '/api/viewer', headers: bearer(gone.token) })
  await two.app.tokens.revoke(gone.hash)
  await one.app.close()
  t.not((await two.app.tokens.get(other.hash))?.lastUsed, other.issueDate)
  t.equal(await two.app.tokens.get(gone.hash), null)
})
