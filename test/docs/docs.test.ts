import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { access, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import { promisify } from 'node:util'
import secureSession from '@fastify/secure-session'
import swagger from '@fastify/swagger'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import pg from 'pg'
import * as prometheus from 'prom-client'
import t from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { security, securitySchemes } from '../../schemas/index.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { collectEvents } from '../support/events.js'
import { createDatabase, createSeparateDatabase, databaseUrl } from '../support/database.js'
import { blocksOf, runBlock } from '../support/docs.js'
import { lacks } from '../support/tools.js'
import { until } from '../support/until.js'

t.test('docs/host-integration.md: the code blocks make a host that works as the page says', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const [
    register = '', guard = '', optOut = '', malformed = '', , , , openapi = '', , ...more
  ] = await blocksOf('docs/host-integration.md', 'ts')
  t.strictSame(more, [], 'every block is known to this test')
  const handler = async (request: { url: string }): Promise<object> => ({ url: request.url })

  const { buildApp = async () => Fastify() } = await runBlock(
    `export async function buildApp () {${malformed.replace(/^import .*$/m, '')}; return app}`, { Fastify }
  ) as { buildApp?: () => Promise<FastifyInstance> }
  const app = await buildApp()
  t.teardown(() => app.close())
  await app.register(secureSession, { key: Buffer.alloc(32, 1) })
  app.get('/login/:role', async request => {
    request.session.set('user' as never, { name: 'me', roles: [(request.params as { role: string }).role] } as never)
  })
  for (const block of [openapi, register, guard, optOut]) {
    await runBlock(block, {
      app, tokensPlugin, options: { postgres, schema, secret: SECRET }, handler, swagger, security, securitySchemes
    })
  }

  const login = async (role: string): Promise<{ cookie: string }> => ({
    cookie: String((await app.inject({ url: `/login/${role}` })).headers['set-cookie'])
  })
  t.equal((await app.inject({ url: '/api/tokens', headers: await login('admin') })).statusCode, 200)
  t.equal((await app.inject({ url: '/api/tokens', headers: await login('editor') })).statusCode, 403)
  t.equal((await app.inject({ url: '/api/tokens' })).statusCode, 401)
  const { token } = await app.tokens.issue({
    name: 'editor', role: 'editor', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  t.equal((await app.inject({ url: '/settings', headers: bearer(token) })).statusCode, 200)
  t.equal((await app.inject({ url: '/settings', headers: await login('viewer') })).statusCode, 403)
  t.strictSame((await app.inject({ url: `/reset-password?token=${token}` })).json(), {
    url: `/reset-password?token=${token}`
  })
  const refused = await app.inject({ url: `/%zz?token=${token}` })
  t.strictSame([refused.statusCode, refused.json()], [400, { code: 'INVALID', message: 'The URL is malformed' }])
  const described = app.swagger() as { paths?: object, security?: object[] }
  t.strictSame([Object.keys(described.paths ?? {}).slice(0, 2), described.security], [
    ['/api/tokens', '/api/tokens/{tokenHash}'], security
  ])
})

t.test('docs/host-integration.md: what a token opened ends when it is deleted with SQL, and when it is revoked on another node', async t => {
  const { url: postgres, schema, query } = await createDatabase(t)
  const [, , , , live = '', events = '', upgrades = ''] = await blocksOf('docs/host-integration.md', 'ts')
  const bus = new EventEmitter()
  const start = async (...blocks: string[]): Promise<FastifyInstance> => {
    const app = Fastify({ forceCloseConnections: true })
    t.teardown(() => app.close())
    await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
    if (blocks.includes(live)) await app.register(websocket)
    await app.register(async child => {
      for (const block of blocks) await runBlock(block, { app: child, bus, PassThrough, WebSocketServer })
    })
    await app.listen({ host: '127.0.0.1', port: 0 })
    return app
  }
  const [one, raw, other] = [
    await start(live, events), await start(upgrades), await start()
  ] as [FastifyInstance, FastifyInstance, FastifyInstance]
  const hostOf = ({ server }: FastifyInstance): string => `127.0.0.1:${(server.address() as AddressInfo).port}`
  const ways: Array<(hash: string) => Promise<unknown>> = [
    async hash => await query('DELETE FROM tokens WHERE hash = $1', [hash]),
    async hash => await other.tokens.revoke(hash)
  ]
  for (const [index, end] of ways.entries()) {
    const { token, hash } = await other.tokens.issue({
      name: `open ${index}`, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
    })
    const polite = new WebSocket(`ws://${hostOf(one)}/live?token=${token}`)
    const own = new WebSocket(`ws://${hostOf(raw)}/?token=${token}`)
    await Promise.all([once(polite, 'open'), once(own, 'open')])
    own.send('hello')
    t.equal(String((await once(own, 'message'))[0]), `token:open ${index}: hello`)
    const stream = await fetch(`http://${hostOf(one)}/events`, { headers: bearer(token) })
    const text = stream.text()
    bus.emit('event', { n: index })
    const codes = Promise.all([once(polite, 'close'), once(own, 'close')])
    await end(hash)
    t.strictSame((await codes).map(([code]) => code as number), [1008, 1008])
    t.equal(await text, `:\n\ndata: {"n":${index}}\n\n`)
    const refused = new WebSocket(`ws://${hostOf(raw)}/?token=${token}`)
    t.match(await once(refused, 'error').then(([error]) => error as Error), { message: /401/ })
  }
})

t.test("docs/host-integration.md: the harness for a host's tests builds isolated apps, issues tokens and leaves nothing behind", async t => {
  const { query } = await createDatabase(t)
  const [, , , , , , , , harness = ''] = await blocksOf('docs/host-integration.md', 'ts')
  const schemas: string[] = []
  async function buildApp (options: TokensPluginOptions): Promise<FastifyInstance> {
    schemas.push(String(options.schema))
    const app = Fastify()
    await app.register(tokensPlugin, options)
    app.get('/settings', { preHandler: app.tokens.requireRole('editor') }, async () => 'settings')
    return app
  }
  const ended: Array<() => Promise<void>> = []
  const context = { after: (end: () => Promise<void>) => { ended.push(end) } }
  const process = { env: { DATABASE_URL: await databaseUrl() } }
  const { buildTestApp, bearer } = await runBlock(harness, { buildApp, randomUUID, pg, process }) as {
    buildTestApp: (t: typeof context) => Promise<FastifyInstance>
    bearer: (app: FastifyInstance, role: string) => Promise<{ authorization: string }>
  }
  const [one, other] = [await buildTestApp(context), await buildTestApp(context)]
  const headers = await bearer(one, 'editor')
  t.equal((await one.inject({ url: '/settings', headers })).statusCode, 200)
  t.equal((await one.inject({ url: '/settings', headers: await bearer(one, 'viewer') })).statusCode, 403)
  t.equal((await other.inject({ url: '/settings', headers })).statusCode, 401)
  const count = async (): Promise<unknown> => (await query(
    'SELECT count(*)::int FROM pg_namespace WHERE nspname = ANY ($1)', [schemas]
  ))[0]?.count
  t.equal(await count(), 2)
  for (const end of ended) await end()
  t.equal(await count(), 0)
})

t.test('docs/postgres.md: the privileges on the page are enough for an owner that migrates, and for a node with migrate: false; docs/deployment.md removes both', async t => {
  const [owner, node] = ['owner', 'node'].map(name => `${name}_${randomUUID().replaceAll('-', '')}`) as [string, string]
  const server = new pg.Client(await databaseUrl())
  await server.connect()
  t.teardown(async () => {
    await server.query(`DROP ROLE IF EXISTS ${owner}, ${node}`)
    await server.end()
  })
  const { url, query } = await createSeparateDatabase(t)
  const [forOwner = '', forNode = '', ...more] = await blocksOf('docs/postgres.md', 'sql')
  const [migrate = '', ...others] = await blocksOf('docs/postgres.md', 'js')
  t.strictSame([more, others], [[], []], 'every block is known to a test')
  const named = (sql: string): string => sql.replaceAll('mmc_owner', owner).replaceAll(
    'DATABASE mmc', `DATABASE ${new URL(url).pathname.slice(1)}`
  ).replaceAll(/ (ROLE|TO) mmc\b/g, ` $1 ${node}`)
  const as = (role: string): TokensPluginOptions['postgres'] => ({ connectionString: url, options: `-c role=${role}` })

  await query(named(forOwner))
  await runBlock(migrate, {
    Fastify, tokensPlugin, process: { env: { OWNER_DATABASE_URL: as(owner), TOKENS_SECRET: SECRET } }
  })
  await query(named(forNode))
  t.strictSame(
    await query("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'mmc_tokens'"), [{ tableowner: owner }]
  )
  t.strictSame(await query('SELECT rolsuper FROM pg_roles WHERE rolname = ANY ($1)', [[owner, node]]), [
    { rolsuper: false }, { rolsuper: false }
  ])

  const app = Fastify()
  t.teardown(() => app.close())
  const events = collectEvents()
  const bootstrap = `.data/bootstrap-${node}.json`
  await writeFile(bootstrap, JSON.stringify([
    { name: 'expired', role: 'viewer', validUntil: '2020-01-01T00:00:00Z', hash: '0'.repeat(64) }
  ]))
  t.teardown(() => rm(bootstrap))
  await app.register(tokensPlugin, {
    postgres: as(node),
    secret: SECRET,
    migrate: false,
    bootstrap,
    bootstrapStrict: true,
    purgeExpiredAfter: 0,
    onEvent: events.onEvent
  })
  await events.until(1, 'token.expired-purged')
  app.get('/', { preHandler: app.tokens.requireRole('viewer') }, async () => 'in')
  const { token, hash } = await app.tokens.issue({
    name: 'x', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  t.equal((await app.inject({ url: '/', headers: bearer(token) })).statusCode, 200)
  t.equal((await app.tokens.list()).length, 1)
  t.equal(await app.tokens.revoke(hash), true)
  t.equal((await app.inject({ url: '/', headers: bearer(token) })).statusCode, 401)
  await events.until(1, 'token.revoked')
  await app.close()
  for (const sql of await blocksOf('docs/deployment.md', 'sql')) await query(named(sql))
  t.strictSame(await query('SELECT FROM pg_roles WHERE rolname = ANY ($1)', [[owner, node]]), [])
})

t.test('docs/http-api.md: the commands, run one after another, return what the page says', { skip: lacks('curl') }, async t => {
  const { app, issue } = await buildHost(t, { tokens: { expiryHeader: true } })
  const host = await app.listen({ host: '127.0.0.1', port: 0 })
  const lines = await blocksOf('docs/http-api.md', 'sh')
  const expiry = lines.pop() ?? ''
  const { stdout } = await promisify(execFile)('sh', [
    '-ec', `${lines.join('\necho\n').replace(/^HOST=.*$/m, `HOST=${host}`)}\nrm "$JAR"`
  ])
  const [
    login, created = {}, list, page, unused, one, remaining
  ] = stdout.split('\n').filter(line => /^[{[]/.test(line)).map(line => JSON.parse(line) as object)
  const [shown = ''] = await blocksOf('docs/http-api.md', 'json')
  const example = JSON.parse(shown) as Record<string, string>
  const { token, ...record } = created as Record<string, string>
  t.strictSame(login, { code: 'SUCCESS', message: 'Authorized', successful: true })
  t.strictSame(Object.keys(created), Object.keys(example))
  for (const name of ['name', 'validUntil', 'role', 'requestedBy']) t.equal(record[name], example[name])
  t.ok(token?.startsWith(example.token?.replace('…', '') ?? 'none'))
  t.strictSame([list, page, unused, one, remaining], [[record], [record], [], record, []])

  for (const [days, warning] of [
    [3, /^this token expires at \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\n$/], [30, /^$/]
  ] as const) {
    const { token } = await issue({ validUntil: new Date(Date.now() + days * 24 * 60 * 60 * 1000).toISOString() })
    t.match(
      (await promisify(execFile)('sh', ['-ec', expiry], { env: { ...process.env, HOST: host, TOKEN: token } })).stdout,
      warning
    )
  }
})

t.test('docs/host-integration.md names all members of app.tokens, and no others', async t => {
  const { app } = await buildHost(t, { tokens: { enabled: false } })
  const section = /## `app.tokens`\n([^]*?)\n## /.exec(await readFile('docs/host-integration.md', 'utf8'))?.[1] ?? ''
  const named = [...section.matchAll(/`app\.tokens\.(\w+)/g)].map(([, name]) => name)
  t.strictSame(named.sort(), Object.keys(app.tokens).sort())
})

t.test('README.md names the versions of Node.js and Fastify that .ci/run tests', async t => {
  const readme = await readFile('README.md', 'utf8')
  const gate = await readFile('.ci/run', 'utf8')
  const [, oldest = '', others = ''] = /OLDEST_NODE=(\S+) OTHER_NODES='([^']+)'/.exec(gate) ?? []
  const { peerDependencies, devDependencies, engines } = JSON.parse(await readFile('package.json', 'utf8')) as
    Record<'peerDependencies' | 'devDependencies', { fastify: string }> & { engines: { node: string } }
  t.equal(engines.node, `>=${oldest}`)
  t.match(readme, `| Node.js | ${oldest} or later | ${[oldest, ...others.split(' ')].join(', ')} |`)
  t.match(readme, `| Fastify | 5 | ${peerDependencies.fastify.slice(1)} and ${devDependencies.fastify} |`)
})

t.test('docs/security.md: every test that it names exists', async t => {
  const tests = new Set(
    [...(await readFile('docs/security.md', 'utf8')).matchAll(/`(test\/[^`]+\.ts)`/g)].map(([, file = '']) => file)
  )
  t.ok(tests.size > 10)
  for (const file of tests) await t.resolves(access(file), file)
})

t.test('docs/operations.md: the commands for a leaked token find and revoke it; the blocks for audit and metrics work in a host', { skip: lacks('curl', 'sha256sum') }, async t => {
  const [, , leaked = ''] = await blocksOf('docs/operations.md', 'sh')
  const { app, issue } = await buildHost(t)
  const host = await app.listen({ host: '127.0.0.1', port: 0 })
  const { token, ...record } = await issue()
  const login = 'JAR=$(mktemp); curl -s -o /dev/null -c $JAR -d \'username=cedalo&password=secret\' "$HOST/auth?json=true"'
  const { stdout } = await promisify(execFile)('sh', ['-ec', `${login}\n${leaked}\nrm "$JAR"`], {
    env: { ...process.env, HOST: host, TOKEN: token }
  })
  t.strictSame([JSON.parse(stdout), await app.tokens.list()], [record, []])

  const [audit = '', once = '', metrics = ''] = await blocksOf('docs/operations.md', 'ts')
  const { url: postgres, schema } = await createDatabase(t)
  const own = Fastify()
  t.teardown(() => own.close())
  const told: string[] = []
  const values = {
    app: own,
    tokensPlugin,
    options: { postgres, schema, secret: SECRET },
    audit: { write: (line: string) => { told.push(line) } },
    Gauge: prometheus.Gauge,
    register: prometheus.register
  }
  await runBlock(audit, values)
  await runBlock(metrics, values)
  const monitor = await own.tokens.issue({
    name: 'prometheus', role: 'monitoringViewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  await until(() => told.length !== 0)
  t.match(told.map(line => JSON.parse(line) as object), [{ type: 'token.issued', name: 'prometheus' }])
  t.equal((await own.inject('/metrics')).statusCode, 401)
  const { body } = await own.inject({ url: '/metrics', headers: bearer(monitor.token) })
  t.match(body, 'mmc_tokens_authentications{outcome="accepted"} 1')
  t.match(body, /mmc_tokens_lease_held [01]/)
  const [, shown = ''] = await blocksOf('docs/operations.md', 'json')
  const shapeOf = (value: object): unknown => JSON.parse(JSON.stringify(value, (_key, member: unknown) =>
    typeof member === 'number' ? 0 : Array.isArray(member) ? member.slice(0, 1) : member))
  const tokens = [{ role: 'monitoringViewer', state: 'active', count: 0 }]
  t.strictSame(shapeOf(await own.tokens.metrics()), { ...shapeOf(JSON.parse(shown) as object) as object, tokens })

  const { url, query } = await createSeparateDatabase(t)
  const [, statement = ''] = /`(CREATE TABLE audit .*)`/.exec(await readFile('docs/operations.md', 'utf8')) ?? []
  await query(statement.replace('audit', 'public.audit'))
  type OnEvent = (event: object) => Promise<void>
  let onEvent: OnEvent | undefined
  const pool = new pg.Pool({ connectionString: url })
  t.teardown(() => pool.end())
  await runBlock(once, {
    app: { async register (_plugin: unknown, options: { onEvent: OnEvent }) { onEvent = options.onEvent } },
    tokensPlugin,
    options: {},
    pg: { Pool: function () { return pool } }
  })
  const event = JSON.parse(told[0] ?? '') as { id: string }
  for (let times = 0; times < 2; times++) await onEvent?.(event)
  t.strictSame(await query('SELECT id, event FROM public.audit'), [{ id: event.id, event }])
})

t.test('docs/operations.md: the statement for a restored backup works', async t => {
  const { database, issue, app } = await buildHost(t)
  const [one, other] = [await issue(), await issue()]
  const [statement = '', ...more] = await blocksOf('docs/operations.md', 'sql')
  t.strictSame(more, [])
  await database.query(statement.replace('mmc_tokens.', '').replace('…', one.hash).replace('…', '0'.repeat(64)))
  t.match(await app.tokens.list(), [{ hash: other.hash }])
})

t.test('docs/operations.md lists every log line of the plugin, with its level, and no others', async t => {
  const lib = await readdir('lib', { recursive: true, withFileTypes: true })
  const source = (await Promise.all(lib.filter(entry => entry.isFile()).map(async ({ parentPath, name }) =>
    await readFile(`${parentPath}/${name}`, 'utf8')))).join('')
  const logged = [...source.matchAll(/log\.(info|warn|error)\([^'`\n]*['`]([^'`$]+)/g)].map(([, level, line = '']) =>
    `${line.trim()} (${level})`)
  for (const [, line] of source.matchAll(
    /^ {2}'(?:token|authentication)\.[\w-]+': '([^']+)'/gm
  )) logged.push(`${line} (info)`)
  for (const [, line] of source.matchAll(/createTask\(\{.* failure: '([^']+)'/g)) logged.push(`${line} (warn)`)
  const told = [
    ...(await readFile('docs/operations.md', 'utf8')).matchAll(/^\| `([^`]+)` \| (info|warn|error) \|/gm)
  ].map(([, line, level]) => `${line} (${level})`)
  t.equal(told.length, logged.length)
  for (const line of told) {
    t.ok(logged.some(known =>
      known.startsWith(line.replace(/ \(.*/, '')) && known.endsWith(line.replace(/.* \(/, '('))), line)
  }
})

t.test('docs/architecture.md: the tree of lib and schemas is the tree', async t => {
  const tree = (await blocksOf('docs/architecture.md', '')).find(block => block.startsWith('schemas/')) ?? ''
  const folders: string[] = []
  const named = tree.slice(0, tree.indexOf('\ntest/')).split('\n').flatMap(line => {
    const [, indent = '', name = ''] = /^( *)(\S+)/.exec(line) ?? []
    folders.length = indent.length / 2
    if (name.endsWith('/')) folders.push(name)
    return name.endsWith('.ts') ? [folders.join('') + name] : []
  })
  const files = await Promise.all(['lib', 'schemas'].map(async folder =>
    (await readdir(folder, { recursive: true })).filter(name => name.endsWith('.ts')).map(name => `${folder}/${name}`)))
  t.strictSame(named.sort(), files.flat().sort())
})
