import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import t from 'tap'
import { createBareHost, FORGED, inOrder, NEW_TOKEN, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'
import { routing } from '../support/fastify-version.js'

const TOKEN = { user: { username: 'token:t1', roles: ['viewer'] }, token: 't1' }
const REFUSAL = { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } }

t.test('a strict query schema never sees the token, whether it strips or refuses unknown properties', async t => {
  for (const removeAdditional of [true, false]) {
    const { app, addTokens, issue } = await createBareHost(t, { ajv: { customOptions: { removeAdditional } } })
    const schema = {
      querystring: { type: 'object', properties: { a: { type: 'integer' } }, additionalProperties: false }
    }
    const handler = async (request: Parameters<typeof who>[0]) => ({ ...who(request), query: request.query })
    app.get('/before', { schema }, handler)
    await addTokens()
    app.get('/after', { schema }, handler)
    const { token } = await issue()
    for (const url of ['/before', '/after']) {
      t.strictSame((await app.inject({ url: `${url}?a=1&token=${token}` })).json(), { ...TOKEN, query: { a: 1 } })
      t.strictSame((await app.inject({ url: `${url}?token=${FORGED}` })).json(), REFUSAL)
      t.equal((await app.inject({ url: `${url}?token=opaque` })).statusCode, removeAdditional
        ? 200
        : 400, "the host's own answer")
      t.equal((await app.inject({ url: `${url}?a=x&token=${token}` })).statusCode, 400, "the host's own answer")
    }
  }
})

t.test('a host may decorate request.user with null or with a getter and a setter, before or after the plugin', async t => {
  const kept = new WeakMap<object, unknown>()
  const accessor = {
    getter (this: object) { return kept.get(this) ?? null },
    setter (this: object, user: unknown) { kept.set(this, user) }
  }
  for (const order of ORDERS) {
    for (const decorator of [null, accessor]) {
      const { app, addTokens, issue } = await createBareHost(t)
      await inOrder(order, async () => { app.decorateRequest('user', decorator as typeof accessor) }, addTokens)
      app.get('/', async request => who(request))
      const { token } = await issue()
      t.strictSame((await app.inject({ url: '/' })).json(), { user: null, token: null })
      t.strictSame((await app.inject({ url: '/', headers: bearer(token) })).json(), TOKEN)
      t.strictSame(
        (await app.inject({ url: '/' })).json(), { user: null, token: null }, 'nothing stays for the next request'
      )
      t.equal(
        (await app.inject({ url: '/api/tokens', headers: bearer((await issue({ role: 'admin' })).token) })).statusCode,
        200
      )
    }
  }
})

t.test('with a getter-only request.user, before or after the plugin, requests with a token are 500 and all others work', async t => {
  for (const place of ['the host, before the plugin', 'the host', 'a child'] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    if (place !== 'the host, before the plugin') await addTokens()
    const decorate = (host: FastifyInstance): void => {
      host.decorateRequest('user', { getter: () => null }).get('/own', async () => 'own')
    }
    if (place !== 'a child') decorate(app)
    else await app.register(async child => { decorate(child) })
    if (place === 'the host, before the plugin') await addTokens()
    const answer = await app.inject({ url: '/own', headers: bearer((await issue()).token) })
    t.match([answer.statusCode, answer.json()], [500, { code: 'INTERNAL_ERROR' }], place)
    t.equal((await app.inject({ url: '/own' })).body, 'own')
  }
})

t.test('with a base path, the four routes exist only under the prefix, and tokens work on every route', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens({ prefix: '/mmc/v1' })
  app.get('/own', async request => who(request))
  app.get('/mmc/v1/own', async request => who(request))
  const viewer = await issue()
  for (const url of ['/own', '/mmc/v1/own']) {
    t.strictSame(
      (await app.inject({ url, headers: bearer(viewer.token) })).json(), TOKEN
    )
  }
  const headers = bearer((await issue({ role: 'admin' })).token)
  for (const [base, status] of [['/mmc/v1', 200], ['', 404], ['/mmc', 404]] as const) {
    t.equal((await app.inject({ url: `${base}/api/tokens`, headers })).statusCode, status)
    t.equal((await app.inject({ url: `${base}/api/tokens/${viewer.hash}`, headers })).statusCode, status)
  }
})

for (const order of ORDERS) {
  t.test(`error handler and 404 handler of the host, set ${order}: they handle the host's errors and not the plugin's refusals`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    await inOrder(order, async () => {
      app.setErrorHandler(async (error: Error, _request, reply) => await reply.code(418).send({ host: error.message }))
      app.setNotFoundHandler(async (request, reply) => await reply.code(404).send({
        missing: request.url, ...who(request)
      }))
    }, addTokens)
    app.get('/broken', async () => { throw new Error('broken') })
    app.post('/body', async request => request.body)
    const { token } = await issue()

    for (const [url, answer] of [
      ['/broken', [418, { host: 'broken' }]], ['/nothing', [404, { missing: '/nothing', user: null, token: null }]]
    ] as const) {
      const anonymous = await app.inject({ url })
      t.strictSame([anonymous.statusCode, anonymous.json()], answer)
      for (const request of [{ headers: bearer(FORGED) }, { query: { token: FORGED } }]) {
        const refused = await app.inject({ url, ...request })
        t.strictSame([refused.statusCode, refused.json(), refused.headers['content-type']], [
          401, REFUSAL, 'application/json; charset=utf-8'
        ])
      }
      const two = await app.inject({ url, headers: bearer(token), query: { token } })
      t.strictSame([two.statusCode, two.json()], [
        400, { code: 'INVALID', message: 'A request must carry one token, not several' }
      ])
    }
    t.strictSame((await app.inject({ url: '/broken', headers: bearer(token) })).json(), { host: 'broken' })
    t.strictSame((await app.inject({ url: `/nothing?token=${token}` })).json(), { missing: '/nothing', ...TOKEN })
    t.equal((await app.inject(
      { method: 'POST', url: '/body', headers: { 'content-type': 'application/json' }, payload: '{' }
    )).statusCode, 418)
    t.match((await app.inject({ url: '/api/tokens' })).json(), { code: 'UNAUTHORIZED', data: { session: false } })
    t.match((await app.inject({ url: '/api/tokens/x/y' })).json(), { missing: '/api/tokens/x/y' })
    t.match(
      (await app.inject({ url: '/api/tokens/x', headers: bearer((await issue({ role: 'admin' })).token) })).json(),
      { code: 'NOT_FOUND', message: 'No token has this hash' }
    )
  })
}

t.test("a refusal by a hook of the host gets the same response on the plugin's routes as on the host's", async t => {
  for (const statusCode of [402, 429, 503]) {
    for (const phase of ['onRequest', 'preHandler'] as const) {
      const { app, addTokens } = await createBareHost(t)
      app.addHook(phase as 'preHandler', async (_request, reply) => {
        reply.header('retry-after', '10')
        throw Object.assign(new Error('not now'), { statusCode, code: 'OVERLOADED' })
      })
      await addTokens()
      app.get('/own', async () => 'own')
      const own = await app.inject({ url: '/own' })
      const ours = await app.inject({ method: 'POST', url: '/api/tokens', payload: NEW_TOKEN })
      t.strictSame(
        [ours.statusCode, ours.json(), ours.headers['retry-after']],
        [own.statusCode, own.json(), '10'],
        `${statusCode} in ${phase}`
      )
    }
  }
})

t.test("response schemas of the host's routes and its own serializer don't change the plugin's refusals", async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  app.setReplySerializer(payload => `host:${JSON.stringify(payload)}`)
  await addTokens()
  const error = {
    type: 'object', properties: { error: { type: 'string' } }, required: ['error'], additionalProperties: false
  }
  for (const status of ['4xx', '401', 'default']) {
    app.get(
    `/${status}`, { schema: { response: { [status]: error, 400: error, 500: error } } }, async () => ({})
    )
  }
  const { token } = await issue()
  for (const url of ['/4xx', '/401', '/default']) {
    t.strictSame((await app.inject({ url, headers: bearer(FORGED) })).json(), REFUSAL)
    t.match((await app.inject({ url: `${url}?token=${token}`, headers: bearer(token) })).json(), { code: 'INVALID' })
  }
  t.strictSame((await app.inject({ url: '/api/tokens', headers: bearer(FORGED) })).json(), REFUSAL)
})

t.test("ignoreTrailingSlash, ignoreDuplicateSlashes and caseSensitive of the host apply to the plugin's routes", async t => {
  const all: FastifyServerOptions = routing({
    ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false
  })
  for (const [options, status] of [[all, 200], [{}, 404]] as const) {
    const { app, addTokens, issue } = await createBareHost(t, options)
    await addTokens()
    const { token, hash } = await issue({ role: 'admin' })
    for (const url of [
      '/api/tokens/', `/api/tokens/${hash}/`, '/api//tokens', '/API/Tokens', `/api/tokens/?token=${token}`
    ]) {
      const answer = await app.inject({ url, ...!url.includes('?') && { headers: bearer(token) } })
      t.equal(answer.statusCode, status, url)
    }
  }
})
