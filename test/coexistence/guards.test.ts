import type { FastifyRequest } from 'fastify'
import t from 'tap'
import {
  type Session, createRequireRole, createSession as create, requireAdmin as requireAdminOrToken, toPrincipal
} from '../../lib/http/authorize.js'
import { createChallenge } from '../../lib/http/send-error.js'
import type { ApplicationTokens } from '../../lib/index.js'
import type { Log, Token, TokenPrincipal, TokensPluginOptions } from '../../lib/types.js'
import { NEW_TOKEN, createBareHost } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

const log = { warn () {} } as unknown as Log
const createSession = (ask?: TokensPluginOptions['session']) => create(ask, log)
const ME = { username: 'me', roles: ['viewer'] }

t.test('a session that the host returns synchronously stays synchronous, and a promise stays a promise', async t => {
  for (const user of [ME, null]) {
    t.equal(createSession(() => user)({} as FastifyRequest), user)
    const promised = createSession(async () => user)({} as FastifyRequest)
    t.ok(promised instanceof Promise)
    t.equal(await promised, user)
    const thenable = { then: (tell: (answer: typeof user) => void) => { tell(user) } } as Promise<typeof user>
    t.equal(await createSession(() => thenable)({} as FastifyRequest), user, 'also a promise of another make')
  }
})

t.test('without the option "session", request.user is the session', async t => {
  t.equal(createSession()({ user: ME } as never), ME)
  t.equal(createSession()({} as never), null)
})

t.test('a user without a name, with an empty name or without a list of roles is not logged in', async t => {
  for (const user of [
    undefined, null, 'me', 1, {}, { roles: [] }, { username: '', roles: [] }, { username: 1, roles: [] },
    { username: 'me' }, { username: 'me', roles: 'admin' }
  ]) {
    t.equal(createSession(() => user as never)({} as FastifyRequest), null, JSON.stringify(user))
    t.equal(await createSession(async () => user as never)({} as FastifyRequest), null)
  }
})

const token = (role: string): Token => ({
  name: 'a', hash: '', validUntil: '', role, requestedBy: '', issueDate: '', lastUsed: ''
})
const requireAdmin = async (asked: FastifyRequest, session: Session) => await requireAdminOrToken(asked, session, true)
const user = (...roles: string[]): TokenPrincipal => ({ username: 'me', roles })

interface Asked { method?: string, site?: string, token?: Token | null }

function request ({ method = 'GET', site, token = null }: Asked = {}): FastifyRequest {
  return { method, headers: { 'sec-fetch-site': site }, applicationToken: token } as unknown as FastifyRequest
}

t.test('a user with the role admin among others is an admin; if there is a token, only its role counts', async t => {
  t.strictSame(await requireAdmin(request(), () => user('viewer', 'admin')), user('viewer', 'admin'))
  t.strictSame(await requireAdmin(request({ token: token('admin') }), () => user('viewer')), {
    username: 'token:a', roles: ['admin']
  })
  await t.rejects(requireAdmin(request(), () => null), { code: 'UNAUTHORIZED' })
  for (const [asked, session] of [
    [{}, user('viewer', 'editor')], [{}, user()], [{ token: token('viewer') }, user('admin')]
  ] as const) {
    await t.rejects(requireAdmin(request(asked), () => session), {
      code: 'NOT_ALLOWED', message: 'Only an admin may manage tokens'
    })
  }
  await t.rejects(requireAdmin({
    ...request(), applicationToken: undefined
  } as unknown as FastifyRequest, () => null), { code: 'UNAUTHORIZED' })
})

t.test("if tokens may not manage tokens, no token can, and an admin's session can", async t => {
  for (const role of ['admin', 'viewer']) {
    await t.rejects(requireAdminOrToken(request({ token: token(role) }), () => user('admin'), false), {
      code: 'NOT_ALLOWED', message: 'Tokens may not manage tokens here: log in'
    })
  }
  t.strictSame(await requireAdminOrToken(request(), () => user('admin'), false), user('admin'))
})

t.test('a cross-site page can read but not write with a session; a token is not affected', async t => {
  for (const [method, site, isAllowed] of [['POST', 'cross-site', false], ['DELETE', 'cross-site', false], ['GET', 'cross-site', true], ['HEAD', 'cross-site', true],
    ['POST', 'same-site', true], ['POST', 'same-origin', true], ['POST', 'none', true], ['DELETE', undefined, true]] as const) {
    const asking = requireAdmin(request({ method, ...site !== undefined && { site } }), () => user('admin'))
    if (isAllowed) t.match(await asking, user('admin'), `${method} ${site}`)
    else await t.rejects(asking, { code: 'NOT_ALLOWED', message: 'Cross-site requests may not manage tokens' })
  }
  t.match(
    await requireAdmin(request({ method: 'POST', site: 'cross-site', token: token('admin') }), () => null),
    toPrincipal(token('admin'))
  )
})

t.test('requireRole accepts users with one of the roles and admins, and tells others which roles it requires', async t => {
  const guard = (session: TokenPrincipal | null, ...roles: string[]) => async (asked: Asked = {}) => {
    await createRequireRole({ session: () => session, realm: 'here', roles: [], log })(...roles)(request(asked))
  }
  for (const session of [
    user('editor'), user('viewer', 'editor'), user('editor', 'viewer'), user('admin')
  ]) await t.resolves(guard(session, 'editor', 'other')())
  await t.resolves(guard(null, 'editor')({ token: token('editor') }))
  const refusal = async (asking: Promise<void>): Promise<unknown> => await asking.then(() => null, (error: Error) => {
    const { name, message, ...others } = error
    return { ...others, message }
  })
  t.strictSame(await refusal(guard(null, 'editor')()), {
    code: 'UNAUTHORIZED',
    statusCode: 401,
    message: 'Log in, or present a token',
    headers: {
      'www-authenticate': 'Bearer realm="here"'
    },
    data: { session: false }
  })
  for (const session of [user('viewer'), user()]) {
    t.strictSame(await refusal(guard(session, 'editor', 'other')()), {
      code: 'NOT_ALLOWED', statusCode: 403, message: 'Requires one of these roles: admin, editor, other', headers: {}
    })
  }
  t.strictSame(await refusal(guard(user('admin'), 'admin')({ token: token('viewer') })), {
    code: 'NOT_ALLOWED',
    statusCode: 403,
    message: 'Requires one of these roles: admin',
    headers: {
      'www-authenticate': 'Bearer realm="here", error="insufficient_scope"'
    }
  })
})

t.test('a host may change the headers of one refusal, and the next one has its own', async t => {
  const guard = createRequireRole({ session: () => null, realm: 'r', roles: [], log })('viewer')
  const headersOf = async (): Promise<object> => await guard(request({})).then(() => ({}), error => error.headers)
  Object.assign(await headersOf(), { 'www-authenticate': 'Cookie' })
  t.strictSame(await headersOf(), { 'www-authenticate': 'Bearer realm="r"' })
})

t.test('a 401 has a challenge, and so has a 403 to a token', async t => {
  t.strictSame([
    [401, false], [401, true], [403, false], [403, true], [404, true], [200, false]
  ].map(([code, isToken]) => createChallenge('r')(code as number, isToken as boolean)), [
    { 'www-authenticate': 'Bearer realm="r"' },
    { 'www-authenticate': 'Bearer realm="r", error="invalid_token"' },
    {},
    { 'www-authenticate': 'Bearer realm="r", error="insufficient_scope"' },
    {},
    {}
  ])
})

t.test('requireRole accepts roles and arrays of roles, and throws if it is called without one', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/list', { preHandler: app.tokens.requireRole(['editor', 'viewer']) }, async () => 'in')
  app.get('/both', { preHandler: app.tokens.requireRole('editor', ['viewer']) }, async () => 'in')
  const [viewer, other] = [await issue(), await issue({ role: 'connectionManager' })]
  for (const url of ['/list', '/both']) {
    t.equal((await app.inject({ url, headers: bearer(viewer.token) })).body, 'in')
    t.match((await app.inject({ url, headers: bearer(other.token) })).json(), {
      code: 'NOT_ALLOWED', message: 'Requires one of these roles: admin, editor, viewer'
    })
  }
  for (const roles of [[], [[]], [''], [undefined], [null], [5], [['editor', '']], [{}]]) {
    t.throws(
      () => app.tokens.requireRole(...roles as string[]),
      { code: 'MMC_TOKENS_GUARD', message: /^requireRole must be called with one or more roles/ },
      JSON.stringify(roles)
    )
  }
})

t.test('requireRole used without calling it is a 500 for every request', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/', { preHandler: app.tokens.requireRole as never }, async () => 'in')
  const { token } = await issue({ role: 'admin' })
  for (const headers of [{}, bearer(token)]) t.equal((await app.inject({ url: '/', headers })).statusCode, 500)
})

t.test("a role that tokens can't have is logged as a warning once, and users who have it are accepted", async t => {
  const lines: string[] = []
  const { app, addTokens } = await createBareHost(t, {
    logger: {
      level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } }
    }
  })
  await addTokens({ roles: ['admin', 'robot'] })
  for (const role of ['robot', 'edtor', 'edtor', 'admin']) {
    app.get(`/${lines.length}${role}${Math.random()}`, { preHandler: app.tokens.requireRole(role) }, async () => 'in')
  }
  t.strictSame(lines, [
    'requireRole("edtor"): tokens can\'t have this role, only admin, robot; correct it, unless users have it'
  ])
  app.addHook('onRequest', async request => { Object.assign(request, { user: { username: 'me', roles: ['edtor'] } }) })
  app.get('/', { preHandler: app.tokens.requireRole('edtor') }, async () => 'in')
  t.equal((await app.inject('/')).body, 'in')
  for (let n = 0; n < 200; n++) app.tokens.requireRole(`role ${n}`)
  t.equal(lines.length, 100, 'what is warned of is bounded')
})

t.test('an invalid requestedBy or revokedBy in code is a 400 that names the property', async t => {
  const { app, issue } = await buildHost(t)
  const { hash } = await issue()
  const { issue: make, revoke } = app.tokens as { [name in 'issue' | 'revoke']: (...args: unknown[]) => ReturnType<ApplicationTokens[name]> }
  for (const who of [undefined, null, 5, '', ' ', 'a\ud800', 'a\0b']) {
    await t.rejects(
      make({ ...NEW_TOKEN, requestedBy: who }),
      { statusCode: 400, code: 'INVALID', message: /^requestedBy must be a non-empty string/ },
      JSON.stringify(who)
    )
    await t.rejects(
      revoke(hash, { revokedBy: who }),
      { statusCode: 400, code: 'INVALID', message: /^revokedBy must be a non-empty string/ },
      JSON.stringify(who)
    )
  }
  t.match(await app.tokens.issue({ ...NEW_TOKEN, requestedBy: 'Ægir 🦑' }), { requestedBy: 'Ægir 🦑' })
  t.equal(await app.tokens.revoke(hash, { revokedBy: 'Ægir' }), true)
})

t.test('a session of an invalid shape is not logged in, and logged as a warning once; no session is no warning', async t => {
  for (const [bad, option] of [
    [{ name: 'me', role: 'admin' }, true], [{ username: 'me', roles: 'admin' }, true],
    [{ username: 'a\0', roles: ['admin'] }, true], [{ id: 1 }, false]
  ] as const) {
    const lines: string[] = []
    const { app, addTokens } = await createBareHost(t, {
      logger: {
        level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } }
      }
    })
    let user: unknown = null
    app.addHook('onRequest', async request => { Object.assign(request, { user }) })
    await addTokens(option ? { session: () => user as null } : {})
    for (const nobody of [null, undefined, false]) {
      user = nobody
      t.equal((await app.inject('/api/tokens')).statusCode, 401)
    }
    t.strictSame(lines, [])
    user = bad
    for (let n = 0; n < 2; n++) t.equal((await app.inject('/api/tokens')).statusCode, 401)
    t.equal(lines.length, 1)
    t.match(
      lines[0],
      `invalid user, treated as not logged in: ${option ? 'the result of the option "session"' : 'request.user (set the option "session")'} must be null or { username, roles }, such as`
    )
  }
})

for (const [what, status, location] of [
  ['403', 403], ['a redirect to its login page', 302, '/login'], ['a 303', 303, '/login']
] as const) {
  t.test(`a guard that responds with ${what} before the token is checked is logged as a warning once; a redirect to https is not`, async t => {
    const lines: string[] = []
    const { app, addTokens, issue } = await createBareHost(t, {
      logger: {
        level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } }
      }
    })
    await addTokens()
    app.addHook('onRequest', async (request, reply) => {
      if (request.url === '/https') return await reply.redirect('https://here/', 301)
      if ((request as { user?: unknown }).user === undefined) {
        if (location !== undefined) reply.header('location', location)
        return await reply.code(status).send()
      }
    })
    app.get('/', async () => 'in')
    const headers = bearer((await issue()).token)
    t.equal((await app.inject({ url: '/https', headers })).statusCode, 301)
    t.equal((await app.inject('/')).statusCode, status)
    t.strictSame(lines, [])
    for (let n = 0; n < 2; n++) t.equal((await app.inject({ url: '/', headers })).statusCode, status)
    t.equal(lines.length, 1)
    t.ok(lines[0]?.startsWith(`a guard answered ${status} before the token of the request was checked`))
  })
}
