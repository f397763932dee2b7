import { once } from 'node:events'
import { connect, type ClientHttp2Session, type IncomingHttpHeaders } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { FORGED, NEW_TOKEN, who } from '../support/bare-host.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

async function ask (
  client: ClientHttp2Session, headers: object, body = ''
): Promise<{ status: number, cache: string | undefined, body: object }> {
  const stream = client.request({ ...headers }, { endStream: false }).end(body)
  const [head] = await once(stream, 'response') as [IncomingHttpHeaders]
  return {
    status: Number(head[':status']), cache: head['cache-control'], body: JSON.parse(await text(stream)) as object
  }
}

t.test('over HTTP/2, tokens in the header and the query are accepted, refused and kept out of the log as over HTTP/1.1', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const lines: string[] = []
  const app = Fastify({ http2: true, logger: { stream: { write (line: string) { lines.push(line) } } } })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/', async request => ({ ...who(request as never), url: request.url }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => { client.close() })

  const { token } = await app.tokens.issue({
    name: 't1', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  const body = { user: { username: 'token:t1', roles: ['admin'] }, token: 't1' }
  t.strictSame(await ask(client, { ':path': '/', ...bearer(token) }), {
    status: 200, cache: undefined, body: { ...body, url: '/' }
  })
  t.strictSame(await ask(client, { ':path': `/?a=1&token=${token}` }), {
    status: 200, cache: 'no-store', body: { ...body, url: '/?a=1' }
  })
  t.match(await ask(client, { ':path': `/?token=${token}`, ...bearer(token) }), {
    status: 400, cache: 'no-store', body: { code: 'INVALID' }
  })
  t.match(await ask(client, { ':path': '/', ...bearer(FORGED) }), {
    status: 401, body: { code: 'UNAUTHORIZED', data: { session: false } }
  })
  t.match(await ask(client, { ':path': `/missing?token=${token}` }), {
    status: 404, cache: 'no-store', body: { message: 'Route GET:/missing not found' }
  })
  t.match(await ask(client, {
    ':path': '/api/tokens', ':method': 'POST', 'content-type': 'application/json', ...bearer(token)
  }, JSON.stringify(NEW_TOKEN)), { status: 200, cache: 'no-store', body: { name: 'new', requestedBy: 'token:t1' } })
  t.match(await ask(client, { ':path': '/api/tokens', ...bearer(token) }), {
    status: 200, body: [{ name: 't1' }, { name: 'new' }]
  })
  t.notMatch(lines.join(''), token.split('.')[2])
  t.match(lines.join(''), '/missing?token=[Redacted]', 'this test would notice')
})

t.test('over HTTP/2, the URL without the token is also the one in the headers, parsed and raw', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/', async ({ raw: { url, headers, rawHeaders } }) => ({ url, headers, rawHeaders }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => { client.close() })
  const { token } = await app.tokens.issue({
    name: 't1', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  const { body } = await ask(client, { 'x-first': ':path', ':path': `/?a=1&token=${token}`, 'x-last': ':path' })
  t.match(body, { url: '/?a=1', headers: { ':path': '/?a=1', 'x-first': ':path', 'x-last': ':path' } })
  t.match(JSON.stringify(body), '":path","/?a=1"')
  t.notMatch(JSON.stringify(body), token)
})

t.test('an HTTP/2 session that an ended token used is not cut: its stream gets the signal, and other requests go on', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/', async request => who(request as never))
  app.get('/stream', { preHandler: app.tokens.requireRole('editor') }, async (request, reply) => {
    const stream = new PassThrough()
    stream.write('open')
    app.tokens.signal(request)?.addEventListener('abort', ({ target }) => {
      stream.end((target as AbortSignal).reason.code)
    })
    return await reply.send(stream)
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => { client.close() })
  t.equal((await ask(client, { ':path': '/stream' })).status, 401)
  const { token, hash } = await app.tokens.issue({
    name: 't1', role: 'editor', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  const stream = client.request({ ':path': '/stream', ...bearer(token) })
  await once(stream, 'response')
  const heard = text(stream)
  await app.tokens.revoke(hash)
  t.equal(await heard, 'openMMC_TOKENS_REVOKED')
  await sleep(1200) // longer than an upgraded connection may live
  t.notOk(client.destroyed)
  t.match(await ask(client, { ':path': '/' }), { status: 200 })
  t.equal((await ask(client, { ':path': '/', ...bearer(token) })).status, 401)
})

t.test('a signal that a handler asks for after its HTTP/2 stream was reset is kept nowhere', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  const listening = new Promise<number[]>(resolve => {
    app.get('/', async (request, reply) => {
      const closed = once(reply.raw, 'close')
      stream.close()
      await closed
      const before = reply.raw.listenerCount('close')
      app.tokens.signal(request)
      resolve([before, reply.raw.listenerCount('close')])
    })
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => { client.close() })
  const { token } = await app.tokens.issue({
    name: 't1', role: 'editor', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  const stream = client.request({ ':path': '/', ...bearer(token) })
  const [before, after] = await listening
  t.equal(after, before)
})
