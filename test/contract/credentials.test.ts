import { createHmac, hkdfSync } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, get } from 'node:http'
import { type IncomingHttpHeaders, connect as connectRaw } from 'node:http2'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { Readable } from 'node:stream'
import { json, text } from 'node:stream/consumers'
import { setTimeout } from 'node:timers/promises'
import serveStatic from '@fastify/static'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import type { TokensError } from '../../lib/errors.js'
import { addAuthentication } from '../../lib/http/authenticate.js'
import { findCredential, restoreCredential } from '../../lib/http/credential.js'
import { stateOf } from '../../lib/http/request-state.js'
import tokensPlugin, { type TokenEvent, type TokensPluginOptions } from '../../lib/index.js'
import type { CachedToken } from '../../lib/tokens/cache.js'
import type { Outcome, Refusal, Tokens } from '../../lib/tokens/tokens.js'
import type { Token } from '../../lib/types.js'
import { FORGED, NEW_TOKEN, createBareHost, who } from '../support/bare-host.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { routing } from '../support/fastify-version.js'
import { until } from '../support/until.js'

const part = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
const HEADER = { alg: 'HS256', typ: 'JWT' }

function jwt (header: unknown, payload: unknown, key: Buffer | string = KEY, algorithm = 'sha256'): string {
  const input = `${part(header)}.${part(payload)}`
  return `${input}.${createHmac(algorithm, key).update(input).digest('base64url')}`
}

t.test('credentials of others are ignored, in the header and in the query: never a principal, never a refusal', async t => {
  const { app, login } = await buildHost(t)
  const session = await login('viewer')
  const claims = { role: 'admin', iat: 1, exp: 33e9, jti: 'x' }
  const foreign = ['opaque', 'a.b', 'a.b.c', 'a.b.c.d', '..', jwt(
    HEADER, { ...claims, iss: 'other' }
  ), jwt(HEADER, claims), jwt(HEADER, { ...claims, iss: ['cedalo'] }),
  jwt(
    HEADER, { ...claims, iss: 'Cedalo' }
  ), jwt(HEADER, null), jwt(HEADER, []), jwt(HEADER, 'cedalo'), jwt(HEADER, '{"iss":"cedalo"'), '%', 'x'.repeat(5000)]
  for (const credential of foreign) {
    for (const request of [
      { url: '/api/profile', headers: bearer(credential) }, { url: '/api/profile', query: { token: credential } }
    ]) {
      t.equal((await app.inject(request)).statusCode, 401, 'the host refuses, as without us')
      t.notOk((await app.inject(request)).headers['www-authenticate'])
      const answer = await app.inject({ ...request, headers: { ...request.headers, ...session } })
      t.strictSame(answer.json(), { username: 'viewer', roles: ['viewer'] })
    }
  }
  t.equal((await app.inject({ url: '/api/profile', headers: { authorization: 'Basic dXNlcjpwYXNz' } })).statusCode, 401)
})

t.test('an invalid token is a 401 on any route, even if the request also has a session', async t => {
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
    'another spelling of the same signature': good.token.slice(0, -1) +
      String.fromCharCode(good.token.charCodeAt(good.token.length - 1) + 1)
  }
  for (const [what, credential] of Object.entries(bad)) {
    for (const url of ['/api/profile', '/api/tokens', '/', '/nothing/here']) {
      for (const headers of [{}, session]) {
        for (const request of [
          { url, headers: { ...headers, ...bearer(credential) } }, { url, headers, query: { token: credential } }
        ]) {
          const answer = await app.inject(request)
          t.equal(answer.statusCode, 401, `${what}: ${url}`)
          t.strictSame(answer.json(), {
            code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: headers === session }
          })
          t.equal(answer.headers['www-authenticate'], 'Bearer realm="cedalo", error="invalid_token"')
        }
      }
    }
  }
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(good.token) })).statusCode, 200)
})

t.test('two tokens in one request, in any places and even if the same, are a 400', async t => {
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
  t.equal(
    (await app.inject({ url: `/api/profile?token=${one}&token=reset`, headers: bearer('opaque') })).statusCode,
    200,
    'one of ours beside what is not'
  )
})

t.test('the scheme may be in any letter case', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue()
  for (const scheme of ['bearer', 'BEARER', 'Bearer ', 'bEaReR']) {
    t.equal(
      (await app.inject({ url: '/api/profile', headers: { authorization: `${scheme} ${token}` } })).statusCode,
      200,
      scheme
    )
  }
})

t.test('a valid token sets request.user and request.applicationToken, even if the request also has a session', async t => {
  const { app, issue, login } = await buildHost(t)
  const { token, ...record } = await issue({ name: 'cedalo' })
  const headers = { ...bearer(token), ...await login('cedalo') }
  t.strictSame(
    (await app.inject({ url: '/api/profile', headers })).json(),
    { username: 'token:cedalo', roles: ['viewer'] },
    'never taken for that person'
  )
  t.equal((await app.inject({ url: '/api/editor', headers })).statusCode, 403)
  t.equal((await app.inject({ url: '/api/tokens', headers })).statusCode, 403)
  t.match(await app.tokens.get(record.hash), { ...record, lastUsed: String })
})

t.test('tokens work on every route of the host, declared before or after the plugin, on unknown ones and HEAD, but not on one that opts out', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const tell = async (request: FastifyRequest): Promise<unknown> => ({
    name: request.applicationToken === null ? null : request.applicationToken.name,
    user: (request as { user?: unknown }).user,
    query: request.query,
    url: request.url
  })
  app.get('/before', tell)
  await app.register(async child => { child.get('/child-before', tell) })
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/after', tell)
  app.get('/out', { config: { applicationTokens: false } }, tell)
  await app.register(async child => { child.get('/child-after', tell) })
  app.setNotFoundHandler(async (request, reply) => await reply.code(404).send(await tell(request)))

  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  for (const path of ['/before', '/child-before', '/after', '/child-after', '/unknown']) {
    const told = { name: 'a', user: { username: 'token:a', roles: ['viewer'] } }
    t.match((await app.inject({ url: path, headers: bearer(token) })).json(), told)
    t.strictSame((await app.inject({ url: `${path}?x=1&token=${token}&y=2` })).json(), {
      ...told, query: { x: '1', y: '2' }, url: `${path}?x=1&y=2`
    })
    t.equal(
      (await app.inject({ method: 'HEAD', url: path, headers: bearer(`${token.slice(0, -1)}.`) })).statusCode,
      path === '/unknown' ? 404 : 200,
      'not a JWT'
    )
    t.equal((await app.inject({ method: 'HEAD', url: path, headers: bearer(token.slice(0, -1)) })).statusCode, 401)
  }
  for (const path of ['/before', '/child-before', '/after', '/child-after', '/unknown']) {
    t.strictSame((await app.inject({ url: path })).json(), { name: null, query: {}, url: path }, 'without a credential')
  }
  t.strictSame((await app.inject({ url: `/out?token=${token}`, headers: bearer('x') })).json(), {
    name: null, query: { token }, url: `/out?token=${token}`
  })
  t.equal((await app.inject({ url: '/out', headers: bearer(token.slice(0, -1)) })).statusCode, 200)
})

t.test('a query token is removed from the query and the URL, in every encoding; everything else stays', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ rewriteUrl: request => request.url?.replace('/old', '/new') ?? '' })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/new', async request => ({ query: request.query, url: request.url, originalUrl: request.originalUrl }))
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
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
  const [answer] = await once(
    get({ port: (app.server.address() as AddressInfo).port, path: `/old#token=${token}`, agent: false }), 'response'
  ) as [IncomingMessage]
  t.strictSame(await json(answer), { query: {}, url: '/new', originalUrl: '/old' })
  t.match(answer.headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })

  const other = await app.inject({ url: '/new?token=reset' })
  t.strictSame(other.json(), { query: { token: 'reset' }, url: '/new?token=reset', originalUrl: '/new?token=reset' })
  t.notOk(other.headers['referrer-policy'] ?? other.headers['cache-control'])
})

t.test('a query after a semicolon is a query, in a host that parses it', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify(routing({ useSemicolonDelimiter: true } as object))
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/x', async request => ({ name: request.applicationToken?.name, query: request.query, url: request.url }))
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  t.strictSame((await app.inject({ url: `/x;b=1&token=${token}` })).json(), {
    name: 'a', query: { b: '1' }, url: '/x;b=1'
  })
})

t.test('a cross-site POST or DELETE with a session is a 403; one with a token is not', async t => {
  const { app, issue, login } = await buildHost(t)
  const session = await login()
  const admin = bearer((await issue({ role: 'admin' })).token)
  const send = async (method: 'GET' | 'POST' | 'DELETE', headers: object, site: string): Promise<number> => {
    const payload = { name: `${site} ${Math.random()}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
    const url = method === 'DELETE' ? '/api/tokens/x' : '/api/tokens'
    return (await app.inject({
      method,
      url,
      headers: { ...headers, 'sec-fetch-site': site },
      ...method === 'POST' &&
      { payload }
    })).statusCode
  }
  for (const method of ['POST', 'DELETE'] as const) {
    t.equal(await send(method, session, 'cross-site'), 403)
    t.equal(await send(method, admin, 'cross-site'), 200)
    for (const site of ['same-origin', 'same-site', 'none']) t.equal(await send(method, session, site), 200, site)
  }
  t.equal(await send('GET', session, 'cross-site'), 200)
})

interface Wire { url: string, headers?: string[], query?: unknown, originalUrl?: string }
interface Request { query: unknown, raw: { url: string, originalUrl?: string } }

/** A request as Fastify has it, its query parsed; what begins with `our` is ours. */
function createRequest ({ url, headers = [], query = {}, originalUrl }: Wire): Request & FastifyRequest {
  const index = headers.findIndex((name, index) => index % 2 === 0 && name.toLowerCase() === 'authorization')
  const raw = {
    url,
    headers: {
      authorization: index === -1
        ? undefined
        : headers[index + 1]
    },
    rawHeaders: headers,
    ...originalUrl !== undefined && { originalUrl }
  }
  return { query, raw, routeOptions: { config: {} } } as unknown as Request & FastifyRequest
}

function find (wire: Wire, parameter: string | false = 'token') {
  const request = createRequest(wire)
  findCredential(request, parameter, secret => /^our\S*$/.test(secret) ? { secret, hash: `hash of ${secret}` } : null)
  return { request, state: stateOf(request) }
}

const OUR1 = { credential: { secret: 'our1', hash: 'hash of our1' } }

t.test('the credential of an Authorization header is the whole bearer, without anything around it', t => {
  for (const name of ['Authorization', 'authorization', 'AUTHORIZATION']) {
    for (const value of ['Bearer our1', 'bearer   our1']) {
      t.match(
        find({ url: '/', headers: ['Host', 'here', name, value] }).state, { ...OUR1, original: null }, `${name}: ${value}`
      )
    }
  }
  for (const value of [
    'our1', 'Bearer', 'Bearer ', 'Bearerour1', 'Basic our1', 'Not bearer our1', 'Bearer our1 our2', 'Bearer foreign'
  ]) {
    t.equal(find({ url: '/', headers: ['Authorization', value] }).state, null, value)
  }
  // The second has as many letters as `Authorization`.
  for (const name of ['Proxy-Authorization', 'X-Other-Token']) {
    t.equal(find({ url: '/', headers: ['Authorization', 'Basic x', name, 'Bearer our1'] }).state, null, name)
  }
  t.equal(find({
    url: '/', headers: ['X-Authorization', 'Authorization', 'Authorization', 'Basic x', 'Bearer our1', 'Authorization']
  }).state, null, 'values are no names')
  t.end()
})

t.test('two tokens are no credential, in any places; credentials of others do not count', t => {
  for (const wire of [
    { url: '/', headers: ['Authorization', 'Bearer our1', 'Authorization', 'Bearer our1'] },
    { url: '/?token=our1', headers: ['Authorization', 'Bearer our2'], query: { token: 'our1' } },
    { url: '/?token=our1&token=our2', query: { token: ['our1', 'our2'] } }
  ]) t.equal(find(wire).state?.credential, 'several')
  t.equal(
    find({ url: '/', headers: ['Authorization', 'Bearer foreign', 'Authorization', 'Bearer our1'] }).state?.credential,
    'several',
    'but beside one of ours'
  )
  for (const words of ['Bearer no token', 'Bearer no\ttoken', 'Bearer ']) {
    t.match(find({ url: '/', headers: ['Authorization', words, 'Authorization', 'Bearer our1'] }).state, OUR1, words)
  }
  t.end()
})

t.test('of an Authorization that a proxy joined with commas, each bearer counts, with any whitespace around it', t => {
  for (const value of [
    'Bearer our1,', 'Basic x,Bearer our1', 'Basic x, Bearer our1', 'Basic x,\t bearer  our1', 'Bearer our1 , Basic x',
    'Bearer our1\t,Basic x', ', ,Bearer our1 \t', 'Digest username="x", qop=auth, Bearer our1'
  ]) t.match(find({ url: '/', headers: ['Authorization', value] }).state, OUR1, value)
  for (const value of [
    'Bearer our1,Bearer our1', 'Bearer our1, Bearer our2', 'Bearer our1 ,\tbearer foreign', 'Bearer foreign, Bearer our1'
  ]) t.equal(find({ url: '/', headers: ['Authorization', value] }).state?.credential, 'several', value)
  for (const value of ['Bearer foreign, Bearer other', 'Basic our1, Digest our2', ',,,']) {
    t.equal(find({ url: '/', headers: ['Authorization', value] }).state, null, value)
  }
  t.end()
})

t.test('a query token is removed from query and URL, and the rest of both is not changed', t => {
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
    const { request, state } = find({ url, query, originalUrl: `/old${url}` })
    t.match(state, OUR1, url)
    t.strictSame(request.query, leftQuery, url)
    t.strictSame(Object.keys(request.query as object), Object.keys(leftQuery))
    t.strictSame(request.raw, { ...request.raw, url: leftUrl, originalUrl: `/old${leftUrl}` }, url)
    t.strictSame(state?.original, { members: { token: query.token }, url, originalUrl: `/old${url}` })
  }
  const { request } = find({ url: '/?token=our1', query: { token: 'our1' } })
  t.notOk('originalUrl' in request.raw, 'in a host that rewrites no URL')
  t.end()
})

t.test('a query without a token stays the same object, whatever its parser returns', t => {
  for (const token of [undefined, '', 'reset', ['reset', 'other'], { our: 'our1' }, [{ our: 'our1' }], 1, null]) {
    const query = token === undefined ? { a: '1' } : { token, a: '1' }
    const { request, state } = find({ url: '/?token=x&a=1', query })
    t.equal(state, null)
    t.equal(request.query, query)
    t.equal(request.raw.url, '/?token=x&a=1')
  }
  for (const parameter of [false, 'other'] as const) {
    for (const name of ['token', 'false', 'true']) {
      t.equal(
        find({ url: `/?${name}=our1`, query: { [name]: 'our1' } }, parameter).state,
        null,
        'the parameter has another name, or is switched off'
      )
    }
  }
  t.end()
})

t.test('a restored request is as before, except for what its schema converted since', t => {
  const { request } = find({ url: '/?token=our1&n=1', originalUrl: '/old', query: { token: 'our1', n: '1' } })
  request.query = { n: 1 }
  restoreCredential(request)
  t.strictSame(request.query, { n: 1, token: 'our1' })
  t.match(request.raw, { url: '/?token=our1&n=1', originalUrl: '/old' })
  t.equal(stateOf(request)?.credential, null)
  for (const headers of [[], ['Authorization', 'Bearer our1']]) {
    const { request } = find({ url: '/?n=1', query: { n: '1' }, headers })
    restoreCredential(request)
    t.strictSame([request.query, request.raw.url, stateOf(request)?.credential], [{ n: '1' }, '/?n=1', null])
  }
  t.end()
})

const TOKEN: CachedToken = {
  token: { name: 'a', role: 'viewer' } as unknown as Token, expiresAt: 0, claimExpiresAt: 0, httpDate: 'some day', lastUsed: 0
}
const NONE = { accepted: 0, unknown: 0, expired: 0, invalid: 0, several: 0, failed: 0 }
const OURS = { authorization: 'Bearer our1' }

interface Hooked {
  app: FastifyInstance
  /** What the rules say of a token, at once or later. */
  answer: (outcome: () => Outcome | Promise<Outcome>) => void
  enable: (yes: boolean) => void
  /** What was refused, each an error. */
  refused: TokensError[]
  /** What the audit gets of refusals. */
  rejections: unknown[]
  counts: Record<string, number>
  lines: string[]
  /** The URLs of requests whose route was asked for its options. */
  read: string[]
}

interface Settings { hook?: 'preHandler' | 'onRequest', sendFails?: boolean, expiryHeader?: boolean, parameter?: string | false }

/** The hook alone, in a host whose log, rules and refusals we hear. */
async function createHooked (
  t: Test, { hook = 'preHandler', sendFails = false, expiryHeader = false, parameter = 'token' }: Settings = {}
): Promise<Hooked> {
  const lines: string[] = []
  const refused: TokensError[] = []
  const rejections: unknown[] = []
  const counts = { ...NONE }
  let [decide, isEnabled]: [() => Outcome | Promise<Outcome>, boolean] = [() => TOKEN, true]
  const app = Fastify({
    logger: {
      stream: {
        write (line: string) {
          if (!line.includes('"msg":"incoming request"') &&
    !line.includes('"msg":"request completed"')) lines.push(line)
        }
      }
    }
  })
  t.teardown(() => app.close())
  const read: string[] = []
  app.addHook('onRequest', (request, _reply, done) => {
    const { routeOptions, url } = request
    Object.defineProperty(request, 'routeOptions', { get () { read.push(url); return routeOptions } })
    done()
  })
  const recognize = (secret: string) => secret.startsWith('our') ? { secret, hash: secret } : null
  addAuthentication(app, {
    disables: () => 0,
    tokens: { recognize, authenticate: () => decide(), count (result) { counts[result]++ } },
    isEnabled: () => isEnabled,
    hook,
    audit: { reportRejection: (...about: unknown[]) => { rejections.push(about) } },
    connections: { cut () {} },
    expiryHeader,
    queryParameter: parameter,
    async sendError (_request, reply, error) {
      if (sendFails) throw new Error('can not be sent')
      refused.push(error as TokensError)
      reply.code((error as TokensError).statusCode).send('refused')
    }
  })
  app.get('/', tell)
  app.get('/out', { config: { applicationTokens: false } }, tell)
  app.get('/401', async (_request, reply) => await reply.code(401).send('for a reason of its own'))
  return {
    app,
    refused,
    rejections,
    counts,
    lines,
    read,
    answer: outcome => { decide = outcome },
    enable: yes => { isEnabled = yes }
  }
}

async function tell (request: FastifyRequest): Promise<unknown> {
  return {
    token: request.applicationToken?.name ?? null,
    user: (request as { user?: unknown }).user ??
    null,
    url: request.url,
    isDisabled: stateOf(request)?.isDisabled ?? false
  }
}

const IN = { token: 'a', user: { username: 'token:a', roles: ['viewer'] }, url: '/', isDisabled: false }
const AS_IT_CAME = { token: null, user: null, url: '/', isDisabled: false }
const SWITCHED_OFF = { ...AS_IT_CAME, isDisabled: true }

t.test('the result of authenticate, synchronous or not, decides whether a request is accepted', async t => {
  const { app, refused, answer, lines, rejections, counts } = await createHooked(t)
  t.ok(app.hasRequestDecorator('applicationToken'), 'a plugin may depend on it')
  t.strictSame((await app.inject({ url: '/' })).json(), AS_IT_CAME)
  for (const outcome of [() => TOKEN, async () => TOKEN]) {
    answer(outcome)
    t.strictSame((await app.inject({ url: '/', headers: OURS })).json(), IN)
    const { headers, body } = await app.inject({ url: '/?token=our1' })
    t.strictSame(JSON.parse(body), IN)
    t.match(headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })
  }
  t.notOk((await app.inject({ url: '/', headers: OURS })).headers['cache-control'], 'only where the URL has it')
  const expired: Refusal = { refused: 'expired', reason: 'expired' }
  for (const outcome of [() => expired, async () => expired]) {
    answer(outcome)
    const { statusCode, body } = await app.inject({ url: '/', headers: OURS })
    t.strictSame([statusCode, body], [401, 'refused'])
    t.match(refused.pop(), { statusCode: 401, message: 'The token is not valid' })
    t.match(rejections.pop(), ['expired', { hash: 'our1' }, { actor: null, address: '127.0.0.1', requestId: /^req-/ }])
  }
  t.strictSame(lines, [])
  t.strictSame(counts, { ...NONE, accepted: 5, expired: 2 })
})

t.test('each refusal is counted by its kind, and reported unless it is an internal error', async t => {
  const { app, answer, rejections, counts } = await createHooked(t)
  for (const kind of ['unknown', 'expired', 'invalid', 'failed'] as const) {
    answer(() =>
      kind === 'failed' ? Promise.reject(new Error('out of reach')) : { refused: kind, reason: `it is ${kind}` })
    await app.inject({ url: '/', headers: OURS })
    t.strictSame(counts, { ...NONE, [kind]: 1 }, kind)
    counts[kind] = 0
  }
  t.equal(rejections.length, 3)
  await app.inject({ url: '/?token=our2', headers: OURS })
  t.strictSame(counts, { ...NONE, several: 1 })
  t.match(rejections.at(-1), ['several tokens in one request', { hash: null }])
  answer(() => ({ refused: 'expired', reason: 'expired', token: { name: 'n', role: 'r' } as unknown as Token }))
  await app.inject({ url: '/', headers: OURS })
  t.match(rejections.at(-1), ['expired', { hash: 'our1', name: 'n', role: 'r' }])
  await app.inject({ url: '/' })
  t.strictSame(counts, { ...NONE, several: 1, expired: 1 }, 'without a token nothing is')
})

t.test('a response has the expiry of the token if the option is set', async t => {
  for (const [isTold, expected] of [[true, 'some day'], [false, undefined]] as const) {
    const { app } = await createHooked(t, { expiryHeader: isTold })
    t.equal((await app.inject({ url: '/', headers: OURS })).headers['application-token-expires'], expected)
    t.equal((await app.inject({ url: '/' })).headers['application-token-expires'], undefined)
  }
})

t.test('two tokens are refused without checking them, and cause no warning', async t => {
  const { app, refused, answer, lines } = await createHooked(t)
  answer(() => { throw new Error('asked') })
  t.equal((await app.inject({ url: '/?token=our1', headers: OURS })).statusCode, 400)
  t.match(refused, [{ statusCode: 400, message: 'A request must carry one token, not several' }])
  t.strictSame(lines, [])
})

t.test("an unreachable store, and a user that can't be assigned, are a 500 with their cause, never accepted", async t => {
  const { app, refused, answer } = await createHooked(t)
  app.addHook('onRequest', (request, _reply, done) => {
    Object.defineProperty(request, 'user', { get: () => null })
    done()
  })
  app.get('/later', tell)
  t.equal((await app.inject({ url: '/later', headers: OURS })).statusCode, 500)
  t.match(refused.pop(), {
    statusCode: 500, cause: { message: /has a getter and no setter/, cause: { message: /only a getter/ } }
  })
  answer(async () => { throw new Error('out of reach') })
  t.equal((await app.inject({ url: '/', headers: OURS })).statusCode, 500)
  t.match(refused.pop(), { statusCode: 500, cause: { message: 'out of reach' } })
})

t.test("a refusal that can't be sent is the host's error, and the request does not hang", async t => {
  const invalid: Refusal = { refused: 'invalid', reason: 'bad signature' }
  for (const outcome of [() => invalid, async () => invalid]) {
    const { app, answer } = await createHooked(t, { sendFails: true })
    answer(outcome)
    t.match((await app.inject({ url: '/', headers: OURS })).json(), { statusCode: 500, message: 'can not be sent' })
  }
  const { app } = await createHooked(t, { sendFails: true })
  app.addHook('onRequest', (request, _reply, done) => {
    Object.defineProperty(request, 'user', { get: () => null })
    done()
  })
  app.get('/later', tell)
  t.match((await app.inject({ url: '/later', headers: OURS })).json(), { statusCode: 500, message: 'can not be sent' })
})

t.test('a route that opts out, and a plugin that is disabled before or meanwhile, leave the request unchanged', async t => {
  const { app, answer, enable } = await createHooked(t)
  t.strictSame((await app.inject({ url: '/out?token=our1', headers: OURS })).json(), {
    ...AS_IT_CAME, url: '/out?token=our1'
  })
  enable(false)
  t.strictSame((await app.inject({ url: '/?token=our1' })).json(), { ...SWITCHED_OFF, url: '/?token=our1' })
  enable(true)
  answer(async () => {
    enable(false)
    return TOKEN
  })
  const { body, headers } = await app.inject({ url: '/?token=our1' })
  t.strictSame(JSON.parse(body), { ...SWITCHED_OFF, url: '/?token=our1' })
  t.notOk(headers['referrer-policy'])
  enable(true)
  answer(async () => {
    enable(false)
    throw new Error('out of reach')
  })
  t.strictSame((await app.inject({ url: '/', headers: OURS })).json(), SWITCHED_OFF)
})

t.test('with hook: onRequest, guards in that hook see the user, and a later session does not replace it', async t => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const { app } = await createHooked(t, { hook })
    const seen: unknown[] = []
    app.addHook('onRequest', async request => { seen.push((await tell(request) as { token: unknown }).token) })
    app.addHook('preValidation', async request => { (request as { user?: unknown }).user = 'of a session' })
    app.get('/later', tell)
    t.strictSame((await app.inject({ url: '/later', headers: OURS })).json(), { ...IN, url: '/later' })
    t.strictSame((await app.inject({ url: '/later' })).json(), { ...AS_IT_CAME, user: 'of a session', url: '/later' })
    t.strictSame(seen, hook === 'onRequest' ? ['a', null] : [null, null])
  }
})

t.test('a guard that refuses before the token is checked is reported once; no other 401 is', async t => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const { app, answer, enable, lines } = await createHooked(t, { hook })
    app.addHook('preValidation', async (request, reply) => {
      if (request.headers['x-guard'] !== undefined) {
        await reply.code(
          Number(request.headers['x-guard'])
        ).send('the guard')
      }
    })
    app.get('/guarded', async () => 'in')
    const guarded = { url: '/guarded', headers: { ...OURS, 'x-guard': '401' } }
    for (const request of [{ url: '/401' }, { url: '/401', headers: OURS }, { url: '/401?token=our1' }, {
      url: '/guarded', headers: { 'x-guard': '401' }
    },
    {
      url: '/guarded', headers: { 'x-guard': '401', authorization: 'Bearer foreign' }
    }, { url: '/guarded', headers: { ...OURS, 'x-guard': '404' } }]) await app.inject(request)
    enable(false)
    await app.inject(guarded)
    enable(true)
    t.strictSame(lines, [])
    await app.inject(guarded)
    await app.inject(guarded)
    await app.inject({ url: '/guarded?token=our1', headers: { 'x-guard': '401' } })
    t.equal(lines.length, hook === 'preHandler' ? 1 : 0)
    if (hook === 'preHandler') {
      t.match(JSON.parse(lines[0] ?? ''), {
        level: 40,
        msg: /^a guard answered 401 before the token of the request was checked in the hook "preHandler": register .* "onRequest"/
      })
    }
    answer(() => ({ refused: 'invalid', reason: 'bad signature' }))
    await app.inject({ url: '/', headers: OURS })
    t.equal(lines.filter(line => line.includes('was checked')).length, hook === 'preHandler' ? 1 : 0)
  }
})

t.test("a guard in onRequest, before the plugin's hook, is reported as well", async t => {
  const lines: string[] = []
  const early = Fastify({ logger: { stream: { write (line: string) { lines.push(line) } } } })
  t.teardown(() => early.close())
  early.addHook('onRequest', async (_request, reply) => { await reply.code(401).send('the guard') })
  addAuthentication(early, {
    disables: () => 0,
    tokens: { recognize: (secret: string) => ({ secret, hash: secret }) } as unknown as Tokens,
    isEnabled: () => true,
    hook: 'preHandler',
    queryParameter: 'token',
    audit: { reportRejection () {} },
    connections: { cut () {} },
    expiryHeader: false,
    sendError: async () => {}
  })
  early.get('/', tell)
  await early.inject({ url: '/' })
  t.notMatch(lines.join(''), 'was checked')
  await early.inject({ url: '/?token=our1' })
  t.match(lines.join(''), 'was checked')
})

t.test('the plugin adds one preHandler hook, and with hook: onRequest another one against later sessions', async t => {
  for (const [hook, names] of [['preHandler', ['onRequest', 'preHandler', 'onSend']], [
    'onRequest', ['onRequest', 'onRequest', 'preHandler', 'onSend']
  ]] as const) {
    const app = Fastify()
    const added = t.capture(app, 'addHook')
    addAuthentication(app, {
      disables: () => 0,
      tokens: {} as unknown as Tokens,
      isEnabled: () => true,
      hook,
      queryParameter: 'token',
      audit: { reportRejection () {} },
      connections: { cut () {} },
      expiryHeader: false,
      sendError: async () => {}
    })
    t.strictSame(added().map(({ args: [name] }) => name), names)
  }
})

t.test('a refused WebSocket upgrade is closed once the refusal is sent', async t => {
  const { app, answer } = await createHooked(t)
  answer(() => ({ refused: 'invalid', reason: 'bad signature' }))
  let ended = 0
  app.addHook('onRequest', (request, _reply, done) => {
    Object.assign(request.raw, { upgrade: request.headers['x-upgrade'] !== undefined })
    Object.assign(request.raw.socket, { destroySoon () { ended++ } })
    done()
  })
  app.get('/ws', tell)
  await app.inject({ url: '/ws', headers: OURS })
  t.equal(ended, 0, 'any other keeps its connection')
  await app.inject({ url: '/ws', headers: { ...OURS, 'x-upgrade': 'yes' } })
  t.equal(ended, 1)
})

t.test('every request has a place for its state from the start, so that all have one shape', async t => {
  const { app } = await createHooked(t)
  const symbols = (request: object | null): symbol[] => request === null
    ? []
    : [
        ...Object.getOwnPropertySymbols(request), ...symbols(Object.getPrototypeOf(request) as object | null)
      ]
  app.get('/symbols', async request => symbols(request).map(({ description }) => description))
  t.ok((await app.inject({ url: '/symbols' })).json<string[]>().includes('fastify-mmc-tokens.request'))
})

t.test('a route is asked for its options, which costs more, only where there may be a credential', async t => {
  const { app, read } = await createHooked(t)
  await app.inject('/')
  await app.inject('/401?other=our1')
  await app.inject({ url: '/', headers: { cookie: 'token=our1' } })
  t.strictSame(read, [])
  await app.inject('/?token=our1')
  await app.inject({ url: '/?basic', headers: { authorization: 'Basic our1' } })
  t.strictSame(read, ['/?token=our1', '/?basic'])

  const withoutQuery = await createHooked(t, { parameter: false })
  await withoutQuery.app.inject('/?token=our1&false=our1')
  t.strictSame(withoutQuery.read, [])
})

const BODY = JSON.stringify(NEW_TOKEN)

/**
 * A request of which only the headers and the first bytes of the body have arrived, and that has passed the guards in
 * `onRequest`.
 */
class Parked {
  readonly #socket: Socket
  readonly #isChunked: boolean

  private constructor (socket: Socket, isChunked: boolean) {
    this.#socket = socket
    this.#isChunked = isChunked
  }

  static async send (
    t: Test, app: FastifyInstance, path: string, token: string, { isChunked = false } = {}
  ): Promise<Parked> {
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    const length = isChunked ? 'transfer-encoding: chunked' : `content-length: ${BODY.length}`
    const begin = isChunked ? `5\r\n${BODY.slice(0, 5)}\r\n` : BODY.slice(0, 5)
    const admitted = new Promise<void>(resolve => { admit = resolve })
    const authorization = path.includes('?') ? '' : `authorization: Bearer ${token}\r\n`
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${authorization}content-type: application/json\r\n${length}\r\n\r\n${begin}`
    )
    await admitted
    return new Parked(socket, isChunked)
  }

  async finish (): Promise<{ status: number, text: string }> {
    const rest = BODY.slice(5)
    this.#socket.write(this.#isChunked ? `${rest.length.toString(16)}\r\n${rest}\r\n0\r\n\r\n` : rest)
    let text = ''
    this.#socket.on('data', chunk => { text += String(chunk) })
    await once(this.#socket, 'close')
    return { status: Number(text.split(' ')[1]), text }
  }
}

/** Called when a request has passed the guards of the host in `onRequest`. */
let admit = (): void => {}

interface Options { hook?: 'onRequest' | 'preHandler', events?: TokenEvent[] }

/**
 * A host with its guard where the plugin's hook is, and routes before and after the plugin, each of which says whom it
 * acts for.
 */
async function createHost (t: Test, { hook = 'onRequest', events }: Options = {}) {
  const database = await createDatabase(t)
  const { app, addTokens, issue } = await createBareHost(t)
  const acts: unknown[] = []
  const act = async (request: FastifyRequest): Promise<unknown> => {
    acts.push(who(request))
    return who(request)
  }
  await app.register(async child => { child.post('/early', act) })
  await addTokens({
    postgres: database.url,
    schema: database.schema,
    hook,
    expiryHeader: true,
    ...events &&
    { onEvent: event => { events.push(event) } }
  })
  if (hook === 'onRequest') {
    app.addHook('onRequest', async (request, reply) => {
      if (who(request).user === null) return await reply.code(418).send('the guard')
    })
  }
  // Fastify reads the body after this.
  app.addHook('preParsing', async () => { admit() })
  app.addHook('preValidation', async request => {
    if (request.headers['x-anonymous'] !== undefined) Object.assign(request, { applicationToken: null, user: null })
  })
  app.post('/act', act)
  app.setNotFoundHandler(async request => await act(request))
  await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, issue, acts, database }
}

t.test("a token that is revoked while a request is still being sent is a 401 on any route, even after the host's guard accepted it", async t => {
  const events: TokenEvent[] = []
  const { app, issue, acts } = await createHost(t, { events })
  for (const path of ['/api/tokens', '/early', '/act', '/missing', 'in the query']) {
    for (const isChunked of [false, true]) {
      const { token, hash } = await issue({ role: 'admin' })
      const parked = await Parked.send(
        t, app, path === 'in the query' ? `/act?token=${token}` : path, token, { isChunked }
      )
      const { accepted } = (await app.tokens.metrics()).authentications
      await app.tokens.revoke(hash)
      const { status, text } = await parked.finish()
      t.equal(status, 401, path)
      t.match(text, '{"code":"UNAUTHORIZED","message":"The token is not valid","data":{"session":false}}')
      t.match(text, /www-authenticate: Bearer realm="cedalo", error="invalid_token"/)
      t.equal(/referrer-policy: no-referrer/.test(text), path === 'in the query')
      const { authentications } = await app.tokens.metrics()
      t.strictSame([authentications.accepted, authentications.unknown], [accepted, 0], 'counted once')
      t.match(events.filter(event => event.type === 'authentication.rejected' &&
        event.hash === hash), [{ reason: 'unknown or revoked' }], 'reported once')
    }
  }
  t.strictSame(acts, [])
  t.strictSame((await app.tokens.list()).filter(({ name }) => name === NEW_TOKEN.name), [])
})

t.test('a token that expires, or gets another role or name, while a request is still being sent is a 401', async t => {
  const { app, issue, database } = await createHost(t)
  for (const change of ["valid_until = '2000-01-01'", "role = 'editor'", "name = 'renamed'"]) {
    const { token, hash } = await issue({ role: 'admin' })
    const profile = async (): Promise<string> => (await app.inject(
      { method: 'POST', url: '/act', headers: bearer(token) }
    )).body
    const parked = await Parked.send(t, app, '/api/tokens', token)
    const before = await profile()
    await database.query(`UPDATE tokens SET ${change} WHERE hash = $1`, [hash])
    await until(async () => await profile() !== before)
    t.equal((await parked.finish()).status, 401, change)
  }
})

t.test('if tokens are disabled while a request is still being sent, it is a 404 on the four routes and a 401 on others, even if they are enabled again', async t => {
  const { app, issue } = await createHost(t)
  const { token } = await issue({ role: 'admin' })
  for (const isChunked of [false, true]) {
    for (const [path, status, code] of [
      ['/api/tokens', 404, 'NOT_FOUND'], ['/act', 401, 'UNAUTHORIZED'], [`/act?token=${token}`, 401, 'UNAUTHORIZED']
    ] as const) {
      const parked = await Parked.send(t, app, path, token, { isChunked })
      await app.tokens.disable()
      const answer = await parked.finish()
      t.match([answer.status, answer.text], [status, code], path)
      await app.tokens.enable()
    }
  }
  const parked = await Parked.send(t, app, '/act', token)
  await app.tokens.disable()
  await app.tokens.enable()
  t.match(await parked.finish(), { status: 200, text: '"user":{"username":"token:' })
})

t.test('with hook: preHandler, a request that is still being sent when tokens are disabled is as without the plugin', async t => {
  const { app, issue } = await createHost(t, { hook: 'preHandler' })
  const { token, hash } = await issue({ role: 'admin' })
  const parked = await Parked.send(t, app, '/act', token)
  await app.tokens.disable()
  t.match(await parked.finish(), { status: 200, text: '{"user":null,"token":null}' })
  await app.tokens.enable()
  const later = await Parked.send(t, app, '/api/tokens', token)
  await app.tokens.revoke(hash)
  t.equal((await later.finish()).status, 401)
})

t.test('a token is used and counted once per request, although it is checked twice', async t => {
  const { app, issue } = await createHost(t)
  const { token, hash } = await issue()
  const { accepted } = (await app.tokens.metrics()).authentications
  const { cacheHits } = await app.tokens.metrics()
  const parked = await Parked.send(t, app, '/act', token)
  const used = (await app.tokens.get(hash))?.lastUsed
  await setTimeout(20)
  t.match(await parked.finish(), { status: 200 })
  t.equal((await app.tokens.get(hash))?.lastUsed, used)
  const metrics = await app.tokens.metrics()
  t.strictSame([metrics.authentications.accepted, metrics.cacheHits], [accepted + 1, cacheHits])
})

t.test('an unreachable store after the body has arrived is a 500, and a token that the host removed is not restored', async t => {
  const { app, issue, database } = await createHost(t)
  const { token } = await issue()
  t.match(
    (await app.inject({ method: 'POST', url: '/act', headers: { ...bearer(token), 'x-anonymous': 'yes' } })).json(),
    { user: null, token: null }
  )

  const parked = await Parked.send(t, app, '/act', token)
  // What is believed of it is void, and Postgres does not say.
  await database.query("UPDATE tokens SET role = 'editor'")
  await database.query('ALTER TABLE tokens RENAME TO elsewhere')
  await until(
    async () => (await app.inject({ method: 'POST', url: '/act', headers: bearer(token) })).statusCode === 500
  )
  t.match(await parked.finish(), { status: 500, text: '"code":"INTERNAL_ERROR"' })
})

t.test('with "expiryHeader", each response to a request with a token has its expiry as an HTTP date', async t => {
  const { app, issue, login } = await buildHost(t, { tokens: { expiryHeader: true } })
  const { token } = await issue({ validUntil: '2998-02-03T04:05:06Z' })
  const admin = await issue({ role: 'admin', validUntil: '2998-02-03T04:05:06Z' })
  const headerOf = async (url: string, headers = {}): Promise<unknown> => (await app.inject({ url, headers })).headers['application-token-expires']
  const expected = 'Sat, 03 Feb 2998 04:05:06 GMT'
  for (const url of ['/api/viewer', '/api/editor', '/nowhere']) {
    t.equal(
      await headerOf(url, bearer(token)), expected, `${url}, whatever the answer`
    )
  }
  t.equal(await headerOf(`/api/viewer?token=${token}`), expected)
  t.equal(await headerOf('/api/tokens', bearer(admin.token)), expected)
  t.equal(new Date(expected).toISOString(), '2998-02-03T04:05:06.000Z', 'Date reads it')
  t.equal(await headerOf('/api/viewer', await login()), undefined, 'a session has none')
  t.equal(await headerOf('/api/viewer', bearer(FORGED)), undefined)
  t.equal(await headerOf('/api/viewer'), undefined)
})

t.test('the header has the earlier expiry of the row and the claim', async t => {
  const { app, database, issue } = await buildHost(t, { tokens: { expiryHeader: true } })
  for (const [validUntil, expected] of [['2997-01-01Z', '01 Jan 2997'], ['2999-06-01Z', '03 Feb 2998']]) {
    const { hash, token } = await issue({ validUntil: '2998-02-03T04:05:06Z' })
    await database.query('UPDATE tokens SET valid_until = $2 WHERE hash = $1', [hash, validUntil])
    t.match(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).headers['application-token-expires'], expected
    )
  }
})

t.test('without the option, no response has the header', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue({ role: 'admin' })
  for (const url of ['/api/viewer', '/api/tokens']) {
    t.notOk(
      'application-token-expires' in (await app.inject({ url, headers: bearer(token) })).headers
    )
  }
})

const OWN_HEADERS = ['cache-control', 'referrer-policy', 'application-token-expires']
const EXPIRES = 'Thu, 01 Jan 2099 00:00:00 GMT'

interface Host { app: FastifyInstance, port: number, token: string }
type Pairs = Array<[name: string, value: string]>

async function createRawHost (
  t: Test, app: FastifyInstance, options: Partial<TokensPluginOptions> = {}
): Promise<Host> {
  const { url: postgres, schema } = await createDatabase(t)
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET, ...options })
  app.get('/hijack', async (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: 1\n\n')
  })
  app.get('/pipe', async (_request, reply) => {
    reply.hijack()
    Readable.from(['data: 1\n\n']).pipe(reply.raw as NodeJS.WritableStream)
  })
  app.get('/raw', (_request, reply) => { reply.raw.end('not even hijacked') })
  const own = { 'Cache-Control': 'no-cache', 'Referrer-Policy': 'origin', 'Application-Token-Expires': 'never' }
  app.get('/own', async (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, own).end()
  })
  app.get('/own/array', async (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, Object.entries(own).flat()).end()
  })
  app.get('/own/set', async (_request, reply) => {
    reply.hijack()
    for (const [name, value] of Object.entries(own)) reply.raw.setHeader(name, value)
    reply.raw.end()
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x'
  })
  return { app, port: (app.server.address() as AddressInfo).port, token }
}

/** The headers of an answer, each as often as it is on the wire. */
async function headersOf (port: number, path: string, headers = {}): Promise<Pairs> {
  const [answer] = await once(get({ port, path, headers, agent: false }), 'response') as [IncomingMessage]
  await once(answer.resume(), 'end')
  const { rawHeaders } = answer
  return rawHeaders.flatMap((name, index): Pairs =>
    index % 2 === 0 ? [[name.toLowerCase(), String(rawHeaders[index + 1])]] : [])
}

function ours (headers: Pairs): Pairs {
  return headers.filter(([name]) => OWN_HEADERS.includes(name)).sort()
}

const PRIVATE: Pairs = [['cache-control', 'no-store'], ['referrer-policy', 'no-referrer']]
const EXPIRY: Pairs = [['application-token-expires', EXPIRES]]

t.test('raw responses of a handler have the headers of a query token and of "expiryHeader", unless it sets its own', async t => {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    for (const expiryHeader of [false, true]) {
      const { port, token } = await createRawHost(t, Fastify(), { hook, expiryHeader })
      const expiry = expiryHeader ? EXPIRY : []
      for (const path of ['/hijack', '/pipe', '/raw']) {
        t.strictSame(ours(await headersOf(port, `${path}?token=${token}`)), [...expiry, ...PRIVATE], path)
        t.strictSame(ours(await headersOf(port, path, bearer(token))), expiry, `${path} by header`)
        t.strictSame(ours(await headersOf(port, `${path}?token=kept`)), [], `${path} with what is no token`)
      }
      for (const path of ['/own', '/own/array', '/own/set']) {
        const own = [
          ['application-token-expires', 'never'], ['cache-control', 'no-cache'], ['referrer-policy', 'origin']
        ]
        t.strictSame(ours(await headersOf(port, `${path}?token=${token}`)), own, path)
      }
    }
  }
})

t.test('responses of Fastify have each of these headers once, and are otherwise unchanged', async t => {
  const app = Fastify()
  await app.register(websocket)
  await app.register(serveStatic, { root: import.meta.dirname, prefix: '/files/', maxAge: 60_000 })
  app.get('/header', async (_request, reply) =>
    reply.headers({ 'Cache-Control': 'public', 'set-cookie': ['a=1', 'b=2'] }).send('x'))
  app.get('/stream', async () => Readable.from(['x']))
  app.get('/web', async () => new Response('x', {
    status: 201, headers: [['cache-control', 'public'], ['set-cookie', 'a=1'], ['set-cookie', 'b=2']]
  }))
  app.get('/fetched', async () => await fetch(`http://127.0.0.1:${port}/header`))
  app.get('/empty', async (_request, reply) => reply.code(204).send())
  app.get('/throw', async () => { throw new Error('no luck') })
  app.get('/ws', { websocket: true }, socket => { socket.close() })
  const { port, token } = await createRawHost(t, app, { expiryHeader: true })
  for (const path of [
    '/header', '/stream', '/web', '/fetched', '/empty', '/throw', '/missing', '/files/raw-answers.test.ts'
  ]) {
    const [query, header] = [
      await headersOf(port, `${path}?token=${token}`), await headersOf(port, path, bearer(token))
    ]
    t.strictSame(ours(query), [...EXPIRY, ...PRIVATE], path)
    t.strictSame(ours(header).filter(([name]) => name !== 'cache-control'), EXPIRY, path)
    const others = (headers: Pairs): Pairs => headers.filter(([name]) => !OWN_HEADERS.includes(name) && name !== 'date')
    t.strictSame(others(query), others(header), path)
  }
  t.match((await app.inject({ url: `/header?token=${token}` })).headers, {
    'cache-control': 'no-store', 'set-cookie': ['a=1', 'b=2']
  })
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws?token=${token}`)
  const [{ statusCode }] = await once(socket, 'upgrade') as [IncomingMessage]
  t.equal(statusCode, 101)
  await once(socket, 'close')
})

t.test('a hook of the host that has already begun the response is not disturbed', async t => {
  const app = Fastify()
  app.addHook('onRequest', async (_request, reply) => { reply.raw.writeHead(200, { 'x-begun': 'yes' }) })
  const { port, token } = await createRawHost(t, app, { expiryHeader: true })
  t.match(await headersOf(port, `/raw?token=${token}`), [['x-begun', 'yes']])
})

t.test('the same headers are set over HTTP/2', async t => {
  const { port, token } = await createRawHost(
    t, Fastify({ http2: true }) as unknown as FastifyInstance, { expiryHeader: true }
  )
  const client = connectRaw(`http://127.0.0.1:${port}`)
  t.teardown(() => { client.close() })
  for (const [path, cache] of [['/hijack', 'no-store'], ['/own', 'no-cache'], ['/missing', 'no-store']] as const) {
    const stream = client.request({ ':path': `${path}?token=${token}` })
    const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
    t.match(headers, { 'cache-control': cache, 'application-token-expires': path === '/own' ? 'never' : EXPIRES }, path)
    await text(stream)
  }
})
