import { createHmac } from 'node:crypto'
import { type AddressInfo, connect } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import cors from '@fastify/cors'
import formbody from '@fastify/formbody'
import fastifyStatic from '@fastify/static'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import type { TokensPluginOptions } from '../../lib/index.js'
import { createBareHost } from '../support/bare-host.js'
import { SECRET } from '../support/build-host.js'

/** All that a host may have; `addTokens` where it has the plugin, too. */
async function fill (
  app: FastifyInstance, root: string, isRich: boolean, addTokens = async (): Promise<void> => {}
): Promise<void> {
  app.get('/before', async () => ({ hello: 'before' }))
  await app.register(formbody)
  await app.register(fastifyStatic, { root, prefix: '/static/' })
  await addTokens()
  if (isRich) {
    await app.register(cors)
    app.addHook('onSend', async (_request, reply) => { reply.header('x-host', 'yes') })
    app.setErrorHandler(async (error: Error, _request, reply) => await reply.code(418).send({ host: error.message }))
    app.setNotFoundHandler(async (request, reply) => await reply.code(404).send({
      missing: request.url, is404: request.is404
    }))
  }
  app.get('/echo', async request => ({
    url: request.url,
    originalUrl: request.originalUrl,
    query: request.query,
    authorization: request.headers.authorization,
    keys: Object.keys(request.query as object)
  }))
  app.post('/echo', async request => ({ body: request.body }))
  app.delete('/echo/:id', async request => request.params)
  app.get('/strict', {
    schema: {
      querystring: {
        type: 'object', properties: { n: { type: 'integer' } }, required: ['n'], additionalProperties: false
      }
    }
  }, async request => request.query)
  app.get('/broken', async () => { throw Object.assign(new Error('broken'), { statusCode: 503 }) })
  app.get('/stream', async (_request, reply) => await reply.type('text/plain').send(Readable.from(['a', 'b'])))
  app.get('/empty', async (_request, reply) => await reply.code(204).send())
  app.get('/redirect', async (_request, reply) => await reply.redirect('/echo'))
  app.get('/token-page', async (_request, reply) =>
    await reply.header('cache-control', 'public').header('referrer-policy', 'origin').send('page'))
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')
const INPUT = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ username: 'root', roles: ['admin'], role: 'admin', iss: 'host' })}`
/** A JWT of the host's own, signed with the secret that it gave us, too. */
const OWN_JWT = `${INPUT}.${createHmac('sha256', SECRET).update(INPUT).digest('base64url')}`
const JSON_TYPE = 'Content-Type: application/json'

const REQUESTS: Array<[line: string, headers?: string[], body?: string]> = [
  ['GET /before'], ['GET /echo?a=1&b=%20&b=2&c'], ['GET /echo?token=opaque&x=1#y'], [`GET /echo?token=${OWN_JWT}`], [
    'GET /echo?token=a&token[]=b&token'
  ],
  ['GET /echo', [`Authorization: Bearer ${OWN_JWT}`]], [
    'GET /echo', ['Authorization: Basic dTpw', 'Authorization: Bearer opaque']
  ], ['GET /echo', ['Authorization: Bearer  ']], ['GET /echo;x=1'],
  ['HEAD /echo?token=opaque'], ['OPTIONS /echo'], [
    'OPTIONS /nothing', ['Origin: https://a.example', 'Access-Control-Request-Method: GET']
  ],
  ['GET /nothing?token=opaque'], ['HEAD /nothing'], ['DELETE /echo'], ['PATCH /echo', [JSON_TYPE], '{}'], [
    `GET /token-page?token=${OWN_JWT}`
  ],
  ['POST /echo', [JSON_TYPE], '{"a":[1,null,"ä"]}'], [
    'POST /echo', [`${JSON_TYPE}; charset=utf-8`], '"text"'
  ], ['POST /echo', [JSON_TYPE], '{"a":'], ['POST /echo', [JSON_TYPE], ''],
  ['POST /echo', [JSON_TYPE], '{"__proto__":{"a":1}}'], ['POST /echo', [JSON_TYPE], `"${'x'.repeat(2000)}"`], [
    'POST /echo', ['Content-Type: application/x-www-form-urlencoded'], 'a=1&a=2&token=x'
  ],
  ['POST /echo', ['Content-Type: application/xml'], '<a/>'], [
    'POST /echo', ['Content-Type: garbage'], 'x'
  ], ['POST /echo', [], 'x'], ['POST /echo'], ['POST /echo', ['Content-Type: text/plain'], 'text'],
  ['DELETE /echo/1', [JSON_TYPE]], ['DELETE /echo/1'], [
    `DELETE /echo/${'x'.repeat(101)}`
  ], ['GET /%zz?token=opaque'], ['GET /echo?token=%zz'],
  ['GET /strict?n=1'], [
    'GET /strict?n=1&token=opaque'
  ], ['GET /strict?n=x'], ['GET /broken'], ['GET /stream'], ['GET /empty'], ['GET /redirect?token=opaque'],
  ['GET /static/page.html?token=opaque'], ['HEAD /static/page.html'], [
    'GET /static/page.html', ['Range: bytes=0-3']
  ], ['GET /static/none.html'], ['GET /static/../page.html'], ['BREW /echo'], ['GET']
]

/** What comes over the wire, the time aside. */
async function ask (app: FastifyInstance, [line, headers = [], body]: typeof REQUESTS[number]): Promise<string> {
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  const lines = [`${line} HTTP/1.1`, 'Host: mmc.example', 'Connection: close', ...headers, ...body === undefined
    ? []
    : [`Content-Length: ${Buffer.byteLength(body)}`]]
  socket.write(`${lines.join('\r\n')}\r\n\r\n${body ?? ''}`)
  return (await text(socket)).replace(/^date: .*$/im, '')
}

const VARIANTS: Record<string, Partial<TokensPluginOptions>> = {
  'with default options': {}, 'with hook: onRequest': { hook: 'onRequest' }, 'without the query form': { queryParameter: false }, disabled: { enabled: false }
}
for (const [what, options] of Object.entries(VARIANTS)) {
  for (const isRich of [false, true]) {
    t.test(`a host with the plugin ${what}, with ${isRich ? 'its own' : 'the default'} handlers, responds to requests without a token as without it, byte for byte`, async t => {
      const root = t.testdir({ 'page.html': '<title>page</title>' })
      const fastify = { bodyLimit: 1000 }
      const { app, addTokens } = await createBareHost(t, fastify)
      const without = Fastify(fastify)
      t.teardown(() => without.close())
      await fill(without, root, isRich)
      await fill(app, root, isRich, async () => await addTokens(options))
      for (const host of [app, without]) await host.listen({ host: '127.0.0.1', port: 0 })
      for (const request of REQUESTS) {
        const expected = await ask(without, request)
        t.match(expected, /^HTTP\/1\.1 \d{3} /)
        t.equal(await ask(app, request), expected, request.slice(0, 2).join(' '))
      }
    })
  }
}
