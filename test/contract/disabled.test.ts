import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import Fastify from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

t.test('disabled from the start the four routes answer 404, whatever is sent, and nothing connects', async t => {
  let connections = 0
  const server = createServer(socket => {
    connections++
    socket.destroy()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { app, login } = await buildHost(t, { tokens: { enabled: false, postgres: { host: '127.0.0.1', port: (server.address() as AddressInfo).port } } })
  t.equal(app.tokens.enabled, false)
  for (const headers of [{}, await login(), { ...bearer('x'), accept: 'text/html' }, { 'content-type': 'garbage' }]) {
    for (const [method, url] of [['GET', '/api/tokens'], ['POST', '/api/tokens'], ['GET', '/api/tokens/x'], ['DELETE', '/api/tokens/x']] as const) {
      const answer = await app.inject({ method, url, headers, ...method === 'POST' && { payload: '{' } })
      t.equal(answer.statusCode, 404)
      t.strictSame(answer.json(), { code: 'NOT_FOUND', message: 'Plugin not enabled' })
      t.equal(answer.headers['cache-control'], 'no-store')
    }
  }
  const calls: Array<Promise<unknown>> = [app.tokens.list(), app.tokens.get('x'), app.tokens.revoke('x'), app.tokens.issue({ name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })]
  for (const call of calls) {
    await t.rejects(call, { statusCode: 404, code: 'NOT_FOUND' })
  }
  t.equal(connections, 0)
  await t.rejects(app.tokens.enable())
  t.not(connections, 0, 'this test would notice')
})

t.test('enable() connects and migrates where nothing was, and rejects and stays disabled where that fails', async t => {
  const { app, login } = await buildHost(t, { tokens: { enabled: false } })
  await app.tokens.enable()
  t.equal(app.tokens.enabled, true)
  t.equal((await app.inject({ url: '/api/tokens', headers: await login() })).statusCode, 200)

  const other = await buildHost(t, { tokens: { enabled: false, postgres: 'postgres://nobody:hidden@127.0.0.1:1/nothing' } })
  await t.rejects(other.app.tokens.enable(), { message: /127\.0\.0\.1:1, database "nothing"/ })
  t.equal(other.app.tokens.enabled, false)
  t.equal((await other.app.inject({ url: '/api/tokens', headers: await other.login() })).statusCode, 404)
})

t.test('a disable() during enable() wins', async t => {
  const { app } = await buildHost(t, { tokens: { enabled: false } })
  await Promise.all([app.tokens.enable(), app.tokens.disable()])
  t.equal(app.tokens.enabled, false)
})

t.test('disable() makes every token powerless at once: the host treats the request as it would without us', async t => {
  const { app, issue, login } = await buildHost(t)
  const { token } = await issue({ role: 'admin' })
  await app.tokens.disable()
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(token) })).statusCode, 401)
  t.strictSame((await app.inject({ url: '/api/profile', headers: { ...bearer(token), ...await login('viewer') } })).json(), { username: 'viewer', roles: ['viewer'] })
  t.equal((await app.inject({ url: `/api/profile?token=${token}x`, headers: await login('viewer') })).statusCode, 200, 'no refusal either')
  await app.tokens.enable()
  t.strictSame((await app.inject({ url: '/api/profile', headers: bearer(token) })).json(), { username: 'token:token 1', roles: ['admin'] })
})

t.test('the query parameter stays out of the log while the plugin is disabled and on routes that opt out', async t => {
  const lines: string[] = []
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ logger: { level: 'trace', stream: { write (line: string) { lines.push(line) } } } })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/out', { config: { applicationTokens: false } }, async request => {
    request.log.info({ req: request }, `asked for ${request.url}`)
    return request.query
  })
  t.strictSame((await app.inject({ url: '/out?token=canary1' })).json(), { token: 'canary1' })
  await app.tokens.disable()
  t.strictSame((await app.inject({ url: '/out?a=1&token=canary2' })).json(), { a: '1', token: 'canary2' })
  await app.inject({ url: '/missing?token=canary3' })
  t.notOk(lines.some(line => line.includes('canary')))
  t.match(lines.join(''), 'asked for /out?a=1&token=[Redacted]')
})
