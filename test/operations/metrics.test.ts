import t from 'tap'
import { FORGED } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { createProxy } from '../support/proxy.js'
import { until } from '../support/until.js'

const ZERO = { accepted: 0, unknown: 0, expired: 0, invalid: 0, several: 0, failed: 0 }

t.test('requests with a token are counted by outcome, and so are hits and lookups; other requests are not', async t => {
  const { app, database, issue, login } = await buildHost(t)
  const { token } = await issue()
  const [revoked, expired] = [await issue(), await issue({ name: 'expired', role: 'admin' })]
  await app.tokens.revoke(revoked.hash)
  await database.query("UPDATE tokens SET valid_until = now() - interval '1 hour' WHERE name = 'expired'")
  t.strictSame((await app.tokens.metrics()).authentications, ZERO)
  await until(async () => (await app.tokens.metrics()).lease.held === 1)

  const begun = performance.now()
  const get = async (url: string, headers = {}): Promise<unknown> => await app.inject({ url, headers })
  for (let n = 0; n < 5; n++) await get('/api/viewer', bearer(token))
  await get('/api/editor', bearer(token))
  for (let n = 0; n < 2; n++) await get('/api/viewer', bearer(revoked.token))
  await get('/api/viewer', bearer(expired.token))
  await get('/api/viewer', bearer(FORGED))
  await get(`/api/viewer?token=${token}`, bearer(token))
  await get('/api/viewer')
  await get('/api/viewer', await login())
  await get('/api/viewer', bearer('of another'))
  const { authentications, cacheHits, lookups, tokens, usage } = await app.tokens.metrics()
  t.strictSame(authentications, { ...ZERO, accepted: 6, unknown: 2, expired: 1, invalid: 1, several: 1 })
  t.strictSame([cacheHits, lookups], [6, 3])
  t.strictSame(tokens, [{ role: 'admin', state: 'expired', count: 1 }, { role: 'viewer', state: 'active', count: 1 }])
  t.equal(usage.waiting, 1)
  t.ok(usage.lagSeconds > 0 && usage.lagSeconds <= (performance.now() - begun) / 1000)
})

t.test('the loss of the lease is counted, and a database out of reach leaves the numbers of this process', async t => {
  const database = await createSeparateDatabase(t)
  const proxy = await createProxy(t, database.url)
  const { app, issue } = await buildHost(t, { database: { ...database, url: proxy.url } })
  const { token } = await issue()
  await until(async () => (await app.tokens.metrics()).lease.held === 1)
  t.equal((await app.tokens.metrics()).lease.losses, 0)
  proxy.set('refuse')
  proxy.cut()
  await until(async () => (await app.tokens.metrics()).lease.held === 0)
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 500)
  const metrics = await app.tokens.metrics()
  t.match(metrics, { authentications: { ...ZERO, failed: 1 }, lease: { held: 0, losses: 1 } })
  t.equal(metrics.tokens, null)
  proxy.set('none')
  await until(async () => (await app.tokens.metrics()).lease.held === 1)
  t.strictSame((await app.tokens.metrics()).lease, { held: 1, losses: 1 })
})

t.test('an unknown token is looked up once a second, however often it is presented', async t => {
  const { app, issue } = await buildHost(t)
  const { token, hash } = await issue()
  await app.tokens.revoke(hash)
  await until(async () => (await app.tokens.metrics()).lease.held === 1)
  const { now } = performance
  const begun = now.call(performance)
  t.intercept(performance, 'now', { value: () => begun })
  for (let n = 0; n < 20; n++) {
    t.equal(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401
    )
  }
  t.match(await app.tokens.metrics(), { lookups: 1, cacheHits: 19 })
})

t.test('a token whose claim has expired is counted as expired, without a lookup', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue({ validUntil: new Date(Date.now() + 60_000).toISOString() })
  const later = Date.now() + 61_000
  t.intercept(Date, 'now', { value: () => later })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
  t.match(await app.tokens.metrics(), { authentications: { ...ZERO, expired: 1 }, lookups: 0 })
})

t.test('health has whether tokens are enabled, and whether the lease is held', async t => {
  const { app } = await buildHost(t, { tokens: { enabled: false } })
  t.strictSame([app.tokens.health(), (await app.tokens.metrics()).lease], [
    { enabled: false, lease: 'lost' }, { held: 0, losses: 0 }
  ])
  await app.tokens.enable()
  await until(() => app.tokens.health().lease === 'held')
  t.strictSame(app.tokens.health(), { enabled: true, lease: 'held' })
  await app.tokens.disable()
  t.strictSame(app.tokens.health(), { enabled: false, lease: 'held' })
})

t.test('uses that were written are no longer counted as waiting', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue()
  t.strictSame((await app.tokens.metrics()).usage, { waiting: 0, lagSeconds: 0 })
  await app.inject({ url: '/api/viewer', headers: bearer(token) })
  await until(async () => (await app.tokens.metrics()).usage.waiting === 0)
  t.strictSame((await app.tokens.metrics()).usage, { waiting: 0, lagSeconds: 0 })
})

t.test('metrics work while tokens are disabled, without a query', async t => {
  const { app } = await buildHost(t, { tokens: { enabled: false } })
  t.match(await app.tokens.metrics(), { authentications: ZERO, lease: { held: 0, losses: 0 }, tokens: null })
})

t.test('the demo host serves them in the Prometheus format, without counting twice', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue()
  for (let n = 0; n < 3; n++) await app.inject({ url: '/api/viewer', headers: bearer(token) })
  const asPrometheus = { url: '/metrics', headers: bearer((await issue({ role: 'monitoringViewer' })).token) }
  await app.inject(asPrometheus)
  const { body, headers } = await app.inject(asPrometheus)
  t.match(headers['content-type'], /^text\/plain; version=0\.0\.4/)
  for (const line of [
    'mmc_tokens_authentications_total{outcome="accepted"} 5', 'mmc_tokens_tokens{role="viewer",state="active"} 1',
    'mmc_tokens_usage_waiting 2'
  ]) {
    t.ok(body.split('\n').includes(line), line)
  }
})
