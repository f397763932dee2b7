import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { TokenEvent } from '../../lib/index.js'
import { createBareHost, NEW_TOKEN, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const BODY = JSON.stringify(NEW_TOKEN)

/** A request of which only the headers and the first bytes of the body have arrived, and that has passed the guards in `onRequest`. */
class Parked {
  readonly #socket: Socket
  readonly #isChunked: boolean

  private constructor (socket: Socket, isChunked: boolean) {
    this.#socket = socket
    this.#isChunked = isChunked
  }

  static async send (t: Test, app: FastifyInstance, path: string, token: string, { isChunked = false } = {}): Promise<Parked> {
    const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    const length = isChunked ? 'transfer-encoding: chunked' : `content-length: ${BODY.length}`
    const begin = isChunked ? `5\r\n${BODY.slice(0, 5)}\r\n` : BODY.slice(0, 5)
    const admitted = new Promise<void>(resolve => { admit = resolve })
    const authorization = path.includes('?') ? '' : `authorization: Bearer ${token}\r\n`
    socket.write(`POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${authorization}content-type: application/json\r\n${length}\r\n\r\n${begin}`)
    await admitted
    return new Parked(socket, isChunked)
  }

  async finish (): Promise<{ status: number, text: string }> {
    const rest = BODY.slice(5)
    this.#socket.write(this.#isChunked ? `${rest.length.toString(16)}\r\n${rest}\r\n0\r\n\r\n` : rest)
    let text = ''
    this.#socket.on('data', chunk => { text += String(chunk) })
    await once(this.#socket, 'close')
    return { status: Number(text.split(' ')[1]), text }
  }
}

/** Called when a request has passed the guards of the host in `onRequest`. */
let admit = (): void => {}

interface Options { hook?: 'onRequest' | 'preHandler', events?: TokenEvent[] }

/** A host with its guard where the plugin's hook is, and routes before and after the plugin, each of which says whom it acts for. */
async function createHost (t: Test, { hook = 'onRequest', events }: Options = {}) {
  const database = await createDatabase(t)
  const { app, addTokens, issue } = await createBareHost(t)
  const acts: unknown[] = []
  const act = async (request: FastifyRequest): Promise<unknown> => {
    acts.push(who(request))
    return who(request)
  }
  await app.register(async child => { child.post('/early', act) })
  await addTokens({ postgres: database.url, schema: database.schema, hook, expiryHeader: true, ...events && { onEvent: event => { events.push(event) } } })
  if (hook === 'onRequest') {
    app.addHook('onRequest', async (request, reply) => {
      if (who(request).user === null) return await reply.code(418).send('the guard')
    })
  }
  // Fastify reads the body after this.
  app.addHook('preParsing', async () => { admit() })
  app.addHook('preValidation', async request => {
    if (request.headers['x-anonymous'] !== undefined) Object.assign(request, { applicationToken: null, user: null })
  })
  app.post('/act', act)
  app.setNotFoundHandler(async request => await act(request))
  await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, issue, acts, database }
}

t.test("a token that ends while a request is still being sent is 401 on any route, though the host's guard let it in", async t => {
  const events: TokenEvent[] = []
  const { app, issue, acts } = await createHost(t, { events })
  for (const path of ['/api/tokens', '/early', '/act', '/missing', 'in the query']) {
    for (const isChunked of [false, true]) {
      const { token, hash } = await issue({ role: 'admin' })
      const parked = await Parked.send(t, app, path === 'in the query' ? `/act?token=${token}` : path, token, { isChunked })
      const { accepted } = (await app.tokens.metrics()).authentications
      await app.tokens.revoke(hash)
      const { status, text } = await parked.finish()
      t.equal(status, 401, path)
      t.match(text, '{"code":"UNAUTHORIZED","message":"The token is not valid","data":{"session":false}}')
      t.match(text, /www-authenticate: Bearer realm="cedalo", error="invalid_token"/)
      t.equal(/referrer-policy: no-referrer/.test(text), path === 'in the query')
      const { authentications } = await app.tokens.metrics()
      t.strictSame([authentications.accepted, authentications.unknown], [accepted, 0], 'counted once')
      t.match(events.filter(event => event.type === 'authentication.rejected' && event.hash === hash), [{ reason: 'unknown or revoked' }], 'reported once')
    }
  }
  t.strictSame(acts, [])
  t.strictSame((await app.tokens.list()).filter(({ name }) => name === NEW_TOKEN.name), [])
})

t.test('a token that expires, or gets another role or name, while a request is still being sent is 401', async t => {
  const { app, issue, database } = await createHost(t)
  for (const change of ["valid_until = '2000-01-01'", "role = 'editor'", "name = 'renamed'"]) {
    const { token, hash } = await issue({ role: 'admin' })
    const profile = async (): Promise<string> => (await app.inject({ method: 'POST', url: '/act', headers: bearer(token) })).body
    const parked = await Parked.send(t, app, '/api/tokens', token)
    const before = await profile()
    await database.query(`UPDATE tokens SET ${change} WHERE hash = $1`, [hash])
    while (await profile() === before) await setTimeout(10)
    t.equal((await parked.finish()).status, 401, change)
  }
})

t.test('tokens that were switched off while a request is still being sent: 404 on the four routes, 401 on the others, and on again changes nothing', async t => {
  const { app, issue } = await createHost(t)
  const { token } = await issue({ role: 'admin' })
  for (const isChunked of [false, true]) {
    for (const [path, status, code] of [['/api/tokens', 404, 'NOT_FOUND'], ['/act', 401, 'UNAUTHORIZED'], [`/act?token=${token}`, 401, 'UNAUTHORIZED']] as const) {
      const parked = await Parked.send(t, app, path, token, { isChunked })
      await app.tokens.disable()
      const answer = await parked.finish()
      t.match([answer.status, answer.text], [status, code], path)
      await app.tokens.enable()
    }
  }
  const parked = await Parked.send(t, app, '/act', token)
  await app.tokens.disable()
  await app.tokens.enable()
  t.match(await parked.finish(), { status: 200, text: '"user":{"username":"token:' })
})

t.test('with the hook preHandler a request that is still being sent when tokens are switched off is as without the plugin', async t => {
  const { app, issue } = await createHost(t, { hook: 'preHandler' })
  const { token, hash } = await issue({ role: 'admin' })
  const parked = await Parked.send(t, app, '/act', token)
  await app.tokens.disable()
  t.match(await parked.finish(), { status: 200, text: '{"user":null,"token":null}' })
  await app.tokens.enable()
  const later = await Parked.send(t, app, '/api/tokens', token)
  await app.tokens.revoke(hash)
  t.equal((await later.finish()).status, 401)
})

t.test('a token is used and counted once a request, though it is judged twice', async t => {
  const { app, issue } = await createHost(t)
  const { token, hash } = await issue()
  const { accepted } = (await app.tokens.metrics()).authentications
  const { cacheHits } = await app.tokens.metrics()
  const parked = await Parked.send(t, app, '/act', token)
  const used = (await app.tokens.get(hash))?.lastUsed
  await setTimeout(20)
  t.match(await parked.finish(), { status: 200 })
  t.equal((await app.tokens.get(hash))?.lastUsed, used)
  const metrics = await app.tokens.metrics()
  t.strictSame([metrics.authentications.accepted, metrics.cacheHits], [accepted + 1, cacheHits])
})

t.test('a store out of reach when the body has arrived is 500, and a token that the host took away is not given back', async t => {
  const { app, issue, database } = await createHost(t)
  const { token } = await issue()
  t.match((await app.inject({ method: 'POST', url: '/act', headers: { ...bearer(token), 'x-anonymous': 'yes' } })).json(), { user: null, token: null })

  const parked = await Parked.send(t, app, '/act', token)
  // What is believed of it is void, and Postgres does not say.
  await database.query("UPDATE tokens SET role = 'editor'")
  await database.query('ALTER TABLE tokens RENAME TO elsewhere')
  while ((await app.inject({ method: 'POST', url: '/act', headers: bearer(token) })).statusCode !== 500) await setTimeout(10)
  t.match(await parked.finish(), { status: 500, text: '"code":"INTERNAL_ERROR"' })
})
