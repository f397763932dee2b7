import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyRequest, type InjectOptions } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin, { type PostgresPool, type TokensPluginOptions } from '../../lib/index.js'
import { createLifecycle } from '../../lib/lifecycle.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { type Database, createDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { createHost } from '../support/host.js'

t.test('disabled from the start, the four routes are 404 for any request, and nothing connects', { buffered: true }, async t => {
  let connections = 0
  const server = createServer(socket => {
    connections++
    socket.destroy()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { app, login } = await buildHost(t, {
    tokens: { enabled: false, postgres: { host: '127.0.0.1', port: (server.address() as AddressInfo).port } }
  })
  t.equal(app.tokens.enabled, false)
  for (const headers of [{}, await login(), { ...bearer('x'), accept: 'text/html' }, { 'content-type': 'garbage' }]) {
    for (const [method, url] of [
      ['GET', '/api/tokens'], ['POST', '/api/tokens'], ['GET', '/api/tokens/x'], ['DELETE', '/api/tokens/x']
    ] as const) {
      const answer = await app.inject({ method, url, headers, ...method === 'POST' && { payload: '{' } })
      t.equal(answer.statusCode, 404)
      t.strictSame(answer.json(), { code: 'NOT_FOUND', message: 'Plugin not enabled' })
      t.equal(answer.headers['cache-control'], 'no-store')
    }
  }
  const calls: Array<Promise<unknown>> = [
    app.tokens.list(), app.tokens.get('x'), app.tokens.revoke('x'),
    app.tokens.issue({ name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  ]
  for (const call of calls) {
    await t.rejects(call, { statusCode: 404, code: 'NOT_FOUND' })
  }
  t.equal(connections, 0)
  await t.rejects(app.tokens.enable())
  t.not(connections, 0, 'this test would notice')
})

t.test('enable() connects and migrates if needed; if that fails, it rejects and tokens stay disabled', { buffered: true }, async t => {
  const { app, login } = await buildHost(t, { tokens: { enabled: false } })
  await app.tokens.enable()
  t.equal(app.tokens.enabled, true)
  t.equal((await app.inject({ url: '/api/tokens', headers: await login() })).statusCode, 200)

  const other = await buildHost(t, {
    tokens: { enabled: false, postgres: 'postgres://nobody:hidden@127.0.0.1:1/nothing' }
  })
  await t.rejects(other.app.tokens.enable(), { message: /127\.0\.0\.1:1, database "nothing"/ })
  t.equal(other.app.tokens.enabled, false)
  t.equal((await other.app.inject({ url: '/api/tokens', headers: await other.login() })).statusCode, 404)
})

t.test('a disable() during enable() wins', async t => {
  const { app } = await buildHost(t, { tokens: { enabled: false } })
  await Promise.all([app.tokens.enable(), app.tokens.disable()])
  t.equal(app.tokens.enabled, false)
})

t.test('app.tokens.authenticate resolves with null if tokens are disabled before Postgres has failed to answer', async t => {
  const { app, issue, database } = await buildHost(t)
  const { token } = await issue()
  const locker = new pg.Client(database.url)
  await locker.connect()
  t.teardown(() => locker.end())
  await locker.query(`BEGIN; LOCK TABLE ${database.schema}.tokens IN ACCESS EXCLUSIVE MODE`)
  const asking = app.tokens.authenticate(token)
  await app.tokens.disable()
  t.equal(await asking, null)
  t.equal((await app.tokens.metrics()).authentications.failed, 0)
})

t.test('disable() takes effect immediately: requests with a token are as without the plugin', async t => {
  const { app, issue, login } = await buildHost(t)
  const { token } = await issue({ role: 'admin' })
  await app.tokens.disable()
  t.equal((await app.inject({ url: '/api/profile', headers: bearer(token) })).statusCode, 401)
  t.strictSame(
    (await app.inject({ url: '/api/profile', headers: { ...bearer(token), ...await login('viewer') } })).json(),
    { username: 'viewer', roles: ['viewer'] }
  )
  t.equal(
    (await app.inject({ url: `/api/profile?token=${token}x`, headers: await login('viewer') })).statusCode,
    200,
    'no refusal either'
  )
  await app.tokens.enable()
  t.strictSame((await app.inject({ url: '/api/profile', headers: bearer(token) })).json(), {
    username: 'token:token 1', roles: ['admin']
  })
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

const FORGED = ['{"alg":"HS256","typ":"JWT"}', '{"iss":"cedalo"}', 'x'].map(part =>
  Buffer.from(part).toString('base64url')).join('.')

/** A place where a request is held: it says that it has arrived, and goes on when it may. */
class Gate {
  #arrive = (): void => {}
  #open = (): void => {}
  readonly arrived = new Promise<void>(resolve => { this.#arrive = resolve })
  readonly #opened = new Promise<void>(resolve => { this.#open = resolve })

  async pass (): Promise<void> {
    this.#arrive()
    await this.#opened
  }

  open (): void {
    this.#open()
  }
}

interface ToggleHost {
  app: FastifyInstance
  database: Database
  /** What a hook of the host's own does before ours judges, such as asking a session store. */
  hold: { pass: (request: FastifyRequest) => Promise<void> }
  /** Requests by what they carry, for a route of the host's and for one of ours. */
  requests: (path: string) => Record<string, InjectOptions>
}

/** A host that tells what it sees of a request. */
async function build (t: Test, options: Partial<TokensPluginOptions> = {}): Promise<ToggleHost> {
  const database = await createDatabase(t)
  const app = await createHost({
    sessionKey: Buffer.alloc(32, 7),
    tokens: { postgres: database.url, schema: database.schema, secret: SECRET, ...options }
  })
  t.teardown(() => app.close())
  const hold: ToggleHost['hold'] = { pass: async () => {} }
  app.addHook('preValidation', async request => { await hold.pass(request) })
  const tell = async (request: FastifyRequest): Promise<object> => ({
    user: (request as { user?: unknown }).user ?? null,
    token: request.applicationToken &&
      request.applicationToken.name,
    query: Object.entries(request.query as object).sort(),
    url: request.url,
    originalUrl: request.originalUrl
  })
  app.get('/tell', tell)
  app.get('/typed', {
    schema: {
      querystring: {
        type: 'object', properties: { a: { type: 'integer' }, b: { type: 'string', default: 'by the schema' } }
      }
    }
  }, tell)
  await app.ready()

  const { issue } = await buildHost(t, { database })
  const [viewer, admin] = [
    (await issue({ name: 'viewer' })).token, (await issue({ name: 'admin', role: 'admin' })).token
  ]
  const login = await app.inject({
    method: 'POST',
    url: '/auth?json=true',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    payload: 'username=cedalo&password=secret'
  })
  const session = { cookie: String(login.headers['set-cookie']).split(';', 1)[0] ?? '' }
  const requests = (path: string): Record<string, InjectOptions> => ({
    nothing: { url: path },
    'a session': { url: `${path}?a=1`, headers: session },
    'a viewer token': { url: path, headers: bearer(viewer) },
    'an admin token': { url: path, headers: bearer(admin) },
    'a forged token': { url: path, headers: bearer(FORGED) },
    'a forged token beside a session': { url: path, headers: { ...bearer(FORGED), ...session } },
    'a viewer token in the query': { url: `${path}?a=1&token=${viewer}` },
    'an admin token in the query': { url: `${path}?token=${admin}&z=2` },
    'an admin token in the query beside a session': { url: `${path}?tok%65n=${admin}`, headers: session },
    'a forged token in the query': { url: `${path}?token=${FORGED}` },
    'two tokens': { url: `${path}?token=${viewer}`, headers: bearer(admin) },
    "another's parameter": { url: `${path}?token=reset` }
  })
  return { app, database, hold, requests }
}

/**
 * What a client is told, but for when a token was last used. A 404 of ours may well keep a URL with a token in it from
 * others.
 */
async function ask (app: FastifyInstance, request: InjectOptions): Promise<string> {
  const { statusCode, payload, headers } = await app.inject(request)
  const told = ['content-type', 'www-authenticate', 'cache-control', ...statusCode === 404
    ? []
    : ['referrer-policy']].map(name => headers[name] ?? null)
  return JSON.stringify([statusCode, told, payload.replace(/"lastUsed":"[^"]*"/g, '')])
}

interface Answers { enabled: string, disabled: string }

/** The two answers that there are to each request. */
async function answersOf ({ app }: ToggleHost, requests: Record<string, InjectOptions>): Promise<Map<string, Answers>> {
  const answers = new Map<string, Answers>()
  for (const [what, request] of Object.entries(requests)) {
    await app.tokens.disable()
    const disabled = await ask(app, request)
    await app.tokens.enable()
    answers.set(what, { disabled, enabled: await ask(app, request) })
  }
  return answers
}

for (const path of ['/tell', '/api/tokens']) {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    t.test(`${path}, ${hook}: under load and repeated toggling, every response is the enabled or the disabled one`, async t => {
      const host = await build(t, { hook })
      const requests = host.requests(path)
      const answers = await answersOf(host, requests)
      const differing = [...answers].filter(([, { enabled, disabled }]) => enabled !== disabled).map(([what]) => what)
      t.strictSame(differing, Object.keys(requests).filter(what =>
        path !== '/tell' || /(viewer|admin|forged) token|two/.test(what)), 'this test would notice')

      const { app } = host
      let changes = 0
      let waves = 0
      const seen = { enabled: 0, disabled: 0 }
      const isOver = (): boolean =>
        waves === 200 || (waves >= 10 && changes > 25 && seen.enabled > 25 && seen.disabled > 25)
      const turns = async (count: number): Promise<void> => { while (count-- > 0) await turn() }
      // The session store of the host takes its time, more for some than for others.
      let visits = 0
      host.hold.pass = () => turns(visits++ % 25)
      const toAndFro = async (): Promise<void> => {
        while (!isOver()) {
          await (app.tokens.enabled ? app.tokens.disable() : app.tokens.enable())
          await turns(1 + changes++ % 7)
        }
      }
      const wrong = new Map<string, string>()
      const askOnce = async (what: string, request: InjectOptions): Promise<void> => {
        const [before, since] = [app.tokens.enabled, changes]
        const answer = await ask(app, request)
        const { enabled, disabled } = answers.get(what) ?? { enabled: '', disabled: '' }
        const allowed = changes > since ? [enabled, disabled] : [before ? enabled : disabled]
        // A guard in `onRequest` may have let it in before tokens were switched off.
        const isEnded = hook === 'onRequest' && changes > since && answer.startsWith('[401,') &&
          answer.includes('The token is not valid')
        if (!allowed.includes(answer) && !isEnded) wrong.set(what, answer)
        if (enabled !== disabled && allowed.includes(answer)) seen[answer === enabled ? 'enabled' : 'disabled']++
      }
      const switching = toAndFro()
      for (; !isOver(); waves++) {
        await Promise.all(
          Object.entries(requests).flatMap(([what, request]) => [1, 2, 3, 4].map(() => askOnce(what, request)))
        )
      }
      await switching
      t.strictSame(Object.fromEntries(wrong), {})
      t.ok(changes > 25 && seen.enabled > 25 && seen.disabled > 25, JSON.stringify({ changes, ...seen }))
    })
  }
}

for (const path of ['/tell', '/typed', '/api/tokens']) {
  t.test(`${path}: a request in progress when disable() resolves is as without the plugin`, async t => {
    const host = await build(t)
    const requests = host.requests(path)
    const answers = await answersOf(host, requests)
    for (const [what, request] of Object.entries(requests)) {
      await host.app.tokens.enable()
      const gate = new Gate()
      host.hold.pass = () => gate.pass()
      const answer = ask(host.app, request)
      await gate.arrived
      await host.app.tokens.disable()
      gate.open()
      t.equal(await answer, answers.get(what)?.disabled, what)
    }
  })

  t.test(`${path}: a request in progress when enable() resolves gets the enabled or the disabled response`, async t => {
    const host = await build(t)
    const requests = host.requests(path)
    const answers = await answersOf(host, requests)
    for (const [what, request] of Object.entries(requests)) {
      await host.app.tokens.disable()
      const gate = new Gate()
      host.hold.pass = () => gate.pass()
      const answer = ask(host.app, request)
      await gate.arrived
      await host.app.tokens.enable()
      gate.open()
      const { enabled, disabled } = answers.get(what) ?? { enabled: '', disabled: '' }
      t.equal(await answer, await answer === enabled ? enabled : disabled, what)
    }
  })
}

t.test('while disabled, hooks of the host see each request unchanged', async t => {
  const { app, hold, requests } = await build(t)
  const met: Array<Record<string, unknown>> = []
  hold.pass = async ({ url, query }) => { met.push({ url, query }) }
  for (const [what, request] of Object.entries(requests('/tell'))) {
    await app.tokens.disable()
    await app.inject(request)
    t.equal(met.at(-1)?.url, request.url, what)
    t.equal('token' in (met.at(-1)?.query as object), /tok(en|%65n)=/.test(String(request.url)))
    await app.tokens.enable()
    await app.inject(request)
    t.equal(met.at(-1)?.url !== request.url, /(viewer|admin|forged) token in|two/.test(what), 'this test would notice')
  }
})

for (const hook of ['preHandler', 'onRequest'] as const) {
  t.test(`${hook}: a token that is being looked up when disable() resolves is not accepted`, async t => {
    const { url: connectionString } = await createDatabase(t)
    const pool = new pg.Pool({ connectionString })
    t.teardown(() => pool.end())
    let gate: Gate | undefined
    const connect: PostgresPool['connect'] = callback => {
      Promise.resolve(gate?.pass()).then(() => { pool.connect(callback as never) }, callback)
    }
    const postgres = {
      connect,
      end: () => pool.end(),
      get totalCount () { return pool.totalCount },
      on: pool.on.bind(pool),
      off: pool.off.bind(pool)
    }
    const host = await build(t, { hook, postgres })
    const { app } = host
    const requests = Object.entries({
      ...host.requests('/tell'), 'a schema for the query': host.requests('/typed')['a viewer token in the query'] ?? {}
    })
    for (const [what, request] of requests.filter(([what]) => /(viewer|admin) token|schema/.test(what))) {
      await app.tokens.disable()
      const expected = await ask(app, request)
      await app.tokens.enable()
      gate = new Gate()
      const answer = ask(app, request)
      await gate.arrived
      await app.tokens.disable()
      gate.open()
      gate = undefined
      t.equal(await answer, expected, what)
    }
  })
}

t.test('concurrent calls of enable() share one start: the bootstrap file is read once', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'mmc-tokens-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const bootstrap = join(folder, 'tokens.json')
  await writeFile(bootstrap, '[{}]')
  const errors: unknown[] = []
  const events = collectEvents()
  const { app } = await buildHost(t, { tokens: { enabled: false, bootstrap, onEvent: events.onEvent } })
  app.log.error = (...words: unknown[]) => { errors.push(words) }
  await Promise.all([app.tokens.enable(), app.tokens.enable()])
  t.equal(app.tokens.enabled, true)
  t.equal(errors.length, 1, 'its invalid entry is reported once')
  await app.tokens.enable()
  t.equal(errors.length, 1, 'nothing starts again')
})

t.test('a failed start rejects all its callers, and the next enable() starts again', async t => {
  const outcomes = [Promise.reject(new Error('away')), Promise.resolve()]
  const lifecycle = createLifecycle({ start: async () => { await outcomes.shift() }, stop: async () => {} })
  const results = await Promise.allSettled([lifecycle.enable(), lifecycle.enable()])
  t.strictSame(results.map(({ status }) => status), ['rejected', 'rejected'])
  t.equal(lifecycle.isEnabled, false)
  await lifecycle.enable()
  t.equal(lifecycle.isEnabled, true)
})

t.test('close() waits for a pending start, stops once, and leaves tokens disabled', async t => {
  const steps: string[] = []
  let finish = (): void => {}
  const lifecycle = createLifecycle({
    async start () {
      await new Promise<void>(resolve => { finish = resolve })
      steps.push('started')
    },
    async stop () { steps.push('stopped') }
  })
  const enabling = lifecycle.enable()
  const closing = Promise.all([lifecycle.close(), lifecycle.close()])
  finish()
  await Promise.all([enabling, closing])
  t.strictSame(steps, ['started', 'stopped'])
  t.equal(lifecycle.isEnabled, false)
  await t.rejects(lifecycle.enable(), { code: 'NOT_FOUND' }, 'nothing connects once it is closed')
  t.strictSame(steps, ['started', 'stopped'])
})

// At the end of the file, so that those that say "buffered" run beside each other, and all others alone.
t.jobs = 3
