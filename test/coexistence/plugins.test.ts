import formbody from '@fastify/formbody'
import fastifyStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import { serializerCompiler, validatorCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod'
import t, { type Test } from 'tap'
import { z } from 'zod'
import { createBareHost, FORGED, inOrder, NEW_TOKEN, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'

const TOKEN = { user: { username: 'token:t1', roles: ['viewer'] }, token: 't1' }
const PRIVATE = { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' }

for (const order of ORDERS) {
  t.test(`@fastify/static ${order}: a file requested with a query token has no-store and no-referrer; an invalid token is 401`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    const root = t.testdir({ 'page.html': '<title>page</title>' })
    await inOrder(order, async () => { await app.register(fastifyStatic, { root, maxAge: '1d' }) }, addTokens)
    const { token } = await issue()

    const plain = await app.inject({ url: '/page.html' })
    t.match([plain.statusCode, plain.body, plain.headers['cache-control']], [
      200, '<title>page</title>', 'public, max-age=86400'
    ])
    t.notOk(plain.headers['referrer-policy'])
    for (const method of ['GET', 'HEAD'] as const) {
      const answer = await app.inject({ method, url: `/page.html?token=${token}` })
      t.match([answer.statusCode, answer.headers], [200, { ...PRIVATE, 'content-length': '19' }])
    }
    for (const [headers, status] of [
      [{ 'if-none-match': String(plain.headers.etag) }, 304], [{ range: 'bytes=0-6' }, 206],
      [{ range: 'bytes=99-' }, 416]
    ] as const) {
      t.match(await app.inject({ url: `/page.html?token=${token}`, headers }), { statusCode: status, headers: PRIVATE })
    }
    t.match(await app.inject({ url: `/missing.html?token=${token}` }), { statusCode: 404, headers: PRIVATE })
    t.match(await app.inject({ url: `/page.html?token=${FORGED}` }), { statusCode: 401, headers: PRIVATE })
    t.match((await app.inject({ url: '/page.html?token=opaque' })).headers['cache-control'], 'public, max-age=86400')
    const answer = await app.inject({ url: '/page.html', headers: bearer(token) })
    t.match(
      [answer.statusCode, answer.headers['cache-control']], [200, 'public, max-age=86400'], 'a header is not in any URL'
    )
    t.equal((await app.inject({ url: '/page.html', headers: bearer(FORGED) })).statusCode, 401)
  })

  t.test(`@fastify/formbody ${order}: a form on the plugin's routes is 415 for an admin and 401 without a user; the host's routes parse it`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    await inOrder(order, async () => { await app.register(formbody) }, addTokens)
    app.post('/form', async request => request.body)
    const form = { method: 'POST', payload: 'name=a&role=viewer&validUntil=2999-01-01T00:00:00Z' } as const
    const headers = {
      'content-type': 'application/x-www-form-urlencoded', ...bearer((await issue({ role: 'admin' })).token)
    }
    t.strictSame((await app.inject({ ...form, url: '/form', headers })).json(), {
      name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z'
    })
    const refused = await app.inject({ ...form, url: '/api/tokens', headers })
    t.match([refused.statusCode, refused.json()], [415, { code: 'INVALID' }])
    t.equal((await app.inject(
      { ...form, url: '/api/tokens', headers: { 'content-type': headers['content-type'] } }
    )).statusCode, 401)
    t.equal((await app.tokens.list()).length, 1)
  })

  t.test(`fastify-type-provider-zod ${order}: the four routes work, and a strict zod query never sees the token`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    await inOrder(
      order,
      async () => { app.setValidatorCompiler(validatorCompiler).setSerializerCompiler(serializerCompiler) },
      addTokens
    )
    const Answer = z.object({
      user: z.object({ username: z.string(), roles: z.array(z.string()) }).nullable(), token: z.string().nullable()
    })
    app.withTypeProvider<ZodTypeProvider>().get('/zod', {
      schema: {
        querystring: z.strictObject({ a: z.coerce.number().optional() }),
        response: { 200: Answer, 401: z.strictObject({ error: z.string() }) }
      }
    }, async request => who(request) as z.infer<typeof Answer>)
    const viewer = await issue()
    t.strictSame((await app.inject({ url: `/zod?a=1&token=${viewer.token}` })).json(), TOKEN)
    t.equal((await app.inject({ url: '/zod?token=opaque' })).statusCode, 400, 'the test would notice')
    t.strictSame((await app.inject({ url: `/zod?token=${FORGED}` })).json(), {
      code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false }
    })
    await checkFourRoutes(t, app, (await issue({ role: 'admin' })).token)
  })
}

async function checkFourRoutes (
  t: Test, app: Awaited<ReturnType<typeof createBareHost>>['app'], admin: string
): Promise<void> {
  const url = '/api/tokens'
  const headers = bearer(admin)
  const created = await app.inject({ method: 'POST', url, headers, payload: NEW_TOKEN })
  t.strictSame([created.statusCode, Object.keys(created.json())], [
    200, ['token', 'name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed']
  ])
  const { token, ...record } = created.json<{ token: string, hash: string }>()
  t.strictSame((await app.inject({ url: `${url}/${record.hash}`, headers })).json(), record)
  t.match([
    await app.inject({ method: 'POST', url, headers, payload: { ...NEW_TOKEN, name: 5 } })
  ].map(answer => [answer.statusCode, answer.json()]), [[400, { code: 'INVALID', message: /^name must be/ }]])
  t.equal((await app.inject({ method: 'POST', url, headers, payload: NEW_TOKEN })).statusCode, 409)
  t.notOk((await app.inject({ method: 'DELETE', url: `${url}/${record.hash}`, headers })).json<unknown[]>().some(
    one => (one as { name: string }).name === 'new'
  ))
}

interface Operation {
  summary?: string,
  requestBody?: {
    content: Record<string, { schema: { properties: object, required: string[] } }>
  },
  responses: Record<string, unknown>,
  parameters?: Array<{ name: string, in: string }>
}

for (const openapi of [true, false]) {
  t.test(`@fastify/swagger before the plugin documents the four routes, as ${openapi ? 'OpenAPI' : 'Swagger 2'}`, async t => {
    const { app, addTokens } = await createBareHost(t)
    await app.register(swagger, openapi ? { openapi: {} } : { swagger: {} })
    await addTokens({ prefix: '/mmc' })
    app.get(
      '/own', { schema: { querystring: { type: 'object', properties: { a: { type: 'string' } } } } }, async () => 'own'
    )
    await app.ready()
    const { paths = {} } = app.swagger() as unknown as { paths?: Record<string, Record<string, Operation>> }
    t.strictSame(Object.keys(paths).sort(), ['/mmc/api/tokens', '/mmc/api/tokens/{tokenHash}', '/own'])
    const one = paths['/mmc/api/tokens/{tokenHash}']
    const all = paths['/mmc/api/tokens']
    const EVERY = ['200', '400', '401', '403', '404', '406', '500']
    for (const [operation, statusCodes] of [
      [all?.get, EVERY], [all?.post, [...EVERY, '409', '413', '415']], [one?.get, EVERY],
      [one?.delete, [...EVERY, '204']]
    ] as const) {
      t.type(operation?.summary, 'string')
      t.strictSame(Object.keys(operation?.responses ?? {}).sort(), [...statusCodes].sort())
    }
    if (openapi) {
      const schema = all?.post?.requestBody?.content['application/json']?.schema
      t.strictSame([Object.keys(schema?.properties ?? {}), schema?.required], [
        ['name', 'role', 'validUntil'], ['name', 'role', 'validUntil']
      ])
      t.match(all?.post?.responses['200'], {
        content: {
          'application/json': { schema: { properties: { token: { type: 'string' }, hash: { type: 'string' } } } }
        }
      })
      t.match(all?.get?.responses['401'], {
        content: { 'application/json': { schema: { properties: { code: {}, message: {}, data: {} } } } }
      })
    } else {
      t.match(all?.post?.parameters, [
        { in: 'body', name: 'body', schema: { required: ['name', 'role', 'validUntil'] } }
      ])
      t.match(all?.post?.responses['200'], { schema: { properties: { token: { type: 'string' } } } })
    }
    t.match(one?.delete?.parameters, [{ name: 'tokenHash', in: 'path' }])
    t.type(app.swagger({ yaml: true }), 'string')
  })
}
