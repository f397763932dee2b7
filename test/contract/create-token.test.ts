import type { LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { buildHost } from '../support/build-host.js'

const FUTURE = '2999-01-01T00:00:00Z'
const sentence = {
  name: 'name must be a string of well-formed Unicode with 1 to 255 characters after trimming, at least one of them visible, without control characters, line separators and invisible characters that deceive',
  role: 'role must be one of admin, editor, viewer, connectionManager, monitoringViewer',
  validUntil: 'validUntil must be a time in the future, up to the year 9999, with a zone: an RFC 3339 date-time such as 2099-12-31T10:05:00Z',
  body: 'The body must be an object with name, role and validUntil',
  json: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype',
  type: 'The body must be JSON in UTF-8, with content-type application/json'
}

t.test('bad input is refused with a sentence that names the property and says what it must be, and nothing is stored', async t => {
  const { app, database, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json' }
  const good = { name: 'a', role: 'viewer', validUntil: FUTURE }
  const without = (key: keyof typeof good): object => Object.fromEntries(Object.entries(good).filter(([name]) => name !== key))

  const cases: Array<[what: string, payload: string, message: string]> = [
    ...[123, null, true, ['a'], {}, '', '   ', '\t\n', 'a\u0000b', 'a\u0007b', 'a\u0085b', 'x'.repeat(256), '😀'.repeat(256)].map(name =>
      [`name ${JSON.stringify(name)}`, JSON.stringify({ ...good, name }), sentence.name] as [string, string, string]),
    ['lone surrogate', '{"name":"a\\ud800","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}', sentence.name],
    ['no name', JSON.stringify(without('name')), sentence.name],
    ...['root', 'Admin', '', 'toString', ' admin'].map(role => [`role ${role}`, JSON.stringify({ ...good, role }), sentence.role] as [string, string, string]),
    ...[['admin'], 1, null].map(role => [`role ${JSON.stringify(role)}`, JSON.stringify({ ...good, role }), sentence.role] as [string, string, string]),
    ['no role', JSON.stringify(without('role')), sentence.role],
    ...[1893456000, null, 'tomorrow', '2999', '2999-01-01', '2999-01-01T00:00:00', '2999-01-01T00:00Z', '2999-02-30T00:00:00Z', '2999-02-29T00:00:00Z',
      '2999-01-01T24:00:00Z', '2999-01-01T23:60:00Z', '2999-01-01T23:59:60Z', '2999-01-01T00:00:00+99:00', '2999-01-01T00:00:00+24:00', '2999-01-01T00:00:00+01:60',
      '2999-01-01T00:00:00+0100', '2999-13-01T00:00:00Z', '2999-00-01T00:00:00Z', '2999-01-01T00:00:00.Z', '12999-01-01T00:00:00Z', '+02999-01-01T00:00:00Z',
      '9999-12-31T23:30:00-01:00', '2020-01-01T00:00:00Z', '0000-01-01T00:00:00Z', ' 2999-01-01T00:00:00Z', '2999-01-01T00:00:00Z ', '2999-01-01T00:00:00000Z',
      '2999-01-01 00:00:00001Z', '2999-01-01  00:00:00Z', '2999-01-01t00:00:00', '２９９９-01-01T00:00:00Z'].map(validUntil =>
      [`validUntil ${validUntil}`, JSON.stringify({ ...good, validUntil }), sentence.validUntil] as [string, string, string]),
    ['no validUntil', JSON.stringify(without('validUntil')), sentence.validUntil],
    ...['null', '[]', '"text"', '5', 'true'].map(body => [`body ${body}`, body, sentence.body] as [string, string, string]),
    ...['', '{', '{"name":}', 'name=a', '{"__proto__":{"role":"admin"},"name":"a","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}',
      '{"constructor":{"prototype":{}},"name":"a","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}'].map(body => [`body ${body}`, body, sentence.json] as [string, string, string])
  ]
  for (const [what, payload, message] of cases) {
    const response = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    t.equal(response.statusCode, 400, what)
    t.same(response.json(), { code: 'INVALID', message }, what)
  }
  t.same(await database.query('SELECT * FROM tokens'), [])
})

t.test('a body that is not JSON is refused with 415, one that is too large with 413', async t => {
  const { app, login } = await buildHost(t)
  const session = await login()
  for (const type of ['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data; boundary=x', 'application/jsonp', 'garbage', '']) {
    const response = await app.inject({ method: 'POST', url: '/api/tokens', headers: { ...session, 'content-type': type }, payload: '{"name":"a"}' })
    t.equal(response.statusCode, 415, type)
    t.same(response.json(), { code: 'INVALID', message: sentence.type }, type)
  }
  const large = await app.inject({ method: 'POST', url: '/api/tokens', headers: session, payload: { name: 'a'.repeat(1024 * 1024), role: 'admin', validUntil: FUTURE } })
  t.equal(large.statusCode, 413)
  t.same(large.json(), { code: 'INVALID', message: 'The body is too large' })
  t.equal(large.headers['cache-control'], 'no-store')
})

t.test('a body that is not as long as it says is refused with a sentence', async t => {
  const { app, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json', 'content-length': '5' }
  const response = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: '{"name":"a"}' })
  t.equal(response.statusCode, 400)
  t.strictSame(response.json(), { code: 'INVALID', message: 'content-length must be the length of the body' })
})

t.test('JSON is JSON in whatever case and with whatever charset it is announced', async t => {
  const { app, login } = await buildHost(t)
  const session = await login()
  for (const [index, type] of ['application/json', 'application/json; charset=utf-8', 'Application/JSON;charset=UTF-8', 'application/json;;garbage'].entries()) {
    const payload = JSON.stringify({ name: `n${index}`, role: 'viewer', validUntil: FUTURE })
    t.equal((await app.inject({ method: 'POST', url: '/api/tokens', headers: { ...session, 'content-type': type }, payload })).statusCode, 200, type)
  }
})

t.test('names are trimmed, normalized, counted in code points, and told apart by case', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string): Promise<LightMyRequestResponse> =>
    await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: FUTURE } })

  for (const name of ['😀'.repeat(255), 'a', 'A', 'é', '<b>&amp;"\'', 'a b', '../../..', '%00', 'نص', "'; DROP TABLE tokens; --"]) {
    t.equal((await create(name)).json<{ name: string }>().name, name)
  }
  t.equal((await create('  trimmed\n ')).json<{ name: string }>().name, 'trimmed')
  t.equal((await create('e\u0301!')).json<{ name: string }>().name, 'é!')
  const taken = await create(' a ')
  t.equal(taken.statusCode, 409)
  t.same(taken.json(), { code: 'CONFLICT', message: 'A token with this name exists' })
})

t.test('unknown properties are ignored and never stored', async t => {
  const { app, login } = await buildHost(t)
  const payload = { name: 'a', role: 'viewer', validUntil: FUTURE, hash: 'x', requestedBy: 'root', issueDate: '1970-01-01T00:00:00Z', constructor: 'x', extra: 1 }
  const response = await app.inject({ method: 'POST', url: '/api/tokens', headers: await login(), payload })
  t.equal(response.statusCode, 200)
  t.same(Object.keys(response.json()), ['token', 'name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed'])
  t.match(response.json(), { requestedBy: 'cedalo', hash: /^[0-9a-f]{64}$/ })
})

t.test('a time is taken in every accepted form, cut to the whole second and answered in UTC', async t => {
  const { issue } = await buildHost(t)
  const forms = {
    '2999-06-08T10:54:53Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08 10:54:53Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08t10:54:53z': '2999-06-08T10:54:53.000Z',
    '2999-06-08T10:54:53.9999999999Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08T10:54:53.5+02:00': '2999-06-08T08:54:53.000Z',
    '2999-06-08T10:54:53-23:59': '2999-06-09T10:53:53.000Z',
    '2999-06-08T10:54:53-00:00': '2999-06-08T10:54:53.000Z',
    '2996-02-29T00:00:00Z': '2996-02-29T00:00:00.000Z',
    '9999-12-31T23:59:59Z': '9999-12-31T23:59:59.000Z',
    '2999-06-08 10:05:00000Z': '2999-06-08T10:05:00.000Z'
  }
  for (const [validUntil, answered] of Object.entries(forms)) t.equal((await issue({ validUntil })).validUntil, answered, validUntil)
})

t.test('the whole second of a time must itself lie in the future', async t => {
  let now = Date.UTC(2026, 10, 24, 12, 0, 0, 999)
  t.intercept(Date, 'now', { value: () => now })
  const { issue } = await buildHost(t)
  t.equal((await issue({ validUntil: '2026-11-24T12:00:01Z' })).validUntil, '2026-11-24T12:00:01.000Z')
  now += 1
  await t.rejects(issue({ validUntil: '2026-11-24T12:00:01.999Z' }), { statusCode: 400, code: 'INVALID', message: sentence.validUntil })
})

t.test('of twenty requests at once for one name exactly one wins, on two nodes', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { database: one.database })
  const headers = await one.login()
  const answers = await Promise.all(Array.from({ length: 20 }, async (_, index) => await [one, two][index % 2]?.app.inject({
    method: 'POST', url: '/api/tokens', headers, payload: { name: 'only', role: 'viewer', validUntil: FUTURE }
  })))
  t.same(answers.map(answer => answer?.statusCode).sort(), [200, ...Array<number>(19).fill(409)])
  const winner = answers.find(answer => answer?.statusCode === 200)?.json<{ hash: string }>()
  t.same(await one.database.query('SELECT hash FROM tokens'), [{ hash: winner?.hash }])
})
