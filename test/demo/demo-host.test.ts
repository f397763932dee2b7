import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { type EventEmitter, once } from 'node:events'
import { createRequire } from 'node:module'
import { type AddressInfo, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { bearer, buildHost } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { argumentsFor } from '../support/program.js'

// What the MMC says to a login, to a request without one, and on an unknown route.
const MMC_200 = { code: 'SUCCESS', message: 'Authorized', successful: true }
const MMC_401 = { code: 'UNAUTHORIZED', message: 'Unauthorized', data: { session: false } }
const MMC_404 = { code: 'NOT_FOUND', message: 'Resource not found' }

t.test('the commands that npm start prints log in, create, use and revoke a token, which is then refused', async t => {
  const demo = await startDemo(t, { DATABASE_URL: (await createSeparateDatabase(t)).url })
  t.match(
    demo.output(),
    `The demo host is listening at ${demo.address}/\nLogins: cedalo / secret (admin), editor / secret, viewer / secret\n`
  )

  const lines = /^JAR=[^]*^curl .*$/m.exec(demo.output())?.[0] ?? ''
  const missing = ['curl', 'sha256sum'].filter(tool => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0)
  if (missing.length > 0) {
    t.comment(
    `NOT RUN AS THEY STAND: this machine has no ${missing.join(', ')}. The same steps go over fetch.`
    )
  }
  const said = missing.length > 0 ? await walk(demo.address) : await run(`${lines}\nrm "$JAR"`)
  const [login = '', created = '', viewer = '', profile = '', expires = '', accepted = ''] = said.split(/\r?\n/)
  const [remaining = '', ...refused] = said.slice(said.indexOf('[]')).split(/\r?\n/)
  t.match(expires, /^application-token-expires: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/)
  t.match(accepted, /^# HELP mmc_tokens_authentications_total /)
  t.match(said, 'mmc_tokens_authentications_total{outcome="accepted"} 3')
  t.same(JSON.parse(login), MMC_200)
  const { token, ...record } = JSON.parse(created) as { token: string, name: string, hash: string }
  t.match(record, { name: /^try \d+$/, hash: digest(token), role: 'viewer', requestedBy: 'cedalo' })
  t.same(JSON.parse(viewer), { message: 'Hello, viewer' })
  t.same(JSON.parse(profile), { username: `token:${record.name}`, roles: ['viewer'] })
  t.same(JSON.parse(remaining), [])
  t.match(refused[0], /^HTTP\/1\.1 401/)
  t.match(JSON.parse(refused[refused.indexOf('') + 1] ?? ''), { ...MMC_401, message: String })

  await demo.stop()
  t.match(demo.output(), '/api/profile?token=[Redacted]', 'the log has the request')
  t.notMatch(demo.output(), token.slice(token.lastIndexOf('.')), 'but not the token')
})

t.test("npm start reads the admin's login and the base path from the environment", async t => {
  const demo = await startDemo(t, {
    DATABASE_URL: (await createSeparateDatabase(t)).url, CEDALO_MC_PROXY_BASE_PATH: '/mmc/', CEDALO_MC_USERNAME: 'root user', CEDALO_MC_PASSWORD: 'a better one'
  })
  t.match(demo.address, /\/mmc$/)
  t.match(demo.output(), `listening at ${demo.address}/\nLogins: root user / a better one (admin)`)
  const { status, headers } = await logIn(demo.address, 'root user', 'a better one')
  t.equal(status, 200)
  t.equal((await fetch(`${demo.address}/api/tokens`, { headers })).status, 200)
  t.equal((await fetch(new URL('/api/tokens', demo.address), { headers })).status, 404, 'nothing beside the base path')
  t.equal((await logIn(demo.address, 'cedalo', 'secret')).status, 401, 'instead of the default')
})

t.test('with TOKENS_ENABLED=false, the four routes are 404 and the rest of the host works', async t => {
  const demo = await startDemo(t, { DATABASE_URL: (await createSeparateDatabase(t)).url, TOKENS_ENABLED: 'false' })
  const { headers } = await logIn(demo.address)
  for (const [method, path] of [['GET', ''], ['POST', ''], ['GET', `/${digest('')}`], ['DELETE', `/${digest('')}`]]) {
    const response = await fetch(`${demo.address}/api/tokens${path}`, { method: String(method), headers })
    t.equal(response.status, 404, `${method} /api/tokens${path}`)
    t.same(await response.json(), { code: 'NOT_FOUND', message: 'Plugin not enabled' })
  }
  t.equal((await fetch(`${demo.address}/api/editor`, { headers })).status, 200)
})

t.test('two demo hosts on one database share sessions and tokens', async t => {
  const DATABASE_URL = (await createSeparateDatabase(t)).url
  const [one, other] = await Promise.all([startDemo(t, { DATABASE_URL }), startDemo(t, { DATABASE_URL })])
  const { headers } = await logIn(one.address)
  const profile = await fetch(`${other.address}/api/profile`, { headers })
  t.same(await profile.json(), { username: 'cedalo', roles: ['admin'] })

  const { token, hash } = await createToken(one.address, headers, 'shared')
  const used = await fetch(`${other.address}/api/profile`, { headers: bearer(token) })
  t.same(await used.json(), { username: 'token:shared', roles: ['viewer'] })
  t.equal((await fetch(`${other.address}/api/tokens/${hash}`, { method: 'DELETE', headers })).status, 200)
  t.equal((await fetch(`${other.address}/api/profile`, { headers: bearer(token) })).status, 401)
})

t.test('POST /auth logs all three users in, with redirects for browsers and JSON for programs', async t => {
  const { app } = await buildHost(t)
  const auth = (query: string, username: string, password = 'secret') => app.inject({
    method: 'POST',
    url: `/auth${query}`,
    headers: {
      'content-type': 'application/x-www-form-urlencoded'
    },
    payload: `username=${username}&password=${password}`
  })
  for (const [username, role] of [['cedalo', 'admin'], ['editor', 'editor'], ['viewer', 'viewer']] as const) {
    const asProgram = await auth('?json=true', username)
    t.equal(asProgram.statusCode, 200)
    t.same(asProgram.json(), MMC_200)
    const asBrowser = await auth('', username)
    t.equal(asBrowser.statusCode, 302)
    t.equal(asBrowser.headers.location, '/')
    t.same(
      (await app.inject({ url: '/api/profile', headers: { cookie: String(asBrowser.headers['set-cookie']) } })).json(),
      { username, roles: [role] }
    )

    const refused = await auth('?json=true', username, 'wrong')
    t.equal(refused.statusCode, 401)
    t.same(refused.json(), MMC_401)
    t.match((await auth('', username, 'wrong')).headers, { location: /^\/login/, 'set-cookie': undefined })
  }
})

t.test('/logout ends the session', async t => {
  const { app, login } = await buildHost(t)
  const response = await app.inject({ url: '/logout', headers: await login() })
  t.equal(response.statusCode, 302)
  t.match(response.headers['set-cookie'], /^mmc=;.*Max-Age=0/i)
})

t.test('/api/profile returns the user of a session or a token, and is 401 without either', async t => {
  const { app, login, issue } = await buildHost(t)
  t.same((await app.inject({ url: '/api/profile', headers: await login('editor') })).json(), {
    username: 'editor', roles: ['editor']
  })
  const { token } = await issue({ name: 'ci', role: 'monitoringViewer' })
  t.same((await app.inject({ url: '/api/profile', headers: bearer(token) })).json(), {
    username: 'token:ci', roles: ['monitoringViewer']
  })
  const refused = await app.inject('/api/profile')
  t.equal(refused.statusCode, 401)
  t.match(refused.json(), MMC_401)
})

t.test('/api/viewer requires a viewer or higher, /api/editor an editor or higher, by session and by token', async t => {
  const { app, login, issue } = await buildHost(t)
  for (const [role, username, viewer, editor] of [
    ['admin', 'cedalo', 200, 200], ['editor', 'editor', 200, 200], ['viewer', 'viewer', 200, 403],
    ['monitoringViewer', undefined, 403, 403], ['connectionManager', undefined, 403, 403]
  ] as const) {
    const principals = [bearer((await issue({ role })).token), ...username === undefined ? [] : [await login(username)]]
    for (const headers of principals) {
      t.equal((await app.inject({ url: '/api/viewer', headers })).statusCode, viewer, `${role} at /api/viewer`)
      t.equal((await app.inject({ url: '/api/editor', headers })).statusCode, editor, `${role} at /api/editor`)
    }
  }
  for (const url of ['/api/viewer', '/api/editor']) t.match((await app.inject(url)).json(), MMC_401)
})

t.test('/metrics requires a monitoringViewer or an admin, by session and by token', async t => {
  const { app, login, issue } = await buildHost(t)
  for (const [role, status] of [
    ['admin', 200], ['monitoringViewer', 200], ['editor', 403], ['viewer', 403], ['connectionManager', 403]
  ] as const) {
    const headers = bearer((await issue({ role })).token)
    t.equal((await app.inject({ url: '/metrics', headers })).statusCode, status, role)
  }
  t.equal((await app.inject({ url: '/metrics', headers: await login() })).statusCode, 200)
  t.equal((await app.inject({ url: '/metrics', headers: await login('editor') })).statusCode, 403)
  t.equal((await app.inject('/metrics')).statusCode, 401)
})

t.test('an unknown route is 404 with the MMC body, under a base path and beside it', async t => {
  const { app, login } = await buildHost(t, { basePath: '/mmc' })
  for (const url of ['/mmc/api/nothing', '/mmc/nothing', '/api/profile', '/mmc/page/nothing.js']) {
    for (const headers of [{}, await login()]) {
      const response = await app.inject({ url, headers })
      t.equal(response.statusCode, 404, url)
      t.same(response.json(), MMC_404)
    }
  }
})

t.test('/ws requires a viewer or higher: a real WebSocket with a query token opens, one without or with a lower role is refused', async t => {
  const { app, issue } = await buildHost(t)
  const address = (await app.listen({ host: '127.0.0.1', port: 0 })).replace('http', 'ws')
  const { token } = await issue({ name: 'dashboard' })
  const socket = new WebSocket(`${address}/ws?token=${token}`)
  t.same(await nextMessage(socket), { username: 'token:dashboard', roles: ['viewer'] })
  socket.send('"echo"')
  t.same(await nextMessage(socket), 'echo')
  socket.close()
  const lesser = await issue({ role: 'connectionManager' })
  for (const [query, status] of [['', 401], [`?token=${lesser.token}`, 403]]) {
    await t.rejects(once(new WebSocket(`${address}/ws${query}`), 'open'), {
      message: `Unexpected server response: ${status}`
    })
  }
})

t.test('a malformed URL is a 400, and one whose hash is too long a 414; their bodies do not repeat the token', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue()
  for (const [path, status] of [['/api/%zz', 400], [`/api/tokens/${'0'.repeat(101)}`, 414]] as const) {
    const response = await app.inject(`${path}?token=${token}`)
    t.equal(response.statusCode, status)
    t.match(response.json(), { code: 'INVALID', message: String })
    t.notMatch(response.body, token)
  }
})

interface Socket extends EventEmitter { send: (message: string) => void, close: () => void }

/** The client of the `ws` package that @fastify/websocket brings: Node.js 20 has none of its own. */
const { WebSocket } = createRequire(createRequire(import.meta.url).resolve('@fastify/websocket'))('ws') as {
  WebSocket: new (address: string) => Socket
}

async function nextMessage (socket: Socket): Promise<unknown> {
  const [message] = await once(socket, 'message')
  return JSON.parse(String(message))
}

/** `npm start` on a free port, until the test ends. */
async function startDemo (t: Test, environment: NodeJS.ProcessEnv) {
  const reserved = createServer().listen(0, 'localhost')
  await once(reserved, 'listening')
  const { port } = reserved.address() as AddressInfo
  await once(reserved.close(), 'close')
  const unset = {
    CEDALO_MC_PROXY_BASE_PATH: undefined,
    CEDALO_MC_USERNAME: undefined,
    CEDALO_MC_PASSWORD: undefined,
    TOKENS_ENABLED: undefined
  }
  const child = spawn(process.execPath, argumentsFor('test/support/start.ts'), {
    env: { ...process.env, ...unset, CEDALO_MC_PROXY_PORT: String(port), ...environment }
  })
  const closed = once(child, 'close')
  t.teardown(() => end(child, closed, 'SIGKILL'))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        output += chunk
        if (output.includes('Press Ctrl-C to stop.')) resolve()
      })
    }
    child.once('close', () => { reject(new Error(`npm start ended: ${output}`)) })
  })
  const address = /is listening at (\S+)\//.exec(output)?.[1] ?? ''
  return { address, output: () => output, stop: () => end(child, closed, 'SIGTERM') }
}

async function end (child: ChildProcess, closed: Promise<unknown>, signal: NodeJS.Signals): Promise<void> {
  child.kill(signal)
  await closed
}

async function logIn (address: string, username = 'cedalo', password = 'secret') {
  const response = await fetch(`${address}/auth?json=true`, {
    method: 'POST', body: new URLSearchParams({ username, password })
  })
  return {
    status: response.status,
    headers: {
      cookie: response.headers.getSetCookie()[0]?.split(';')[0] ??
    ''
    },
    body: await response.text()
  }
}

async function createToken (address: string, headers: Record<string, string>, name: string) {
  const response = await fetch(`${address}/api/tokens`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({
      name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z'
    })
  })
  return await response.json() as { token: string, hash: string }
}

async function run (script: string): Promise<string> {
  const child = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  return await text(child.stdout)
}

/** What the printed lines do and say, without curl. */
async function walk (address: string): Promise<string> {
  const { headers, body } = await logIn(address)
  const created = await createToken(address, headers, `try ${Date.now()}`)
  const asToken = { headers: bearer(created.token) }
  const viewer = await fetch(`${address}/api/viewer`, asToken)
  const profile = await fetch(`${address}/api/profile?token=${created.token}`)
  const remaining = await fetch(`${address}/api/tokens/${digest(created.token)}`, { method: 'DELETE', headers })
  const refused = await fetch(`${address}/api/viewer`, asToken)
  return [
    body, JSON.stringify(created), await viewer.text(), await profile.text(), await remaining.text(),
    `HTTP/1.1 ${refused.status}`, '', await refused.text()
  ].join('\n')
}

function digest (token: string): string {
  return createHash('sha256').update(token).digest('hex')
}
