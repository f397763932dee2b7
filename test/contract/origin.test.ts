import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import { request } from 'node:http'
import Fastify from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'

t.test('a host may name its requests as it likes: events have the name as text', async t => {
  let id: unknown
  const { all, onEvent } = collectEvents()
  const { app, issue, login } = await buildHost(t, { fastify: { genReqId: () => id as string }, tokens: { onEvent } })
  for (id of [12345678901234567890n, 7, 'x', true]) {
    const headers = await login()
    const { token, hash } = await issue()
    await app.inject({ url: '/api/viewer', headers: bearer(`${token}x`) })
    const answer = await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    if (!t.equal(answer.statusCode, 200, typeof id)) return
    while (all.at(-1)?.type !== 'token.revoked') await new Promise(resolve => { setImmediate(resolve) })
    t.match(all.slice(-2), [{ type: 'authentication.rejected', requestId: String(id) }, { type: 'token.revoked', requestId: String(id) }])
  }
})

t.test('on a Unix socket nobody has an address: it is null in every event', async t => {
  const { url, schema } = await createDatabase(t)
  const { all, onEvent } = collectEvents()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: url, schema, secret: SECRET, onEvent })
  const { token } = await app.tokens.issue({ name: 'admin', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test' })
  await mkdir('.data', { recursive: true })
  const socketPath = `.data/origin-${process.pid}.sock`
  t.teardown(() => rm(socketPath, { force: true }))
  await app.listen({ path: socketPath })
  const ask = async (method: string, path: string, secret: string, body?: object): Promise<void> => {
    const sent = request({ socketPath, method, path, agent: false, headers: { ...bearer(secret), ...body && { 'content-type': 'application/json' } } })
    sent.end(body && JSON.stringify(body))
    const [answer] = await once(sent, 'response') as [NodeJS.ReadableStream]
    await once(answer.resume(), 'end')
  }
  await ask('POST', '/api/tokens', token, { name: 'new', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
  await ask('GET', '/api/tokens', `${token}x`)
  await ask('DELETE', `/api/tokens/${(await app.tokens.list())[1]?.hash}`, token)
  while (all.length < 4) await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(all.slice(1).map(({ type, address }) => [type, address]), [['token.issued', null], ['authentication.rejected', null], ['token.revoked', null]])
})

t.test('a node whose clock is ahead does not leave lastUsed in the future', async t => {
  const { app, database, issue } = await buildHost(t)
  const { token, hash, validUntil, issueDate } = await issue()
  await database.query("UPDATE tokens SET last_used = '2020-01-01Z'")
  const { now } = Date
  const ahead = t.intercept(Date, 'now', { value: () => now() + 3_600_000 })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  ahead.restore()
  // On close what waits is written.
  await app.close()
  t.match(await database.query("SELECT last_used <= clock_timestamp() AS is_past, last_used > now() - interval '1 minute' AS is_recent FROM tokens"), [{ is_past: true, is_recent: true }])

  const later = await buildHost(t, { database })
  t.equal((await later.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  const { lastUsed } = await later.app.tokens.get(hash) ?? {}
  t.ok(Date.parse(lastUsed ?? '') <= now(), 'and it moves on at once')
  t.match(await later.app.tokens.get(hash), { validUntil, issueDate })
})
