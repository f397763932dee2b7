import { rm, writeFile } from 'node:fs/promises'
import t from 'tap'
import type { IssuedToken } from '../../lib/index.js'
import { bearer, buildHost } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { until } from '../support/until.js'

t.test('in a day of ten nodes, audit and metrics report tokens that are bootstrapped, replaced, expired, purged and leaked', async t => {
  const mint = await buildHost(t, { tokens: { enabled: false } })
  const { token: first, entry } = mint.app.tokens.mint({
    name: 'ci', role: 'viewer', validUntil: new Date(Date.now() + 60 * 60 * 1000).toISOString()
  })
  const bootstrap = `.data/day-${process.pid}.json`
  await writeFile(bootstrap, JSON.stringify([entry]))
  t.teardown(() => rm(bootstrap))

  // Ten nodes boot at once on an empty database.
  const events = collectEvents()
  const database = await createSeparateDatabase(t)
  const tokens = { bootstrap, bootstrapStrict: true, purgeExpiredAfter: 0, expiryHeader: true, onEvent: events.onEvent }
  const nodes = await Promise.all(Array.from({ length: 10 }, async () => await buildHost(t, { database, tokens })))
  const counts: Record<number, number> = {}
  let turn = 0
  /** The job's request, to the next node, counted by the job itself. */
  async function work (token: string): Promise<{ status: number, expires: number }> {
    const { statusCode, headers } = await node().app.inject({ url: '/api/viewer', headers: bearer(token) })
    counts[statusCode] = (counts[statusCode] ?? 0) + 1
    return { status: statusCode, expires: Date.parse(String(headers['application-token-expires'])) }
  }
  const node = () => nodes[turn++ % 10] as typeof nodes[number]
  const lastUsed = async (hash: string): Promise<string | undefined> => (await node().app.tokens.get(hash))?.lastUsed

  // A job works, and is warned.
  let warned = 0
  for (let n = 0; n < 30; n++) {
    const { status, expires } = await work(first)
    t.equal(status, 200)
    t.equal(expires, Date.parse(entry.validUntil))
    if (expires - Date.now() < 7 * 24 * 60 * 60 * 1000) warned++
  }
  t.equal(warned, 30)

  // An admin makes its successor, and the job takes it: the use of the old one stops, that of the new one goes on.
  const headers = await nodes[3]?.login() ?? {}
  const payload = { name: 'ci 2', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  const successor = (await node().app.inject(
    { method: 'POST', url: '/api/tokens', headers, payload }
  )).json<IssuedToken>()
  for (let n = 0; n < 20; n++) t.equal((await work(successor.token)).status, 200)
  // Every node has written what it knew of.
  for (const { app } of nodes) await until(async () => (await app.tokens.metrics()).usage.waiting === 0)
  const stopped = await lastUsed(entry.hash)
  const before = await lastUsed(successor.hash) ?? ''
  for (let n = 0; n < 20; n++) t.equal((await work(successor.token)).status, 200)
  for (const { app } of nodes) await until(async () => (await app.tokens.metrics()).usage.waiting === 0)
  t.equal(await lastUsed(entry.hash), stopped)
  t.ok((await lastUsed(successor.hash) ?? '') > before)

  // The old one expires, sooner than was meant, and is purged; who still comes with it is refused.
  await database.query(
    "UPDATE mmc_tokens.tokens SET valid_until = date_trunc('second', now() + interval '2 s') WHERE hash = $1",
    [entry.hash]
  )
  await events.until(1, 'token.expired-purged')
  t.equal((await work(first)).status, 401)
  // The new one leaks, and ends by SQL.
  await database.query('DELETE FROM mmc_tokens.tokens WHERE hash = $1', [successor.hash])
  await events.until(1, 'token.revoked')
  await until(async () => (await work(successor.token)).status === 401)
  // A node boots once more: nothing comes back.
  const late = await buildHost(t, { database, tokens })
  t.strictSame(await late.app.tokens.list(), [])

  // The audit log tells it in order, each act once.
  const told = events.all.toSorted((a, b) => a.at.localeCompare(b.at))
  const acts = told.filter(({ type }) => type !== 'authentication.rejected')
  t.match(acts, [
    { type: 'token.issued', name: 'ci', hash: entry.hash, actor: 'bootstrap' },
    { type: 'token.issued', name: 'ci 2', hash: successor.hash, actor: 'cedalo', address: '127.0.0.1' },
    { type: 'token.expired-purged', name: 'ci', hash: entry.hash },
    { type: 'token.revoked', name: 'ci 2', hash: successor.hash, actor: null }
  ])
  t.equal(acts.length, 4)
  const refusals = told.filter(({ type }) => type === 'authentication.rejected')
  t.strictSame(refusals.map(({ hash }) => hash), [entry.hash, successor.hash])
  t.ok(told.indexOf(refusals[0] as typeof told[number]) > told.findIndex(({ type }) => type === 'token.expired-purged'))

  // The metrics of all nodes agree with what the job counted.
  const sums = { accepted: 0, refused: 0, failed: 0 }
  for (const { app } of nodes) {
    const {
      authentications: { accepted, unknown, expired, invalid, several, failed }, cacheHits, lookups, tokens
    } = await app.tokens.metrics()
    sums.accepted += accepted
    sums.refused += unknown + expired + invalid + several
    sums.failed += failed
    t.ok(cacheHits + lookups >= accepted)
    t.strictSame(tokens, [])
  }
  t.strictSame(sums, { accepted: counts[200], refused: counts[401], failed: 0 })
})
