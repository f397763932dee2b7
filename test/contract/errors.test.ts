import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import { request } from 'node:http'
import Fastify from 'fastify'
import pg from 'pg'
import t from 'tap'
import { OptionError, UnauthorizedError } from '../../lib/errors.js'
import tokensPlugin from '../../lib/index.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { until } from '../support/until.js'

const GOOD = { name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }

t.test('every error is the MMC body as application/json: code and message, data.session for a 401, and nothing internal', async t => {
  const lines: string[] = []
  const { app, database, issue, login } = await buildHost(t, {
    fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } }
  })
  const admin = await login()
  const viewer = await issue()
  await issue({ name: 'a' })
  const unknown = await issue()
  const twice = { ...bearer(viewer.token) }
  const forged = bearer(`${viewer.token.slice(0, -4)}AAAA`)
  const cases: Array<[status: number, code: string, request: object, challenge?: string]> = [
    [400, 'INVALID', { method: 'POST', headers: admin, payload: {} }],
    [400, 'INVALID', { headers: twice, query: { token: viewer.token } }],
    [401, 'UNAUTHORIZED', {}, 'Bearer realm="cedalo"'],
    [401, 'UNAUTHORIZED', { headers: forged }, 'Bearer realm="cedalo", error="invalid_token"'],
    [401, 'UNAUTHORIZED', { headers: { ...admin, ...forged } }, 'Bearer realm="cedalo", error="invalid_token"'],
    [403, 'NOT_ALLOWED', { headers: await login('viewer') }],
    [403, 'NOT_ALLOWED', { headers: bearer(viewer.token) }, 'Bearer realm="cedalo", error="insufficient_scope"'],
    [403, 'NOT_ALLOWED', { method: 'POST', headers: { ...admin, 'sec-fetch-site': 'cross-site' }, payload: GOOD }],
    [404, 'NOT_FOUND', { url: '/api/tokens/none', headers: admin }],
    [406, 'NOT_ACCEPTABLE', { headers: { ...admin, accept: 'application/json;version=7' } }],
    [409, 'CONFLICT', { method: 'POST', headers: admin, payload: GOOD }],
    [413, 'INVALID', { method: 'POST', headers: admin, payload: { ...GOOD, name: 'x'.repeat(1 << 20) } }],
    [415, 'INVALID', { method: 'POST', headers: { ...admin, 'content-type': 'text/plain' }, payload: 'x' }]
  ]
  const check = async ([status, code, request, challenge]: typeof cases[number]): Promise<void> => {
    const answer = await app.inject({ url: '/api/tokens', ...request })
    const body = answer.json<{ code: string, message: string, data?: unknown }>()
    t.equal(answer.statusCode, status, code)
    t.match(answer.headers['content-type'], /^application\/json(;|$)/)
    t.strictSame(Object.keys(body), status === 401 ? ['code', 'message', 'data'] : ['code', 'message'])
    t.equal(body.code, code)
    t.equal(answer.headers['www-authenticate'], challenge)
    if (status === 401) {
      t.strictSame(body.data, {
        session: 'headers' in request && 'cookie' in (request.headers as object)
      })
    }
    t.notMatch(body.message, /select|insert|postgres|error:|\bat \/|node_modules/i)
  }
  for (const row of cases) await check(row)
  await app.tokens.disable()
  await check([404, 'NOT_FOUND', { headers: admin }])
  await app.tokens.enable()
  t.strictSame(lines, [], 'what a client did wrong is no error of the host')
  await database.query('DROP TABLE tokens')
  await check([500, 'INTERNAL_ERROR', { headers: admin }])
  await check([500, 'INTERNAL_ERROR', { url: '/api/viewer', headers: bearer(unknown.token) }])
})

t.test('unknown, revoked, expired and forged tokens get the same response to the byte, and different reasons in events', async t => {
  const { all, onEvent } = collectEvents()
  const { app, database, issue } = await buildHost(t, { tokens: { onEvent } })
  const [revoked, expired, viewer] = [await issue(), await issue(), await issue()]
  await app.tokens.revoke(revoked.hash)
  await database.query("UPDATE tokens SET valid_until = now() - interval '1 day' WHERE hash = $1", [expired.hash])
  const { token: unknown } = app.tokens.mint(GOOD)
  const secrets = [unknown, revoked.token, expired.token, `${viewer.token.slice(0, -4)}AAAA`]
  for (const url of ['/api/viewer', '/api/tokens', '/nowhere']) {
    for (const where of ['header', 'query']) {
      const present = (token: string): object => where === 'header' ? { headers: bearer(token) } : { query: { token } }
      const responses = await Promise.all(secrets.map(async secret => {
        const { statusCode, headers, body } = await app.inject({ url, ...present(secret) })
        return JSON.stringify({ statusCode, headers: { ...headers, date: '' }, body })
      }))
      t.match(responses[0], '"statusCode":401')
      t.equal(new Set(responses).size, 1, `${url}, ${where}`)
    }
  }
  const rejected = all.filter(({ type }) => type === 'authentication.rejected')
  t.equal(new Set(rejected.map(({ reason }) => reason)).size, 3, 'unknown and revoked are one')
})

t.test("an unexpected error of a host's hook on the four routes is a 500 with the MMC body, and only the log has its cause", async t => {
  const lines: string[] = []
  const { app } = await buildHost(t, {
    tokens: { session: () => { throw Object.assign(new Error('internal detail'), { sql: 'SELECT secret' }) } },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  const answer = await app.inject({ url: '/api/tokens' })
  t.strictSame([answer.statusCode, answer.json()], [500, { code: 'INTERNAL_ERROR', message: 'Internal error' }])
  const told = lines.filter(line => line.includes('internal detail')).map(line => JSON.parse(line) as { msg: string })
  t.strictSame(told.map(({ msg }) => msg), ['application tokens: unexpected error'])
})

t.test("an error of the host's pool with a status of its own is a 500 with the MMC body, and only the log has its cause", async t => {
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url })
  t.teardown(() => pool.end())
  const lines: string[] = []
  const { app, login } = await buildHost(t, {
    database,
    tokens: { postgres: pool },
    fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } }
  })
  const headers = await login()
  // Such as a client of a cloud that a pool asks for its password.
  t.intercept(pool, 'connect', {
    value: (done: (error: Error) => void) => {
      done(Object.assign(new Error('internal detail'), { statusCode: 403, code: 'AccessDenied' }))
    }
  })
  const hash = 'a'.repeat(64)
  for (const request of [
    { url: '/api/tokens' }, { url: '/api/tokens?limit=1' }, { method: 'POST', url: '/api/tokens', payload: GOOD },
    { url: `/api/tokens/${hash}` }, { method: 'DELETE', url: `/api/tokens/${hash}` }
  ] as const) {
    lines.length = 0
    const answer = await app.inject({ ...request, headers })
    t.strictSame([answer.statusCode, answer.json()], [500, { code: 'INTERNAL_ERROR', message: 'Internal error' }])
    t.match(lines, [/internal detail.*application tokens: unexpected error/])
  }
})

t.test('errors of the hot path have no stack, those for the operator have one', t => {
  t.equal(new UnauthorizedError().stack, undefined)
  t.type(new OptionError('x').stack, 'string')
  t.end()
})

t.test('request ids of any type are strings in events', async t => {
  let id: unknown
  const { all, onEvent } = collectEvents()
  const { app, issue, login } = await buildHost(t, { fastify: { genReqId: () => id as string }, tokens: { onEvent } })
  for (id of [12345678901234567890n, 7, 'x', true]) {
    const headers = await login()
    const { token, hash } = await issue()
    await until(() => all.at(-1)?.type === 'token.issued')
    await app.inject({ url: '/api/viewer', headers: bearer(`${token}x`) })
    const answer = await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    if (!t.equal(answer.statusCode, 200, typeof id)) return
    await until(() => all.at(-1)?.type === 'token.revoked')
    t.match(all.slice(-2), [
      { type: 'authentication.rejected', requestId: String(id) }, { type: 'token.revoked', requestId: String(id) }
    ])
  }
})

t.test('on a Unix socket, the address is null in every event', async t => {
  const { url, schema } = await createDatabase(t)
  const { all, onEvent } = collectEvents()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: url, schema, secret: SECRET, onEvent })
  const { token } = await app.tokens.issue({
    name: 'admin', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  await mkdir('.data', { recursive: true })
  const socketPath = `.data/origin-${process.pid}.sock`
  t.teardown(() => rm(socketPath, { force: true }))
  await app.listen({ path: socketPath })
  const ask = async (method: string, path: string, secret: string, body?: object): Promise<void> => {
    const sent = request({
      socketPath,
      method,
      path,
      agent: false,
      headers: {
        ...bearer(secret),
        ...body &&
      { 'content-type': 'application/json' }
      }
    })
    sent.end(body && JSON.stringify(body))
    const [answer] = await once(sent, 'response') as [NodeJS.ReadableStream]
    await once(answer.resume(), 'end')
  }
  await ask('POST', '/api/tokens', token, { name: 'new', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
  await ask('GET', '/api/tokens', `${token}x`)
  await ask('DELETE', `/api/tokens/${(await app.tokens.list())[1]?.hash}`, token)
  await until(() => all.length >= 4)
  t.strictSame(all.map(({ type, address }) => [type, address]).sort(), [
    ['authentication.rejected', null], ['token.issued', null], ['token.issued', null], ['token.revoked', null]
  ])
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
  t.match(await database.query(
    "SELECT last_used <= clock_timestamp() AS is_past, last_used > now() - interval '1 minute' AS is_recent FROM tokens"
  ), [{ is_past: true, is_recent: true }])

  const later = await buildHost(t, { database })
  t.equal((await later.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  const { lastUsed } = await later.app.tokens.get(hash) ?? {}
  t.ok(Date.parse(lastUsed ?? '') <= now(), 'and it moves on at once')
  t.match(await later.app.tokens.get(hash), { validUntil, issueDate })
})
