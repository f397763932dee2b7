import cors from '@fastify/cors'
import rateLimit, { type RateLimitPluginOptions } from '@fastify/rate-limit'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import t from 'tap'
import { createBareHost, FORGED, inOrder, NEW_TOKEN, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'

const FOUR: InjectOptions[] = [
  { url: '/api/tokens' }, { method: 'POST', url: '/api/tokens', payload: NEW_TOKEN }, { url: '/api/tokens/x' }, {
    method: 'DELETE', url: '/api/tokens/x'
  }
]

/** What the host answers with its limit, made comparable. */
async function ask (
  app: FastifyInstance, request: InjectOptions
): Promise<{ statusCode: number, body: unknown, limit: unknown, type: unknown }> {
  const { statusCode, body, headers } = await app.inject(request)
  return { statusCode, body, limit: headers['x-ratelimit-limit'], type: headers['content-type'] }
}

const BUILDERS: Record<string, RateLimitPluginOptions['errorResponseBuilder'] | undefined> = {
  'the default answer': undefined,
  'an object': (_request, { statusCode, max }) => ({ statusCode, code: 'SLOW', message: `at most ${max}` }),
  'an error': (_request, { statusCode }) => Object.assign(new Error('slow down'), { statusCode, code: 'SLOW' })
}

for (const [what, errorResponseBuilder] of Object.entries(BUILDERS)) {
  for (const hasErrorHandler of [false, true]) {
    t.test(`@fastify/rate-limit before the plugin, ${what}, ${hasErrorHandler ? 'an' : 'no'} error handler: a limit of the host gets the same response on the plugin's routes as on the host's`, async t => {
      for (const hook of ['onRequest', 'preHandler'] as const) {
        const { app, addTokens, issue } = await createBareHost(t)
        await app.register(rateLimit, {
          hook,
          max: 1,
          keyGenerator: request =>
          `${request.method} ${request.url}`,
          ...errorResponseBuilder && { errorResponseBuilder }
        })
        if (hasErrorHandler) {
          app.setErrorHandler(async (error: { statusCode?: number, code?: string }, _request, reply) =>
            await reply.code(error.statusCode ?? 503).send({ host: String(error.code) }))
        }
        await addTokens()
        app.get('/own', async () => 'own')
        const headers = bearer((await issue({ role: 'admin' })).token)
        await app.inject({ url: '/own' })
        const expected = await ask(app, { url: '/own' })
        t.equal(expected.statusCode, 429)
        for (const request of FOUR) {
          t.not((await ask(app, { ...request, headers })).statusCode, 429)
          t.strictSame(
            await ask(app, { ...request, headers }), expected, `${hook} ${request.method} ${String(request.url)}`
          )
        }
      }
    })
  }
}

t.test("@fastify/rate-limit with a key per token: each token has its own limit, on the plugin's routes and on the host's", async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await app.register(rateLimit, {
    max: 2, hook: 'preHandler', keyGenerator: request => request.applicationToken?.hash ?? request.ip
  })
  await addTokens()
  app.get('/own', async request => who(request))
  for (const { token } of [await issue({ role: 'admin' }), await issue({ role: 'admin' })]) {
    const headers = bearer(token)
    t.strictSame([
      (await app.inject({ url: '/own', headers })).statusCode, (await app.inject(
        { url: `/own?token=${token}` }
      )).statusCode,
      (await app.inject({ url: '/own', headers })).statusCode, (await app.inject(
        { url: '/api/tokens', headers }
      )).statusCode
    ], [200, 200, 429, 429])
  }
  t.equal((await app.inject({ url: '/own' })).statusCode, 200)
})

t.test('@fastify/rate-limit before the plugin also limits guessing of tokens', async t => {
  const { app, addTokens } = await createBareHost(t)
  await app.register(rateLimit, { max: 2 })
  await addTokens()
  app.get('/own', async () => 'own')
  const headers = bearer(FORGED)
  for (const statusCode of [401, 401, 429]) t.equal((await app.inject({ url: '/own', headers })).statusCode, statusCode)
})

const ORIGIN = { origin: 'https://dashboard.example' }
const PREFLIGHT = {
  ...ORIGIN, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization,content-type'
}
const CORS = { origin: true, credentials: true, methods: ['GET', 'POST', 'DELETE'], maxAge: 60 }

t.test("@fastify/cors after the plugin, hook: 'onRequest': refusals lack its headers, as docs/host-integration.md says", async t => {
  const { app, addTokens } = await createBareHost(t)
  await addTokens({ hook: 'onRequest' })
  await app.register(cors, CORS)
  app.get('/own', async () => 'own')
  for (const [headers, status, allowed] of [
    [ORIGIN, 200, ORIGIN.origin], [{ ...ORIGIN, ...bearer(FORGED) }, 401, undefined]
  ] as const) {
    const answer = await app.inject({ url: '/own', headers })
    t.strictSame([answer.statusCode, answer.headers['access-control-allow-origin']], [status, allowed])
  }
})

for (const [order, hook] of [
  ['before the plugin', 'preHandler'], ['before the plugin', 'onRequest'], ['after the plugin', 'preHandler']
] as const) {
  t.test(`@fastify/cors ${order}, hook: ${hook}: a preflight gets the same response as without the plugin, with a valid query token, an invalid one or none`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    const bare = Fastify()
    t.teardown(() => bare.close())
    await bare.register(cors, CORS)
    await inOrder(order, async () => { await app.register(cors, CORS) }, async () => await addTokens({ hook }))
    for (const host of [app, bare]) host.get('/own', async () => 'own')
    const { token } = await issue()
    for (const path of ['/own', '/api/tokens', '/api/tokens/x', '/nothing']) {
      for (const query of ['', `?token=${token}`, `?token=${FORGED}`, '?token=opaque']) {
        for (const headers of [PREFLIGHT, ORIGIN]) {
          const [ours, theirs] = await Promise.all([app, bare].map(async host => await host.inject({
            method: 'OPTIONS', url: path + query, headers
          })))
          const strip = ({
            date, 'cache-control': _cache, 'referrer-policy': _referrer, ...others
          }: Record<string, unknown> = {}) => others
          t.strictSame([ours?.statusCode, ours?.body, strip(ours?.headers)], [
            theirs?.statusCode, theirs?.body, strip(theirs?.headers)
          ])
          t.equal(ours?.statusCode, headers === PREFLIGHT ? 204 : 400)
        }
      }
    }
  })

  t.test(`@fastify/cors ${order}, hook: ${hook}: a response to another origin has its headers, including the plugin's 400, 401 and 403`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    await inOrder(order, async () => { await app.register(cors, CORS) }, async () => await addTokens({ hook }))
    app.get('/own', async () => 'own')
    const { token } = await issue()
    for (const [url, status] of [['/own', 200], ['/api/tokens', 403]] as const) {
      for (const [request, statusCode] of [
        [{ url, headers: bearer(token) }, status], [{ url: `${url}?token=${token}` }, status], [
          { url: `${url}?token=${token}`, headers: bearer(token) }, 400
        ],
        [{ url, headers: bearer(FORGED) }, 401], [{ url: `${url}?token=${FORGED}` }, 401]
      ] as const) {
        const answer = await app.inject({
          url: request.url, headers: { ...ORIGIN, ...'headers' in request && request.headers }
        })
        t.equal(answer.statusCode, statusCode)
        t.match(
          answer.headers,
          { 'access-control-allow-origin': ORIGIN.origin, 'access-control-allow-credentials': 'true', vary: 'Origin' },
          `${url} ${statusCode}`
        )
      }
    }
    const deleted = await app.inject({
      method: 'DELETE',
      url: '/api/tokens/x',
      headers: { ...ORIGIN, ...bearer((await issue({ role: 'admin' })).token), 'sec-fetch-site': 'cross-site' }
    })
    t.match([deleted.statusCode, deleted.headers['access-control-allow-origin']], [200, ORIGIN.origin])
  })
}
