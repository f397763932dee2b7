import t from 'tap'
import { OptionError, UnauthorizedError } from '../../lib/errors.js'
import { bearer, buildHost } from '../support/build-host.js'

const GOOD = { name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }

t.test('every error is the MMC body as application/json: code and message, with 401 also data.session, and nothing internal', async t => {
  const lines: string[] = []
  const { app, database, issue, login } = await buildHost(t, { fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } } })
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
    if (status === 401) t.strictSame(body.data, { session: 'headers' in request && 'cookie' in (request.headers as object) })
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

t.test('an unexpected error of a hook of the host on our routes is a 500 with our body, its cause in the log alone', async t => {
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

t.test('errors of the hot path carry no stack, those for the operator do', t => {
  t.equal(new UnauthorizedError().stack, undefined)
  t.type(new OptionError('x').stack, 'string')
  t.end()
})
