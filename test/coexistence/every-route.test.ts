import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import t from 'tap'
import { type BareHost, createBareHost, FORGED, inOrder, NEW_TOKEN, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'
import { routing } from '../support/fastify-version.js'

// Hosts that do something to every route, and so to the four of the plugin.

const MEMBERS = ['name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed']

/** An error as http-errors makes it: without a code. */
const httpError = (statusCode: number): Error => Object.assign(new Error('not from your network'), { statusCode })

t.test('an error that a hook of the host throws, with any status, is the same on the four routes as elsewhere', async t => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    for (const status of [400, 401, 403, 404, 409, 418, 500]) {
      const { app, addTokens } = await createBareHost(t)
      app.addHook(hook as 'preHandler', async () => { throw httpError(status) })
      await addTokens()
      app.get('/x', async () => 'x')
      const [own, ours] = [await app.inject({ url: '/x' }), await app.inject({ url: '/api/tokens' })]
      t.equal(ours.statusCode, status)
      t.equal(ours.body, own.body, `${status} in ${hook}`)
    }
  }
})

t.test('a body that a guard or the error handler of the host sends keeps all its properties on the four routes', async t => {
  const body = { code: 'LOGIN', message: 'log in', redirectTo: '/login', data: { session: false, csrf: 'x' } }
  const hosts: Array<(app: FastifyInstance) => void> = [
    app => { app.addHook('onRequest', async (_request, reply) => await reply.code(401).send(body)) },
    app => {
      app.addHook('onRequest', async () => { throw httpError(401) })
      app.setErrorHandler(async (_error, _request, reply) => await reply.code(401).send(body))
    }
  ]
  for (const prepare of hosts) {
    const { app, addTokens } = await createBareHost(t)
    prepare(app)
    await addTokens()
    const answer = await app.inject({ method: 'POST', url: '/api/tokens', payload: NEW_TOKEN })
    t.equal(answer.statusCode, 401)
    t.strictSame(answer.json(), body)
  }
})

t.test('a preSerialization hook and a reply serializer of the host leave the answers of the four routes as they are', async t => {
  const hosts: Array<(app: FastifyInstance) => void> = [
    app => { app.addHook('preSerialization', async (_request, _reply, payload) => ({ data: payload })) },
    app => { app.setReplySerializer(payload => JSON.stringify({ data: payload })) }
  ]
  for (const prepare of hosts) {
    const { app, addTokens, issue } = await createBareHost(t)
    prepare(app)
    await addTokens()
    const { token, hash } = await issue({ role: 'admin' })
    const headers = bearer(token)
    const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: NEW_TOKEN })
    t.equal(created.headers['content-type'], 'application/json; charset=utf-8')
    t.strictSame(Object.keys(created.json<object>()), ['token', ...MEMBERS])
    const one = await app.inject({ url: `/api/tokens/${hash}`, headers })
    t.strictSame(Object.keys(one.json<object>()), MEMBERS)
    for (const url of ['/api/tokens', '/api/tokens?limit=1']) {
      const [first] = (await app.inject({ url, headers })).json<[object]>()
      t.strictSame(Object.keys(first), MEMBERS, url)
    }
  }
})

t.test('a host may add schemas of its own, and references to them, to every route', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  app.addSchema({ $id: 'problem', type: 'object', properties: { title: { type: 'string' } } })
  app.addHook('onRoute', route => {
    const schema = (route.schema ??= {}) as Record<string, object>
    schema.headers = { type: 'object', properties: { 'x-tenant': { type: 'string' } } }
    schema.response = { ...schema.response, 503: { $ref: 'problem#' } }
  })
  await addTokens()
  const { token } = await issue({ role: 'admin' })
  const post = async (payload: object): Promise<number> =>
    (await app.inject({ method: 'POST', url: '/api/tokens', headers: bearer(token), payload })).statusCode
  t.equal(await post(NEW_TOKEN), 200)
  t.equal(await post({}), 400)
})

t.test('a host that changes or removes the response schemas of every route changes no answer of the four routes', async t => {
  const changes: Array<(responses: Record<string, unknown>) => object | undefined> = [
    () => undefined,
    ({ 200: schema, ...others }) => ({ '2xx': schema, ...others }),
    ({ 200: schema, ...others }) => ({ 200: { content: { 'application/json': { schema } } }, ...others })
  ]
  for (const change of changes) {
    const { app, addTokens, issue } = await createBareHost(t)
    app.addHook('onRoute', ({ schema }) => {
      if (schema?.response) schema.response = change(schema.response as Record<string, unknown>)
    })
    await addTokens()
    const { token, hash } = await issue({ role: 'admin' })
    const headers = bearer(token)
    const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: NEW_TOKEN })
    t.strictSame(Object.keys(created.json<object>()), ['token', ...MEMBERS])
    t.match((await app.inject({ url: `/api/tokens/${hash}`, headers })).json(), { hash })
    t.match((await app.inject({ url: '/api/tokens?limit=1', headers })).json(), [{ hash }])
  }
})

t.test('a host that copies or removes the schemas of every route changes no 400 of the four routes', async t => {
  for (const change of [structuredClone, () => undefined]) {
    const { app, addTokens, issue } = await createBareHost(t)
    app.addHook('onRoute', route => { Object.assign(route, { schema: change(route.schema) }) })
    await addTokens()
    const headers = { ...bearer((await issue({ role: 'admin' })).token), 'content-type': 'application/json' }
    for (const [payload, message] of [['null', /^The body must be/], ['{}', /^name must be/]] as const) {
      const refused = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
      t.match(refused.json(), { code: 'INVALID', message })
    }
    t.match((await app.inject({ url: '/api/tokens?limit=x', headers })).json(), { message: /^limit must be/ })
    t.match((await app.inject({ url: '/api/tokens?state=x', headers })).json(), { message: /^state must be/ })
  }
})

t.test('what a host changes in the options of one route changes no other, in this host and the next', async t => {
  const seen = async (prepare: (route: RouteOptions) => void): Promise<string[]> => {
    const { app, addTokens } = await createBareHost(t)
    const routes: RouteOptions[] = []
    app.addHook('onRoute', route => {
      prepare(route)
      routes.push(route)
    })
    await addTokens()
    return routes.filter(({ config, schema }) =>
      (config as { isPublic?: boolean }).isPublic === true || (schema as { tags: string[] }).tags.includes('public')
    ).map(({ method, url }) => `${String(method)} ${url}`)
  }
  const marked = await seen(({ method, url, config, schema }) => {
    if (method !== 'GET' || !url.endsWith('tokens')) return
    Object.assign(config as object, { isPublic: true });
    (schema as { tags: string[] }).tags.push('public')
  })
  t.strictSame(marked, ['GET /api/tokens', 'HEAD /api/tokens'])
  t.strictSame(await seen(() => {}), [])
})

t.test("a schemaErrorFormatter of the host, for another validator's errors, changes no answer of the four routes", async t => {
  const { app, addTokens, issue } = await createBareHost(t, {
    schemaErrorFormatter: ([error]) => new Error(String((error?.params as { missingProperty: string }).missingProperty))
  })
  await addTokens()
  const { token } = await issue({ role: 'admin' })
  const post = { method: 'POST', url: '/api/tokens', payload: {} } as const
  t.equal((await app.inject(post)).statusCode, 401)
  t.match((await app.inject({ ...post, headers: bearer(token) })).json(), { code: 'INVALID', message: /^name must be/ })
  const list = await app.inject({ url: '/api/tokens?limit=0', headers: bearer(token) })
  t.match(list.json(), { message: /^limit must be/ })
  t.match(list.json(), { message: /^limit must be/ })
})

t.test('an onSend hook of the host replaces neither no-store nor no-referrer, wherever it is added, also if it fails', async t => {
  for (const order of ORDERS) {
    for (const what of ['replaces', 'fails'] as const) {
      const { app, addTokens, issue } = await createBareHost(t)
      const onSend = async (_request: FastifyRequest, reply: FastifyReply): Promise<void> => {
        if (what === 'fails') throw new Error('session store down')
        reply.headers({ 'cache-control': 'public, max-age=60', 'referrer-policy': 'unsafe-url' })
      }
      await inOrder(order, async () => app.addHook('onSend', onSend), addTokens)
      app.get('/x', async (_request, reply) => await reply.header('cache-control', 'public').send('x'))
      app.get('/stream', async () => new Response('x').body)
      app.get('/response', async () => new Response('x', { headers: { 'cache-control': 'public' } }))
      const { token } = await issue({ role: 'admin' })
      for (const path of ['/x', '/stream', '/response', '/api/tokens']) {
        for (const secret of [token, FORGED]) {
          const { headers } = await app.inject({ url: path, query: { token: secret } })
          t.match(headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' }, `${path}, ${what} ${order}`)
        }
      }
      for (const headers of [bearer(token), {}]) {
        const answer = await app.inject({ url: '/api/tokens', headers })
        t.match(answer.headers, { 'cache-control': 'no-store' }, `without a query, ${what} ${order}`)
      }
    }
  }
})

t.test('whatever hooks of the host do before and after those of the four routes, no-store stays', async t => {
  const hosts: Array<(app: FastifyInstance, addTokens: BareHost['addTokens']) => Promise<void>> = [
    async (_app, addTokens) => { await addTokens({ hook: 'onRequest' }) },
    async (app, addTokens) => {
      app.addHook('onRequest', async () => { throw httpError(429) })
      await addTokens()
    },
    async (app, addTokens) => {
      await addTokens()
      app.addHook('preValidation', async (_request, reply) => {
        reply.callNotFound()
        return await reply
      })
    }
  ]
  for (const [index, prepare] of hosts.entries()) {
    const { app, addTokens } = await createBareHost(t)
    await prepare(app, addTokens)
    app.addHook('onSend', async () => { throw new Error('session store down') })
    const { headers } = await app.inject({ url: '/api/tokens', headers: bearer(FORGED) })
    t.equal(headers['cache-control'], 'no-store', String(index))
  }
})

t.test("after a refusal of the plugin's, the error handler of the host may send an object", async t => {
  for (const order of ORDERS) {
    const { app, addTokens } = await createBareHost(t)
    const failed = new WeakSet()
    const own = async (): Promise<void> => {
      app.addHook('onSend', async request => {
        if (failed.has(request)) return
        failed.add(request)
        throw new Error('session store down')
      })
    }
    app.setErrorHandler<Error>(async ({ message }, _request, reply) => await reply.code(500).send({ own: message }))
    await inOrder(order, own, addTokens)
    app.get('/x', async () => 'x')
    const answer = await app.inject({ url: '/x', headers: bearer(FORGED) })
    t.strictSame([answer.statusCode, answer.json()], [500, { own: 'session store down' }], order)
  }
})

t.test('a request whose handler calls callNotFound is judged once, and its token stays out of the URL', async t => {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    const { app, addTokens, issue } = await createBareHost(t)
    await addTokens({ hook })
    let isDisabling = false
    app.get('/x', async (_request, reply) => {
      if (isDisabling) await app.tokens.disable()
      reply.callNotFound()
      return reply
    })
    app.setNotFoundHandler(async (request, reply) => await reply.code(404).send({ url: request.url, ...who(request) }))
    const { token } = await issue()
    const found = { url: '/x', user: { username: 'token:t1', roles: ['viewer'] }, token: 't1' }
    t.strictSame((await app.inject({ url: '/x', query: { token } })).json(), found)
    t.match((await app.tokens.metrics()).authentications, { accepted: 1 })
    isDisabling = true
    t.strictSame((await app.inject({ url: '/x', query: { token } })).json(), found, 'it was accepted before')
  }
})

t.test('a query parser of the host that returns null for no query changes nothing for requests without a token', async t => {
  for (const none of [null, undefined]) {
    const querystringParser = (text: string): Record<string, string> =>
      (text === '' ? none : Object.fromEntries(new URLSearchParams(text))) as Record<string, string>
    const { app, addTokens, issue } = await createBareHost(t, routing({ querystringParser }))
    await addTokens()
    app.get('/x', async request => ({ query: request.query ?? null, ...who(request) }))
    t.strictSame((await app.inject({ url: '/x' })).json(), { query: null, user: null, token: null })
    const { token } = await issue()
    t.match((await app.inject({ url: '/x', headers: bearer(token) })).json(), { token: 't1' })
    t.match((await app.inject({ url: '/x', query: { token } })).json(), { query: {}, token: 't1' })
  }
})

t.test('an Authorization that the host replaces is the one that counts, and one that it deletes does not', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  app.addHook('onRequest', async ({ raw: { headers } }) => {
    if (headers['x-real'] === undefined) delete headers.authorization
    else headers.authorization = String(headers['x-real'])
  })
  await addTokens()
  app.get('/x', async request => who(request))
  const { token } = await issue()
  for (const [given, real, name] of [[FORGED, token, 't1'], [token, 'opaque', null]] as const) {
    const headers = { ...bearer(given), 'x-real': `Bearer ${real}` }
    t.match((await app.inject({ url: '/x', headers })).json(), { token: name })
  }
  t.match((await app.inject({ url: '/x', headers: bearer(token) })).json(), { token: null })
})

t.test('with hook: onRequest, a user that became read-only is 500 in the body of the MMC', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens({ hook: 'onRequest' })
  app.addHook('preValidation', async request => { Object.defineProperty(request, 'user', { get: () => 'session' }) })
  app.get('/x', async request => who(request))
  const answer = await app.inject({ url: '/x', headers: bearer((await issue()).token) })
  t.strictSame([answer.statusCode, Object.keys(answer.json<object>())], [500, ['code', 'message']])
  t.match(answer.json(), { code: 'INTERNAL_ERROR' })
})

t.test('with hook: onRequest, a token that ends before the body has arrived is refused without the time of its expiry', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens({ hook: 'onRequest', expiryHeader: true })
  const { token, hash } = await issue()
  app.addHook('preParsing', async () => { await app.tokens.revoke(hash) })
  app.get('/x', async () => 'x')
  const answer = await app.inject({ url: '/x', headers: bearer(token) })
  t.equal(answer.statusCode, 401)
  t.equal(answer.headers['application-token-expires'], undefined)
})

t.test('a 401 of the host to a request that came while tokens were disabled is no reason for a warning', async t => {
  const lines: string[] = []
  const stream = { write (line: string) { lines.push(line) } }
  const { app, addTokens, issue } = await createBareHost(t, { logger: { level: 'warn', stream } })
  await addTokens()
  app.get('/x', {
    async preHandler (_request, reply) {
      await app.tokens.enable()
      return await reply.code(401).send('log in')
    }
  }, async () => 'x')
  const { token } = await issue()
  await app.tokens.disable()
  t.equal((await app.inject({ url: '/x', headers: bearer(token) })).statusCode, 401)
  t.strictSame(lines, [])
})
