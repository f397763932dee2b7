import { createHmac, hkdfSync } from 'node:crypto'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import Fastify, { type FastifyRequest } from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { routing } from '../support/fastify-version.js'

const part = (value: unknown): string => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
const HEADER = { alg: 'HS256', typ: 'JWT' }

function jwt (header: unknown, payload: unknown, key: Buffer | string = KEY, algorithm = 'sha256'): string {
  const input = `${part(header)}.${part(payload)}`
  return `${input}.${createHmac(algorithm, key).update(input).digest('base64url')}`
}

t.test('what is not ours is left alone, in the header and in the query: never a principal, never a refusal', async t => {
  const { app, login } = await buildHost(t)
  const session = await login('viewer')
  const claims = { role: 'admin', iat: 1, exp: 33e9, jti: 'x' }
  const foreign = ['opaque', 'a.b', 'a.b.c', 'a.b.c.d', '..', jwt(HEADER, { ...claims, iss: 'other' }), jwt(HEADER, claims), jwt(HEADER, { ...claims, iss: ['cedalo'] }),
    jwt(HEADER, { ...claims, iss: 'Cedalo' }), jwt(HEADER, null), jwt(HEADER, []), jwt(HEADER, 'cedalo'), jwt(HEADER, '{"iss":"cedalo"'), '%', 'x'.repeat(5000)]
  for (const credential of foreign) {
    for (const request of [{ url: '/api/profile', headers: bearer(credential) }, { url: '/api/profile', query: { token: credential } }]) {
      t.equal((await app.inject(request)).statusCode, 401, 'the host refuses, as without us')
      t.notOk((await app.inject(request)).headers['www-authenticate'])
      const answer = await app.inject({ ...request, headers: { ...request.headers, ...session } })
      t.strictSame(answer.json(), { username: 'viewer', roles: ['viewer'] })
    }
  }
  t.equal((await app.inject({ url: '/api/profile', headers: { authorization: 'Basic dXNlcjpwYXNz' } })).statusCode, 401)
})

t.test('ours that does not hold is 401 on any route, whatever session stands beside it', async t => {
  const { app, login, issue } = await buildHost(t)
  const session = await login()
  const good = await issue({ role: 'admin' })
  const claims = JSON.parse(Buffer.from(good.token.split('.')[1] ?? '', 'base64url').toString()) as { exp: number }
  const input = good.token.slice(0, good.token.lastIndexOf('.'))
  const { exp, ...forever } = claims
  const bad: Record<string, string> = {
    'signed with the secret itself': jwt(HEADER, claims, SECRET),
    'signed with another key': jwt(HEADER, claims, 'k'.repeat(32)),
    'no signature': `${input}.`,
    'not signed at all': `${part({ alg: 'none', typ: 'JWT' })}.${part(claims)}.`,
    'HS512, rightly signed': jwt({ alg: 'HS512', typ: 'JWT' }, claims, KEY, 'sha512'),
    'HS256 with another header, rightly signed': jwt({ typ: 'JWT', alg: 'HS256' }, claims),
    'a claim more, rightly signed, not in the store': jwt(HEADER, { ...claims, jti: 'other' }),
    'expired, rightly signed': jwt(HEADER, { ...claims, exp: 1 }),
    'without expiry': jwt(HEADER, forever),
    'an endless expiry': jwt(HEADER, JSON.stringify(claims).replace(String(exp), '1e999')),
    'an expiry in words': jwt(HEADER, { ...claims, exp: 'never' }),
    'an empty object of ours': jwt(HEADER, { iss: 'cedalo' }),
    'another spelling of the same signature': good.token.slice(0, -1) + String.fromCharCode(good.token.charCodeAt(good.token.length - 1) + 1)
  }
  for (const [what, credential] of Object.entries(bad)) {
    for (const url of ['/api/profile', '/api/tokens', '/', '/nothing/here']) {
      for (const headers of [{}, session]) {
        for (const request of [{ url, headers: { ...headers, ...bearer(credential) } }, { url, headers, query: { token: credential } }]) {
          const answer = await app.inject(request)
          t.equal(answer.statusCode, 401, `${what}: ${url}`)
          t.strictSame(answer.json(), { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: headers === session } })
          t.equal(answer.headers['www-authenticate'], 'Bearer realm="cedalo", error="invalid_token"')
        }
      }
    }
  }
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(good.token) })).statusCode, 200)
})

t.test('two of ours in one request, in whatever places and even if the same, are 400', async t => {
  const { app, issue, login } = await buildHost(t)
  const [one, two] = [(await issue()).token, (await issue()).token]
  const forged = jwt(HEADER, { iss: 'cedalo' }, 'x')
  for (const request of [
    { url: `/api/profile?token=${one}`, headers: bearer(two) },
    { url: `/api/profile?token=${one}`, headers: bearer(one) },
    { url: `/api/profile?token=${one}&token=${two}` },
    { url: `/api/profile?token=${one}&tok%65n=${one}` },
    { url: `/api/tokens?token=${forged}`, headers: { ...bearer(forged), ...await login() } }
  ]) {
    const answer = await app.inject(request)
    t.equal(answer.statusCode, 400)
    t.strictSame(answer.json(), { code: 'INVALID', message: 'A request must carry one token, not several' })
  }
  t.equal((await app.inject({ url: `/api/profile?token=${one}&token=reset`, headers: bearer('opaque') })).statusCode, 200, 'one of ours beside what is not')
})

t.test('the scheme is read in any case', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue()
  for (const scheme of ['bearer', 'BEARER', 'Bearer ', 'bEaReR']) {
    t.equal((await app.inject({ url: '/api/profile', headers: { authorization: `${scheme} ${token}` } })).statusCode, 200, scheme)
  }
})

t.test('accepted, the token alone counts: request.user and request.applicationToken, also where a session stands beside it', async t => {
  const { app, issue, login } = await buildHost(t)
  const { token, ...record } = await issue({ name: 'cedalo' })
  const headers = { ...bearer(token), ...await login('cedalo') }
  t.strictSame((await app.inject({ url: '/api/profile', headers })).json(), { username: 'token:cedalo', roles: ['viewer'] }, 'never taken for that person')
  t.equal((await app.inject({ url: '/api/editor', headers })).statusCode, 403)
  t.equal((await app.inject({ url: '/api/tokens', headers })).statusCode, 403)
  t.match(await app.tokens.get(record.hash), { ...record, lastUsed: String })
})

t.test('on every route of the host, declared before or after us, unknown ones and HEAD, but not on one that opts out', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const tell = async (request: FastifyRequest): Promise<unknown> => ({ name: request.applicationToken === null ? null : request.applicationToken.name, user: (request as { user?: unknown }).user, query: request.query, url: request.url })
  app.get('/before', tell)
  await app.register(async child => { child.get('/child-before', tell) })
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/after', tell)
  app.get('/out', { config: { applicationTokens: false } }, tell)
  await app.register(async child => { child.get('/child-after', tell) })
  app.setNotFoundHandler(async (request, reply) => await reply.code(404).send(await tell(request)))

  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  for (const path of ['/before', '/child-before', '/after', '/child-after', '/unknown']) {
    const told = { name: 'a', user: { username: 'token:a', roles: ['viewer'] } }
    t.match((await app.inject({ url: path, headers: bearer(token) })).json(), told)
    t.strictSame((await app.inject({ url: `${path}?x=1&token=${token}&y=2` })).json(), { ...told, query: { x: '1', y: '2' }, url: `${path}?x=1&y=2` })
    t.equal((await app.inject({ method: 'HEAD', url: path, headers: bearer(`${token.slice(0, -1)}.`) })).statusCode, path === '/unknown' ? 404 : 200, 'not a JWT')
    t.equal((await app.inject({ method: 'HEAD', url: path, headers: bearer(token.slice(0, -1)) })).statusCode, 401)
  }
  for (const path of ['/before', '/child-before', '/after', '/child-after', '/unknown']) {
    t.strictSame((await app.inject({ url: path })).json(), { name: null, query: {}, url: path }, 'without a credential')
  }
  t.strictSame((await app.inject({ url: `/out?token=${token}`, headers: bearer('x') })).json(), { name: null, query: { token }, url: `/out?token=${token}` })
  t.equal((await app.inject({ url: '/out', headers: bearer(token.slice(0, -1)) })).statusCode, 200)
})

t.test('a query token is taken out of the query and the URL, in every encoding; what is not ours stays', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ rewriteUrl: request => request.url?.replace('/old', '/new') ?? '' })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/new', async request => ({ query: request.query, url: request.url, originalUrl: request.originalUrl }))
  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  const encoded = token.replace('e', '%65').replaceAll('.', '%2E')
  for (const [query, left, url] of [
    [`?token=${token}`, {}, '/new'],
    [`?%74oken=${encoded}&b=%zz`, { b: '%zz' }, '/new?b=%zz'],
    [`?a=1&token=${token}`, { a: '1' }, '/new?a=1'],
    [`?token=reset&token=${token}&a`, { token: 'reset', a: '' }, '/new?token=reset&a'],
    [`?token=1&token=2&token=${token}`, { token: ['1', '2'] }, '/new?token=1&token=2']
  ] as const) {
    const answer = await app.inject({ url: `/old${query}` })
    t.strictSame(answer.json(), { query: left, url, originalUrl: url.replace('/new', '/old') }, query)
    t.match(answer.headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })
  }
  // Fastify's router takes `#` for `?`; app.inject would not send it.
  await app.listen({ port: 0, host: '127.0.0.1' })
  const [answer] = await once(get({ port: (app.server.address() as AddressInfo).port, path: `/old#token=${token}`, agent: false }), 'response') as [IncomingMessage]
  t.strictSame(await json(answer), { query: {}, url: '/new', originalUrl: '/old' })
  t.match(answer.headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })

  const other = await app.inject({ url: '/new?token=reset' })
  t.strictSame(other.json(), { query: { token: 'reset' }, url: '/new?token=reset', originalUrl: '/new?token=reset' })
  t.notOk(other.headers['referrer-policy'] ?? other.headers['cache-control'])
})

t.test('a query that begins with a semicolon, in a host that takes it so, is a query', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify(routing({ useSemicolonDelimiter: true } as object))
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/x', async request => ({ name: request.applicationToken?.name, query: request.query, url: request.url }))
  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  t.strictSame((await app.inject({ url: `/x;b=1&token=${token}` })).json(), { name: 'a', query: { b: '1' }, url: '/x;b=1' })
})

t.test('a POST or DELETE by a session that the browser marks cross-site is 403; one by a token is not', async t => {
  const { app, issue, login } = await buildHost(t)
  const session = await login()
  const admin = bearer((await issue({ role: 'admin' })).token)
  const send = async (method: 'GET' | 'POST' | 'DELETE', headers: object, site: string): Promise<number> => {
    const payload = { name: `${site} ${Math.random()}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
    const url = method === 'DELETE' ? '/api/tokens/x' : '/api/tokens'
    return (await app.inject({ method, url, headers: { ...headers, 'sec-fetch-site': site }, ...method === 'POST' && { payload } })).statusCode
  }
  for (const method of ['POST', 'DELETE'] as const) {
    t.equal(await send(method, session, 'cross-site'), 403)
    t.equal(await send(method, admin, 'cross-site'), 200)
    for (const site of ['same-origin', 'same-site', 'none']) t.equal(await send(method, session, site), 200, site)
  }
  t.equal(await send('GET', session, 'cross-site'), 200)
})
