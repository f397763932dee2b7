import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { findPresented, presentedBy, withdraw } from '../../lib/http/credential.js'

interface Wire { url: string, headers?: string[], query?: unknown, originalUrl?: string }
interface Request { query: unknown, raw: { url: string, originalUrl?: string } }

/** A request as Fastify has it, its query parsed; what begins with `our` is ours. */
function createRequest ({ url, headers = [], query = {}, originalUrl }: Wire): Request & FastifyRequest {
  const index = headers.findIndex((name, index) => index % 2 === 0 && name.toLowerCase() === 'authorization')
  const raw = { url, headers: { authorization: index === -1 ? undefined : headers[index + 1] }, rawHeaders: headers, ...originalUrl !== undefined && { originalUrl } }
  return { query, raw } as unknown as Request & FastifyRequest
}

function find (wire: Wire, parameter: string | false = 'token') {
  const request = createRequest(wire)
  findPresented(request, parameter, secret => secret.startsWith('our') ? { secret, hash: `hash of ${secret}` } : null)
  return { request, presented: presentedBy(request) }
}

const OUR1 = { credential: { secret: 'our1', hash: 'hash of our1' }, isJudged: false }

t.test('a bearer in the Authorization header alone is presented, the whole of it and nothing around it', t => {
  for (const name of ['Authorization', 'authorization', 'AUTHORIZATION']) {
    for (const value of ['Bearer our1', 'bearer   our1']) t.strictSame(find({ url: '/', headers: ['Host', 'here', name, value] }).presented, { ...OUR1, taken: null }, `${name}: ${value}`)
  }
  for (const value of ['our1', 'Bearer', 'Bearer ', 'Bearerour1', 'Basic our1', 'Not bearer our1', 'Bearer our1 our2', 'Bearer foreign']) {
    t.equal(find({ url: '/', headers: ['Authorization', value] }).presented, null, value)
  }
  // The second has as many letters as `Authorization`.
  for (const name of ['Proxy-Authorization', 'X-Other-Token']) {
    t.equal(find({ url: '/', headers: ['Authorization', 'Basic x', name, 'Bearer our1'] }).presented, null, name)
  }
  t.equal(find({ url: '/', headers: ['X-Authorization', 'Authorization', 'Authorization', 'Basic x', 'Bearer our1', 'Authorization'] }).presented, null, 'values are no names')
  t.end()
})

t.test('a token in the header costs little beside it: names of other headers are not spelt out, and no values gathered where there is no parameter', t => {
  const request = createRequest({ url: '/?a=1', query: { a: '1' }, headers: ['Host', 'here', 'Cookie', 'x', 'Authorization', 'Bearer our1', 'Accept', '*/*'] })
  const lowered = t.capture(String.prototype as unknown as { toLowerCase: () => string }, 'toLowerCase', String.prototype.toLowerCase)
  const gathered = t.capture(Array.prototype as unknown as { flat: () => unknown[] }, 'flat', Array.prototype.flat as () => unknown[])
  findPresented(request, 'token', secret => ({ secret, hash: secret }))
  t.strictSame([lowered().length, gathered().length], [1, 0])
  t.end()
})

t.test('two of ours are no credential, wherever they stand; what is not ours does not count', t => {
  for (const wire of [
    { url: '/', headers: ['Authorization', 'Bearer our1', 'Authorization', 'Bearer our1'] },
    { url: '/?token=our1', headers: ['Authorization', 'Bearer our2'], query: { token: 'our1' } },
    { url: '/?token=our1&token=our2', query: { token: ['our1', 'our2'] } }
  ]) t.equal(find(wire).presented?.credential, null)
  t.equal(find({ url: '/', headers: ['Authorization', 'Bearer foreign', 'Authorization', 'Bearer our1'] }).presented?.credential, null, 'but beside one of ours')
  t.end()
})

t.test('one in the query is taken out of query and URL, and what else stands there stays as it was', t => {
  for (const [url, query, leftUrl, leftQuery] of [
    ['/x?token=our1', { token: 'our1' }, '/x', {}],
    ['/x?a=1&token=our1&b=2', { a: '1', token: 'our1', b: '2' }, '/x?a=1&b=2', { a: '1', b: '2' }],
    ['/x?token=reset&token=our1', { token: ['reset', 'our1'] }, '/x?token=reset', { token: 'reset' }],
    ['/x?token=1&token=our1&token=2', { token: ['1', 'our1', '2'] }, '/x?token=1&token=2', { token: ['1', '2'] }],
    ['/x?%74oken=%6fur1&b=%zz', { token: 'our1', b: '%zz' }, '/x?b=%zz', { b: '%zz' }],
    ['/x#token=our1', { token: 'our1' }, '/x', {}],
    ['/x;token=our1', { token: 'our1' }, '/x', {}],
    ['/x;b=1&token=our1', { b: '1', token: 'our1' }, '/x;b=1', { b: '1' }],
    ['/x;y?token=our1', { token: 'our1' }, '/x;y', {}]
  ] as const) {
    const { request, presented } = find({ url, query, originalUrl: `/old${url}` })
    t.match(presented, OUR1, url)
    t.strictSame(request.query, leftQuery, url)
    t.strictSame(Object.keys(request.query as object), Object.keys(leftQuery))
    t.strictSame(request.raw, { ...request.raw, url: leftUrl, originalUrl: `/old${leftUrl}` }, url)
    t.strictSame(presented?.taken, { members: { token: query.token }, url, originalUrl: `/old${url}` })
  }
  const { request } = find({ url: '/?token=our1', query: { token: 'our1' } })
  t.notOk('originalUrl' in request.raw, 'in a host that rewrites no URL')
  t.end()
})

t.test('a query without one of ours is the same object as before, whatever its parser makes of it', t => {
  for (const token of [undefined, '', 'reset', ['reset', 'other'], { our: 'our1' }, [{ our: 'our1' }], 1, null]) {
    const query = token === undefined ? { a: '1' } : { token, a: '1' }
    const { request, presented } = find({ url: '/?token=x&a=1', query })
    t.equal(presented, null)
    t.equal(request.query, query)
    t.equal(request.raw.url, '/?token=x&a=1')
  }
  for (const parameter of [false, 'other'] as const) {
    for (const name of ['token', 'false', 'true']) t.equal(find({ url: `/?${name}=our1`, query: { [name]: 'our1' } }, parameter).presented, null, 'the parameter has another name, or is switched off')
  }
  t.end()
})

t.test('withdrawn, a request is what it was, but for what its schema converted meanwhile', t => {
  const { request } = find({ url: '/?token=our1&n=1', originalUrl: '/old', query: { token: 'our1', n: '1' } })
  request.query = { n: 1 }
  withdraw(request)
  t.strictSame(request.query, { n: 1, token: 'our1' })
  t.match(request.raw, { url: '/?token=our1&n=1', originalUrl: '/old' })
  t.equal(presentedBy(request), null)
  for (const headers of [[], ['Authorization', 'Bearer our1']]) {
    const { request } = find({ url: '/?n=1', query: { n: '1' }, headers })
    withdraw(request)
    t.strictSame([request.query, request.raw.url, presentedBy(request)], [{ n: '1' }, '/?n=1', null])
  }
  t.end()
})
