import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { connect, type IncomingHttpHeaders } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import serveStatic from '@fastify/static'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const OURS = ['cache-control', 'referrer-policy', 'application-token-expires']
const EXPIRES = 'Thu, 01 Jan 2099 00:00:00 GMT'

interface Host { app: FastifyInstance, port: number, token: string }
type Pairs = Array<[name: string, value: string]>

async function createHost (t: Test, app: FastifyInstance, options: Partial<TokensPluginOptions> = {}): Promise<Host> {
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
  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x' })
  return { app, port: (app.server.address() as AddressInfo).port, token }
}

/** The headers of an answer, each as often as it is on the wire. */
async function headersOf (port: number, path: string, headers = {}): Promise<Pairs> {
  const [answer] = await once(get({ port, path, headers, agent: false }), 'response') as [IncomingMessage]
  await once(answer.resume(), 'end')
  const { rawHeaders } = answer
  return rawHeaders.flatMap((name, index): Pairs => index % 2 === 0 ? [[name.toLowerCase(), String(rawHeaders[index + 1])]] : [])
}

function ours (headers: Pairs): Pairs {
  return headers.filter(([name]) => OURS.includes(name)).sort()
}

const PRIVATE: Pairs = [['cache-control', 'no-store'], ['referrer-policy', 'no-referrer']]
const EXPIRY: Pairs = [['application-token-expires', EXPIRES]]

t.test('what a handler writes itself has the headers of a query token and of "expiryHeader", unless it sets its own', async t => {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    for (const expiryHeader of [false, true]) {
      const { port, token } = await createHost(t, Fastify(), { hook, expiryHeader })
      const expiry = expiryHeader ? EXPIRY : []
      for (const path of ['/hijack', '/pipe', '/raw']) {
        t.strictSame(ours(await headersOf(port, `${path}?token=${token}`)), [...expiry, ...PRIVATE], path)
        t.strictSame(ours(await headersOf(port, path, bearer(token))), expiry, `${path} by header`)
        t.strictSame(ours(await headersOf(port, `${path}?token=kept`)), [], `${path} with what is no token`)
      }
      for (const path of ['/own', '/own/array', '/own/set']) {
        const own = [['application-token-expires', 'never'], ['cache-control', 'no-cache'], ['referrer-policy', 'origin']]
        t.strictSame(ours(await headersOf(port, `${path}?token=${token}`)), own, path)
      }
    }
  }
})

t.test('what Fastify sends has each of them once, and nothing else of the answer changes', async t => {
  const app = Fastify()
  await app.register(websocket)
  await app.register(serveStatic, { root: import.meta.dirname, prefix: '/files/', maxAge: 60_000 })
  app.get('/header', async (_request, reply) => reply.headers({ 'Cache-Control': 'public', 'set-cookie': ['a=1', 'b=2'] }).send('x'))
  app.get('/stream', async () => Readable.from(['x']))
  app.get('/web', async () => new Response('x', { status: 201, headers: [['cache-control', 'public'], ['set-cookie', 'a=1'], ['set-cookie', 'b=2']] }))
  app.get('/fetched', async () => await fetch(`http://127.0.0.1:${port}/header`))
  app.get('/empty', async (_request, reply) => reply.code(204).send())
  app.get('/throw', async () => { throw new Error('no luck') })
  app.get('/ws', { websocket: true }, socket => { socket.close() })
  const { port, token } = await createHost(t, app, { expiryHeader: true })
  for (const path of ['/header', '/stream', '/web', '/fetched', '/empty', '/throw', '/missing', '/files/raw-answers.test.ts']) {
    const [query, header] = [await headersOf(port, `${path}?token=${token}`), await headersOf(port, path, bearer(token))]
    t.strictSame(ours(query), [...EXPIRY, ...PRIVATE], path)
    t.strictSame(ours(header).filter(([name]) => name !== 'cache-control'), EXPIRY, path)
    const others = (headers: Pairs): Pairs => headers.filter(([name]) => !OURS.includes(name) && name !== 'date')
    t.strictSame(others(query), others(header), path)
  }
  t.match((await app.inject({ url: `/header?token=${token}` })).headers, { 'cache-control': 'no-store', 'set-cookie': ['a=1', 'b=2'] })
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws?token=${token}`)
  const [{ statusCode }] = await once(socket, 'upgrade') as [IncomingMessage]
  t.equal(statusCode, 101)
  await once(socket, 'close')
})

t.test('a hook of the host that has begun the answer already is not disturbed', async t => {
  const app = Fastify()
  app.addHook('onRequest', async (_request, reply) => { reply.raw.writeHead(200, { 'x-begun': 'yes' }) })
  const { port, token } = await createHost(t, app, { expiryHeader: true })
  t.match(await headersOf(port, `/raw?token=${token}`), [['x-begun', 'yes']])
})

t.test('over HTTP/2, too', async t => {
  const { port, token } = await createHost(t, Fastify({ http2: true }) as unknown as FastifyInstance, { expiryHeader: true })
  const client = connect(`http://127.0.0.1:${port}`)
  t.teardown(() => { client.close() })
  for (const [path, cache] of [['/hijack', 'no-store'], ['/own', 'no-cache'], ['/missing', 'no-store']] as const) {
    const stream = client.request({ ':path': `${path}?token=${token}` })
    const [headers] = await once(stream, 'response') as [IncomingHttpHeaders]
    t.match(headers, { 'cache-control': cache, 'application-token-expires': path === '/own' ? 'never' : EXPIRES }, path)
    await text(stream)
  }
})
