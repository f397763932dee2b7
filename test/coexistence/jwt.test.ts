import cookie from '@fastify/cookie'
import jwt, { type JWT } from '@fastify/jwt'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { createBareHost, FORGED, inOrder, NEW_TOKEN, ORDERS, who } from '../support/bare-host.js'
import { bearer, SECRET } from '../support/build-host.js'

const OTHER = 'a secret of the host, long enough: 0123456789'
const ADMIN = { username: 'root', roles: ['admin'] }
const PRINCIPAL = { username: 'token:t1', roles: ['viewer'] }

/** The guard that every host with @fastify/jwt has. */
async function verify (request: FastifyRequest): Promise<void> {
  await request.jwtVerify()
}

for (const order of ORDERS) {
  for (const secret of [OTHER, SECRET]) {
    for (const iss of [undefined, 'host']) {
      t.test(`a host's @fastify/jwt ${order}, with ${secret === SECRET ? 'the same' : 'another'} secret and iss ${iss}: neither accepts the other's tokens`, async t => {
        const { app, addTokens, issue } = await createBareHost(t)
        await inOrder(order, async () => { await app.register(jwt, { secret }) }, addTokens)
        app.get('/on-request', { onRequest: verify }, async request => who(request))
        app.get('/pre-handler', { preHandler: verify }, async request => who(request))
        app.get('/open', async request => who(request))
        const theirs = app.jwt.sign({
          ...ADMIN,
          role: 'admin',
          jti: 'x',
          ...iss !== undefined &&
          { iss }
        }, { expiresIn: '1h' })
        const { token } = await issue({ role: 'admin' })

        for (const url of ['/on-request', '/pre-handler']) {
          t.match((await app.inject({ url, headers: bearer(theirs) })).json(), { user: ADMIN, token: null })
          const refused = await app.inject({ url, headers: bearer(token) })
          t.match([refused.statusCode, refused.json()], [401, { code: 'FST_JWT_AUTHORIZATION_TOKEN_INVALID' }])
        }
        t.throws(() => app.jwt.verify(token))
        for (const request of [{ headers: bearer(theirs) }, { query: { token: theirs } }]) {
          t.strictSame((await app.inject({ url: '/open', ...request })).json(), { user: null, token: null })
          const answer = await app.inject({ url: '/api/tokens', ...request })
          t.match([answer.statusCode, answer.json(), answer.headers['www-authenticate']], [
            401, { message: 'Log in, or present a token' }, /^Bearer realm="cedalo"$/
          ])
        }
        for (const request of [{ headers: bearer(token) }, { query: { token } }]) {
          t.strictSame((await app.inject({ url: '/open', ...request })).json(), {
            user: { username: 'token:t1', roles: ['admin'] }, token: 't1'
          })
        }
      })
    }
  }
}

t.test('a host whose JWTs have the default issuer sets another one', async t => {
  for (const issuer of ['cedalo', 'cedalo-tokens']) {
    const { app, addTokens, issue } = await createBareHost(t)
    await app.register(jwt, { secret: SECRET })
    await addTokens({ issuer })
    app.get(
      '/',
      { preHandler: async request => { if (request.applicationToken === null) await request.jwtVerify() } },
      async request => who(request)
    )
    const theirs = await app.inject({ url: '/', headers: bearer(app.jwt.sign({ ...ADMIN, iss: 'cedalo' })) })
    if (issuer === 'cedalo') {
      t.match(
        [theirs.statusCode, theirs.json()],
        [401, { message: 'The token is not valid' }],
        'what claims to be ours is judged by us'
      )
    } else t.match(theirs.json(), { user: ADMIN, token: null })
    t.strictSame((await app.inject({ url: '/', headers: bearer((await issue()).token) })).json(), {
      user: PRINCIPAL, token: 't1'
    })
  }
})

const FIRST_LOOKS = {
  'request.applicationToken': async (request: FastifyRequest) => {
    if (!request.applicationToken) await request.jwtVerify()
  },
  'request.user': async (request: FastifyRequest) => { if (!who(request).user) await request.jwtVerify() }
}
for (const [hook, phase] of [
  ['preHandler', 'preHandler'], ['onRequest', 'onRequest'], ['onRequest', 'preHandler']
] as const) {
  for (const order of ORDERS) {
    t.test(`a guard in ${phase} that first checks request.user accepts tokens with hook: ${hook}, on the host and on a route, @fastify/jwt ${order}`, async t => {
      for (const [what, guard] of Object.entries(FIRST_LOOKS)) {
        for (const level of ['host', 'route']) {
          const { app, addTokens, issue } = await createBareHost(t)
          await inOrder(
            order, async () => { await app.register(jwt, { secret: SECRET }) }, async () => await addTokens({ hook })
          )
          if (level === 'host') app.addHook(phase as 'preHandler', guard)
          app.get('/', level === 'route' ? { [phase]: guard } : {}, async request => who(request))
          const ask = async (token: string): Promise<unknown> => (await app.inject(
            { url: '/', headers: bearer(token) }
          )).json()
          t.strictSame(await ask((await issue()).token), { user: PRINCIPAL, token: 't1' }, `${what}, ${level}`)
          t.match(await ask(app.jwt.sign(ADMIN)), { user: ADMIN, token: null })
          t.match(await ask('x'), { code: 'FST_JWT_AUTHORIZATION_TOKEN_INVALID' })
          t.match(await ask(FORGED), {
            code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false }
          })
        }
      }
    })
  }
}

t.test("a guard that runs before the plugin's hook refuses tokens, in an earlier phase and in an earlier preHandler", async t => {
  for (const phase of ['onRequest', 'preHandler'] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    await app.register(jwt, { secret: OTHER })
    app.addHook(phase as 'preHandler', FIRST_LOOKS['request.applicationToken'])
    await addTokens()
    app.get('/', async request => who(request))
    t.match((await app.inject({ url: '/', headers: bearer((await issue()).token) })).json(), {
      code: 'FST_JWT_AUTHORIZATION_TOKEN_INVALID'
    })
    t.match((await app.inject({ url: '/', headers: bearer(app.jwt.sign(ADMIN)) })).json(), { user: ADMIN, token: null })
  }
})

t.test('in a host whose sessions are its own JWTs, an admin manages tokens with one and a viewer does not', async t => {
  for (const phase of ['onRequest', 'preValidation', 'preHandler'] as const) {
    const { app, addTokens } = await createBareHost(t)
    await app.register(jwt, { secret: SECRET })
    await addTokens()
    app.addHook(phase as 'preHandler', async request => {
      if (!request.applicationToken) await request.jwtVerify().catch(() => {})
    })
    const headers = bearer(app.jwt.sign(ADMIN))
    const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: NEW_TOKEN })
    t.match([created.statusCode, created.json()], [200, { name: 'new', requestedBy: 'root' }], phase)
    t.equal(
      (await app.inject({ url: '/api/tokens', headers: bearer(created.json<{ token: string }>().token) })).statusCode,
      403
    )
    t.equal((await app.inject(
      { url: '/api/tokens', headers: bearer(app.jwt.sign({ ...ADMIN, roles: ['viewer'] })) }
    )).statusCode, 403)
    t.equal((await app.inject({ url: '/api/tokens' })).statusCode, 401)
    const refused = await app.inject({ url: `/api/tokens?token=${FORGED}`, headers })
    t.strictSame(
      refused.json<{ data: unknown }>().data,
      { session: phase !== 'preHandler' },
      'a guard that runs after us has not told yet who is logged in'
    )
  }
})

t.test('in a host that keeps its JWT in a cookie, the cookie is the session, and a bearer token takes precedence', async t => {
  for (const order of ORDERS) {
    const { app, addTokens, issue } = await createBareHost(t)
    await app.register(cookie)
    await inOrder(
      order,
      async () => { await app.register(jwt, { secret: SECRET, cookie: { cookieName: 'session', signed: false } }) },
      addTokens
    )
    app.get(
      '/',
      { preHandler: async request => { if (!request.applicationToken) await request.jwtVerify({ onlyCookie: true }) } },
      async request => who(request)
    )
    const cookies = { session: app.jwt.sign(ADMIN) }
    const { token } = await issue()
    t.match((await app.inject({ url: '/', cookies })).json(), { user: ADMIN, token: null })
    t.match((await app.inject({ url: '/', cookies, headers: bearer('opaque') })).json(), { user: ADMIN, token: null })
    for (const request of [{ headers: bearer(token) }, { query: { token } }]) {
      t.strictSame((await app.inject({ url: '/', cookies, ...request })).json(), { user: PRINCIPAL, token: 't1' })
      t.strictSame((await app.inject({ url: '/', ...request })).json(), { user: PRINCIPAL, token: 't1' })
    }
    t.equal((await app.inject({ url: '/' })).statusCode, 401)
  }
})

/** `app.jwt` where its registrations have namespaces. */
function namespaces (app: FastifyInstance): Record<string, JWT> {
  return app.jwt as unknown as Record<string, JWT>
}

for (const order of ORDERS) {
  t.test(`a host's @fastify/jwt with one namespace or two, ${order}: each accepts only its own tokens`, async t => {
    for (const names of [['one'], ['one', 'two']]) {
      const { app, addTokens, issue } = await createBareHost(t)
      await inOrder(order, async () => {
        for (const namespace of names) {
          await app.register(jwt, {
            namespace, secret: namespace === 'one' ? SECRET : OTHER
          })
        }
      }, addTokens)
      const { token } = await issue()
      for (const name of names) {
        const guard = async (request: FastifyRequest): Promise<void> => {
          await (request as unknown as Record<string, () => Promise<void>>)[`${name}JwtVerify`]?.()
        }
        app.get(`/${name}`, { onRequest: guard }, async request => who(request))
        app.get(
          `/${name}-or-token`,
          { preHandler: async request => { if (!request.applicationToken) await guard(request) } },
          async request => who(request)
        )
      }
      for (const name of names) {
        for (const other of names) {
          const answer = await app.inject({
            url: `/${name}`, headers: bearer(namespaces(app)[other]?.sign(ADMIN) ?? '')
          })
          t.equal(answer.statusCode, name === other ? 200 : 401, `${other}'s at ${name}`)
        }
        t.equal((await app.inject({ url: `/${name}`, headers: bearer(token) })).statusCode, 401, `ours at ${name}`)
        t.strictSame((await app.inject({ url: `/${name}-or-token`, headers: bearer(token) })).json(), {
          user: PRINCIPAL, token: 't1'
        })
      }
    }
  })
}

t.test("the host's app.jwt is not changed", async t => {
  for (const options of [{ secret: SECRET }, { secret: SECRET, namespace: 'one' }]) {
    const { app, addTokens } = await createBareHost(t)
    await app.register(jwt, options)
    const before = Object.keys(app.jwt)
    await addTokens()
    t.strictSame(Object.keys(app.jwt), before)
  }
})
