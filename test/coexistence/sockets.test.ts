import { once } from 'node:events'
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import websocket from '@fastify/websocket'
import { EventSource } from 'eventsource'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { createBareHost, FORGED, inOrder, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'

const TOKEN = { user: { username: 'token:t1', roles: ['viewer'] }, token: 't1' }

async function listen (t: Test, app: FastifyInstance): Promise<string> {
  // Of a test that fails: the host would wait for a connection that is left open.
  app.server.on('connection', socket => { t.teardown(() => socket.destroy()) })
  await app.listen({ host: '127.0.0.1', port: 0 })
  return `127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

/** The guard of a host: somebody, or 403 with whom it saw. */
async function somebody (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
  if (who(request).user === null) return await reply.code(403).send({ saw: null })
}

/** What a WebSocket says first, or the refusal of its upgrade. */
async function connect (url: string, headers = {}): Promise<unknown> {
  const socket = new WebSocket(url, { headers })
  socket.on('error', () => {})
  const refused = once(socket, 'unexpected-response').then(async args => {
    const [request, answer] = args as [ClientRequest, IncomingMessage]
    const { statusCode, headers } = answer
    const refusal = {
      statusCode,
      challenge: headers['www-authenticate'] ??
      null,
      cache: headers['cache-control'] ?? null,
      body: await json(answer)
    }
    request.destroy()
    return refusal
  })
  const said = once(socket, 'message').then(async ([message]) => {
    socket.send('echo')
    const [echo] = await once(socket, 'message')
    socket.close()
    await once(socket, 'close')
    return { said: JSON.parse(String(message)), echo: String(echo) }
  })
  return await Promise.race([refused, said])
}

for (const order of ORDERS) {
  for (const [hook, phase] of [['preHandler', 'preHandler'], ['onRequest', 'onRequest']] as const) {
    t.test(`@fastify/websocket ${order}, hook: ${hook}: a guard in ${phase} sees the token of an upgrade, in the query and in the header`, async t => {
      const { app, addTokens, issue } = await createBareHost(t)
      await inOrder(order, async () => { await app.register(websocket) }, async () => await addTokens({ hook }))
      await app.register(async routes => {
        routes.get('/ws', { websocket: true, [phase]: somebody }, (socket, request) => {
          socket.send(JSON.stringify({ ...who(request), query: request.query, url: request.url }))
          socket.on('message', message => { socket.send(message.toString()) })
        })
      })
      const address = await listen(t, app)
      const { token } = await issue()
      const url = `ws://${address}/ws`
      t.strictSame(await connect(`${url}?token=${token}`), { said: { ...TOKEN, query: {}, url: '/ws' }, echo: 'echo' })
      t.strictSame(await connect(`${url}?a=1&token=${token}`), {
        said: { ...TOKEN, query: { a: '1' }, url: '/ws?a=1' }, echo: 'echo'
      })
      t.strictSame(await connect(url, bearer(token)), { said: { ...TOKEN, query: {}, url: '/ws' }, echo: 'echo' })

      const body = { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } }
      const refused = { statusCode: 401, challenge: 'Bearer realm="cedalo", error="invalid_token"', body }
      t.strictSame(await connect(`${url}?token=${FORGED}`), { ...refused, cache: 'no-store' })
      t.strictSame(await connect(url, bearer(FORGED)), { ...refused, cache: null })
      t.strictSame(await connect(`${url}?token=${token}`, bearer(token)), {
        statusCode: 400,
        challenge: null,
        cache: 'no-store',
        body: { code: 'INVALID', message: 'A request must carry one token, not several' }
      })
      t.strictSame(
        await connect(`${url}?token=opaque`),
        { statusCode: 403, challenge: null, cache: null, body: { saw: null } },
        "the host's own answer"
      )
      await app.tokens.revoke((await app.tokens.list())[0]?.hash ?? '')
      t.strictSame(await connect(`${url}?token=${token}`), { ...refused, cache: 'no-store' }, 'revoked')
    })
  }
}

t.test('injectWS, which hosts use in tests, works with tokens in the header and in the query, and refuses an invalid one', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await app.register(websocket)
  await addTokens()
  app.get('/ws', { websocket: true, preHandler: somebody }, (socket, request) => {
    socket.on('message', () => { socket.send(JSON.stringify(who(request))) })
  })
  await app.ready()
  const { token } = await issue()
  const inject = async (path: string, headers = {}): Promise<unknown> => {
    const socket = await app.injectWS(path, { headers })
    const answer = once(socket, 'message')
    socket.send('who?')
    const [message] = await answer
    socket.terminate()
    return JSON.parse(String(message))
  }
  t.strictSame(await inject('/ws', bearer(token)), TOKEN)
  t.strictSame(await inject(`/ws?token=${token}`), TOKEN)
  await t.rejects(inject('/ws', bearer(FORGED)), { message: /401/ })
  await t.rejects(inject(`/ws?token=${FORGED}`), { message: /401/ })
  await t.rejects(inject(`/ws?token=${token}`, bearer(token)), { message: /400/ })
  await t.rejects(inject('/ws', { authorization: 'Basic eDp4' }), { message: /403/ })
})

t.test("the server closes the connection of a refused upgrade, so that clients can't accumulate them", async t => {
  for (const order of ORDERS) {
    for (const hook of ['preHandler', 'onRequest'] as const) {
      const { app, addTokens } = await createBareHost(t)
      await inOrder(order, async () => { await app.register(websocket) }, async () => await addTokens({ hook }))
      await app.register(async routes => { routes.get('/ws', { websocket: true }, socket => { socket.close() }) })
      const socket = new WebSocket(`ws://${await listen(t, app)}/ws`, { headers: bearer(FORGED) })
      socket.on('error', () => {})
      const [request, answer] = await once(socket, 'unexpected-response') as [ClientRequest, IncomingMessage]
      t.teardown(() => request.destroy())
      t.equal(answer.statusCode, 401)
      await t.resolves(once(answer.resume().socket, 'close'), `@fastify/websocket ${order}, hook: ${hook}`)
    }
  }
})

t.test('an EventSource with ?token= gets its events, reconnects with it, and sees the status of a refusal', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/events', { preHandler: somebody }, async (request, reply) => {
    const last = request.headers['last-event-id'] ?? 'none'
    return await reply.type('text/event-stream').send(
      `retry: 1\nid: ${last}1\ndata: ${JSON.stringify({ ...who(request), query: request.query, last })}\n\n`
    )
  })
  const url = `http://${await listen(t, app)}/events`
  const { token } = await issue()

  const source = new EventSource(`${url}?token=${token}`)
  t.teardown(() => { source.close() })
  for (const last of ['none', 'none1', 'none11']) {
    const [event] = await once(source, 'message') as [{ data: string }]
    t.strictSame(JSON.parse(event.data), { ...TOKEN, query: {}, last })
  }
  source.close()

  for (const [value, code] of [[FORGED, 401], ['opaque', 403]] as const) {
    const refused = new EventSource(`${url}?token=${value}`)
    t.teardown(() => { refused.close() })
    const [error] = await once(refused, 'error').catch((error: unknown) => [error]) as [{ code?: number }]
    t.equal(error.code, code)
    t.equal(refused.readyState, EventSource.CLOSED)
  }
})
