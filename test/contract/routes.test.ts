import { request } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'

const KEYS = ['name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed']
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/

t.test('the MMC frontend: its exact requests, and the answers that it builds on', async t => {
  const { app, login } = await buildHost(t, { basePath: '/mmc' })
  const headers = { ...await login(), accept: 'application/json;version=1' }
  const url = '/mmc/api/tokens'

  t.same((await app.inject({ url, headers })).json(), [], 'a list is an array')
  const payload = { name: 'a name of thirty characters 30', role: 'monitoringViewer', validUntil: '2999-11-25 10:05:00000Z' }
  const created = await app.inject({ method: 'POST', url, headers: { ...headers, 'content-type': 'application/json' }, payload: JSON.stringify(payload) })
  t.equal(created.statusCode, 200)
  const { token, ...record } = created.json<Record<string, string>>()
  t.match(record, { name: payload.name, role: payload.role, validUntil: '2999-11-25T10:05:00.000Z', issueDate: TIME, requestedBy: 'cedalo' })
  t.same((await app.inject({ url, headers })).json(), [record], 'what it appends is what the list has')
  t.same((await app.inject({ url: `${url}/${record.hash}`, headers })).json(), record)

  for (const click of ['the first', 'the second']) {
    const deleted = await app.inject({ method: 'DELETE', url: `${url}/${record.hash}`, headers: { ...headers, 'content-type': 'application/json' } })
    t.equal(deleted.statusCode, 200, `${click} of a double click`)
    t.same(deleted.json(), [])
  }
  const expired = await app.inject({ url, headers: { accept: headers.accept } })
  t.equal(expired.statusCode, 401)
  t.match(expired.json(), { code: 'UNAUTHORIZED', data: { session: false } }, 'sends the browser to the login page')
})

t.test('a record has seven properties in this order; only the answer to the creating POST has the token before them', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z' } })
  t.same(Object.keys(created.json()), ['token', ...KEYS])
  const { hash, lastUsed, issueDate } = created.json<Record<string, string>>()
  t.equal(lastUsed, issueDate, 'never used')
  for (const url of ['/api/tokens', `/api/tokens/${hash}`]) {
    t.same([(await app.inject({ url, headers })).json()].flat().map(record => Object.keys(record as object)), [KEYS])
  }
})

t.test('a list is sorted by issue date, then by hash, over page after page', async t => {
  const { app, database, issue, login } = await buildHost(t)
  await issue()
  await database.query(`INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), 'n' || n, 'viewer', 'sql', '2026-01-01Z'::timestamptz + (n / 7) * interval '1 ms',
    '2999-01-01Z', '2026-01-01Z' FROM generate_series(1, 1499) AS n`)
  const list = (await app.inject({ url: '/api/tokens', headers: await login() })).json<Array<{ issueDate: string, hash: string }>>()
  t.equal(list.length, 1500)
  const keys = list.map(({ issueDate, hash }) => issueDate + hash)
  t.strictSame(keys, keys.toSorted())
  t.strictSame(list, await app.tokens.list())
})

t.test('an unknown or malformed hash: GET says 404, DELETE changes nothing and answers 200', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const { token, ...record } = await issue()
  for (const hash of ['0'.repeat(64), record.hash.slice(1), `${record.hash}0`, '%00', '%27', '😀', '*', '__proto__', `${record.hash}%0a`]) {
    const url = `/api/tokens/${encodeURI(decodeURI(hash))}`
    const got = await app.inject({ url, headers })
    t.equal(got.statusCode, 404, hash)
    t.same(got.json(), { code: 'NOT_FOUND', message: 'No token has this hash' }, hash)
    const deleted = await app.inject({ method: 'DELETE', url, headers })
    t.equal(deleted.statusCode, 200, hash)
    t.same(deleted.json(), [record], hash)
  }
})

t.test('a DELETE with a JSON content type and no body, or with any body, is as good as without', async t => {
  const { app, login, issue } = await buildHost(t)
  const session = await login()
  for (const [type, payload] of [['application/json', undefined], ['application/json', ''], ['application/json', '{'], ['text/plain', 'x'], ['garbage', 'x']]) {
    const { hash } = await issue()
    const deleted = await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...session, 'content-type': type }, ...payload !== undefined && { payload } })
    t.equal(deleted.statusCode, 200, `${type}: ${payload}`)
    t.equal(await app.tokens.get(hash), null)
  }
})

t.test('an admin token may manage tokens, in the name token:<name>; a token of another role may not', async t => {
  const { app, issue } = await buildHost(t)
  const admin = await issue({ name: 'root', role: 'admin' })
  const payload = { name: 'child', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  const created = await app.inject({ method: 'POST', url: '/api/tokens', headers: bearer(admin.token), payload })
  t.equal(created.json<{ requestedBy: string }>().requestedBy, 'token:root')
  for (const role of ['editor', 'viewer', 'connectionManager', 'monitoringViewer']) {
    const refused = await app.inject({ method: 'POST', url: '/api/tokens', headers: bearer((await issue({ role })).token), payload })
    t.equal(refused.statusCode, 403)
    t.same(refused.json(), { code: 'NOT_ALLOWED', message: 'Only an admin may manage tokens' })
    t.equal(refused.headers['www-authenticate'], 'Bearer realm="cedalo", error="insufficient_scope"')
  }
})

t.test('every answer of the four routes has Cache-Control: no-store', async t => {
  const { app, issue, login } = await buildHost(t)
  const headers = await login()
  const { hash } = await issue()
  const url = `/api/tokens/${hash}`
  const answers = [
    await app.inject({ url: '/api/tokens', headers }),
    await app.inject({ url: '/api/tokens' }),
    await app.inject({ url, headers: { ...headers, accept: 'text/html' } }),
    await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name: 'b', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } }),
    await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: {} }),
    await app.inject({ url, headers: bearer((await issue()).token) }),
    await app.inject({ method: 'DELETE', url, headers }),
    await app.inject({ url, headers })
  ]
  t.same(answers.map(answer => answer.statusCode), [200, 401, 406, 200, 400, 403, 200, 404])
  for (const answer of answers) t.equal(answer.headers['cache-control'], 'no-store')
})

t.test('over a real socket: the life of a token, and the second Authorization header that Node hides', async t => {
  const { app, login, issue } = await buildHost(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const base = `http://127.0.0.1:${port}`
  const headers = { ...await login(), 'content-type': 'application/json' }

  const created = await fetch(`${base}/api/tokens`, { method: 'POST', headers, body: JSON.stringify({ name: 'wire', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }) })
  const { token, hash } = await created.json() as { token: string, hash: string }
  t.equal((await fetch(`${base}/api/viewer`, { headers: bearer(token) })).status, 200)
  t.equal((await fetch(`${base}/api/viewer?token=${token}`)).status, 200)
  await fetch(`${base}/api/tokens/${hash}`, { method: 'DELETE', headers })
  t.equal((await fetch(`${base}/api/viewer`, { headers: bearer(token) })).status, 401)

  const status = async (authorization: string[]): Promise<number | undefined> => {
    const outgoing = request({ port, path: '/api/viewer', agent: false })
    outgoing.setHeader('authorization', authorization)
    outgoing.end()
    const [response] = await once(outgoing, 'response')
    response.resume()
    return response.statusCode
  }
  const [one, two] = [await issue(), await issue()]
  t.equal(await status([`Bearer ${one.token}`, `Bearer ${two.token}`]), 400)
  t.equal(await status(['Basic eDp5', `Bearer ${two.token}`]), 200, 'one of ours, wherever it stands')
})
