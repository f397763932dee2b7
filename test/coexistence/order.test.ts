import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { createBareHost, FORGED, NEW_TOKEN, who } from '../support/bare-host.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'

const TOKEN = { user: { username: 'token:t1', roles: ['viewer'] }, token: 't1' }
const OFFLINE = { postgres: 'postgres://nobody@127.0.0.1:1/x', secret: SECRET, enabled: false }

/** The guard of a host that knows nothing of tokens. */
async function guard (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
  if (who(request).user === null) return await reply.code(418).send({ host: 'log in' })
}

t.test("a guard that runs before the plugin's hook sees no token, in an earlier preHandler and in an earlier phase", async t => {
  for (const [phase, isBefore] of [
    ['preHandler', true], ['onRequest', true], ['onRequest', false], ['preValidation', false]
  ] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    if (isBefore) app.addHook(phase as 'preHandler', guard)
    await addTokens()
    if (!isBefore) app.addHook(phase as 'preHandler', guard)
    app.get('/', async request => who(request))
    t.equal(
      (await app.inject({ url: '/', headers: bearer((await issue()).token) })).statusCode,
      418,
      `${phase}, ${isBefore ? 'before' : 'after'} us`
    )
  }
})

t.test('a host that replaces request.headers gets the errors of a body in their order, too', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  app.addHook('onRequest', async request => { request.headers = { ...request.headers, 'x-host': '1' } })
  await addTokens()
  const { token } = await issue({ role: 'admin' })
  for (const [type, headers, status] of [
    ['garbage', {}, 401],
    ['garbage', bearer(token), 415],
    ['application/json;charset=latin1', bearer(token), 415],
    ['application/json ; charset=UTF-8', bearer(token), 200]
  ] as const) {
    const answer = await app.inject({
      method: 'POST', url: '/api/tokens', headers: { 'content-type': type, ...headers }, payload: NEW_TOKEN
    })
    t.equal(answer.statusCode, status, type)
  }
})

t.test('with hook: onRequest, guards in onRequest, preParsing and preValidation see the token, on the host, on routes and in children', async t => {
  for (const phase of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    for (const level of ['host', 'route', 'child'] as const) {
      const { app, addTokens, issue } = await createBareHost(t)
      await addTokens({ hook: 'onRequest' })
      const hook = phase === 'preParsing'
        ? async (request: FastifyRequest, reply: FastifyReply) => { await guard(request, reply) }
        : guard
      if (level === 'host') app.addHook(phase as 'preHandler', hook)
      await app.register(async child => {
        if (level === 'child') child.addHook(phase as 'preHandler', hook)
        child.post(
          '/', level === 'route' ? { [phase]: hook } : {}, async request => ({ ...who(request), query: request.query })
        )
      })
      const { token } = await issue()
      const ask = async (request: object): Promise<unknown> => (await app.inject(
        { method: 'POST', url: '/', ...request }
      )).json()
      t.strictSame(await ask({ headers: bearer(token) }), { ...TOKEN, query: {} }, `${phase} of a ${level}`)
      t.strictSame(await ask({ query: { token, a: 1 } }), { ...TOKEN, query: { a: '1' } })
      t.match(await ask({ query: { token }, headers: bearer(token) }), {
        code: 'INVALID', message: 'A request must carry one token, not several'
      })
      t.match(await ask({ headers: bearer(FORGED) }), { code: 'UNAUTHORIZED', message: 'The token is not valid' })
      t.match(await ask({ headers: bearer('opaque') }), { host: 'log in' })
    }
  }
})

t.test('with hook: onRequest, an invalid token is refused before the body is read, and the four routes keep their order of checks', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens({ hook: 'onRequest' })
  app.post('/', async request => request.body)
  const broken = { method: 'POST', payload: '{' } as const
  const type = { 'content-type': 'application/json' }
  const [viewer, admin] = [await issue(), await issue({ role: 'admin' })]
  t.equal((await app.inject({ ...broken, url: '/', headers: { ...type, ...bearer(FORGED) } })).statusCode, 401)
  for (const [headers, status] of [
    [{}, 401], [bearer(FORGED), 401], [bearer(viewer.token), 403],
    [{ ...bearer(admin.token), accept: 'text/html' }, 406], [bearer(admin.token), 400]
  ] as const) {
    t.equal((await app.inject({ ...broken, url: '/api/tokens', headers: { ...type, ...headers } })).statusCode, status)
  }
  t.equal((await app.inject(
    { method: 'POST', url: '/api/tokens', headers: bearer(admin.token), payload: NEW_TOKEN }
  )).statusCode, 200)
})

t.test('tokens work with routes and guards in nested children, declared before and after the plugin, with a base path', async t => {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    const declare = async (when: string): Promise<void> => {
      app.get(`/${when}`, { [hook]: guard }, async request => who(request))
      await app.register(async child => {
        child.get('/child', { [hook]: guard }, async request => who(request))
        await child.register(
          async grandchild => { grandchild.get('/grandchild', { [hook]: guard }, async request => who(request)) },
          { prefix: '/deep' }
        )
      }, { prefix: `/${when}` })
    }
    await declare('before')
    await addTokens({ hook })
    await declare('after')
    const { token } = await issue()
    for (const url of [
      '/before', '/before/child', '/before/deep/grandchild', '/after', '/after/child', '/after/deep/grandchild'
    ]) {
      t.strictSame((await app.inject({ url, headers: bearer(token) })).json(), TOKEN, url)
      t.strictSame((await app.inject({ url, query: { token } })).json(), TOKEN)
      t.equal((await app.inject({ url, headers: bearer(FORGED) })).statusCode, 401)
      t.equal((await app.inject({ url })).statusCode, 418)
    }
  }
})

t.test('requireRole works in a child that was registered before the plugin', async t => {
  for (const phase of ['onRequest', 'preHandler'] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    await app.register(async child => {
      child.addHook(phase as 'preHandler', async request => {
        if (request.headers['x-session'] !== undefined) {
          (request as { user?: unknown }).user = {
            username: 'u', roles: ['viewer']
          }
        }
        await app.tokens.requireRole('viewer')(request)
      })
      child.get('/', async request => who(request))
    })
    await addTokens()
    t.equal((await app.inject({ url: '/' })).statusCode, 401, phase)
    t.equal((await app.inject({ url: '/', headers: { 'x-session': 'x' } })).statusCode, 200, phase)
    t.equal(
      (await app.inject({ url: '/', headers: bearer((await issue()).token) })).statusCode,
      401,
      'what can not work: it runs before our hook'
    )
  }
})

t.test('two hosts in one process do not affect each other: secret, issuer, database, enabled', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { tokens: { secret: `${SECRET} of the second` } })
  const other = await buildHost(t, { tokens: { issuer: 'other' } })
  const same = await buildHost(t, { database: one.database })
  const status = async ({ app }: typeof one, token: string): Promise<number> => (await app.inject(
    { url: '/api/viewer', headers: bearer(token) }
  )).statusCode
  const [ofOne, ofTwo, ofOther] = [(await one.issue()).token, (await two.issue()).token, (await other.issue()).token]
  t.strictSame(
    await Promise.all([one, two, other, same].map(async host => await status(host, ofOne))), [200, 401, 401, 200]
  )
  t.strictSame(
    await Promise.all([one, two, other, same].map(async host => await status(host, ofTwo))), [401, 200, 401, 401]
  )
  t.strictSame(await Promise.all([one, two, other, same].map(async host =>
    await status(host, ofOther))), [401, 401, 200, 401])

  await same.app.tokens.disable()
  t.strictSame([one.app.tokens.enabled, same.app.tokens.enabled], [true, false])
  t.strictSame([await status(one, ofOne), await status(same, ofOne)], [200, 401])
  t.strictSame([
    (await one.app.inject({ url: '/api/tokens' })).statusCode,
    (await same.app.inject({ url: '/api/tokens' })).statusCode
  ], [401, 404])
  await two.app.close()
  t.strictSame([await status(one, ofOne), await status(other, ofOther)], [200, 200])
})

t.test('the registration is rejected with a clear error in a child, the second time, and beside a decorator "tokens" of the host', async t => {
  const code = 'MMC_TOKENS_HOST'
  const inChild = Fastify()
  t.teardown(() => inChild.close())
  await t.rejects(async () => {
    await inChild.register(async child => { await child.register(tokensPlugin, OFFLINE) })
  }, {
    code, message: 'fastify-mmc-tokens is registered in a child of the host, where its hooks miss other routes: register it at the root, with the option "prefix" for a base path'
  })
  const message = 'app.tokens exists already: register fastify-mmc-tokens once, and add no decorator "tokens"'
  const twice = Fastify()
  t.teardown(() => twice.close())
  await twice.register(tokensPlugin, OFFLINE)
  await t.rejects(async () => { await twice.register(tokensPlugin, OFFLINE) }, { code, message })
  const decorated = Fastify().decorate('tokens', {} as never)
  t.teardown(() => decorated.close())
  await t.rejects(async () => { await decorated.register(tokensPlugin, OFFLINE) }, { code, message })
})

t.test("a route of the host at a path of the plugin is a clear error, whose cause is Fastify's", async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.get('/base/api/tokens', async () => 'mine')
  await t.rejects(async () => { await app.register(tokensPlugin, { ...OFFLINE, prefix: '/base' }) }, {
    code: 'MMC_TOKENS_HOST',
    message: 'the host already has a route at or below /base/api/tokens: remove it, or move those of the plugin with the option "prefix"',
    cause: {
      code: 'FST_ERR_DUPLICATED_ROUTE'
    }
  })
})

t.test('an error of the host while the plugin adds its routes is not changed', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRoute', () => { throw new RangeError('of the host') })
  await t.rejects(async () => { await app.register(tokensPlugin, OFFLINE) }, {
    name: 'RangeError', message: 'of the host'
  })
})

const DECORATORS: Record<string, unknown> = {
  'an object': { sign: () => 'signed' },
  'a frozen object': Object.freeze({ sign: () => 'signed' }),
  'a function': () => 'signed',
  'a text': 'signed'
}
for (const [what, own] of Object.entries(DECORATORS)) {
  t.test(`a decorator "jwt" of the host that is not @fastify/jwt, ${what}, is not changed`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    app.decorate('jwt', own as never)
    const before = Object.keys(own as object)
    await addTokens()
    t.equal(app.jwt as unknown, own)
    t.strictSame(Object.keys(own as object), before)
    app.get('/', async request => who(request))
    t.strictSame((await app.inject({ url: '/', headers: bearer((await issue()).token) })).json(), TOKEN)
  })
}
