import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import t, { type Test } from 'tap'
import type { TokensPluginOptions } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { blocksOf } from '../support/docs.js'
import { installHost, run } from './folder.js'

t.setTimeout(900_000)

const { load, path, runBlock } = await installHost(t, [
  'fastify@5.12.8', 'fastify-plugin@6.0.1', '@apollo/server@5.5.1', '@as-integrations/fastify@3.1.0', '@fastify/autoload@6.5.0',
  '@fastify/aws-lambda@6.4.1', '@fastify/cookie@11.1.5', '@fastify/express@4.0.7', '@fastify/middie@9.3.3',
  '@fastify/session@11.1.3', '@opentelemetry/api@1.9.1', '@opentelemetry/instrumentation@0.223.0',
  '@opentelemetry/instrumentation-http@0.223.0', '@opentelemetry/sdk-trace-node@2.12.1', 'graphql@16.15.0', 'pino-http@11.0.0'
])
interface Plugin { default: FastifyPluginAsync<Record<string, unknown>> }
const { default: Fastify } = await load<{ default: (options?: object) => FastifyInstance }>('fastify')
const { default: tokensPlugin } = await load<Plugin>('fastify-mmc-tokens')
const blocks = await blocksOf('docs/recipes.md', 'js')
const blockWith = (text: string): string => blocks.find(block => block.includes(text)) ?? ''

async function optionsFor (t: Test): Promise<TokensPluginOptions & Record<string, unknown>> {
  const { url: postgres, schema } = await createDatabase(t)
  return { postgres, schema, secret: SECRET }
}

function createApp (t: Test, options = {}): FastifyInstance {
  const app = Fastify(options)
  t.teardown(() => app.close())
  return app
}

/** A host at whose root the plugin is registered. */
async function createHost (t: Test, options = {}): Promise<FastifyInstance> {
  const app = createApp(t, options)
  await app.register(tokensPlugin, await optionsFor(t))
  return app
}

async function issue (app: FastifyInstance): Promise<{ token: string, hash: string }> {
  return await app.tokens.issue({
    name: 'ci', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
}

const FORGED = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJjZWRhbG8ifQ.x'

t.test('Apollo: the context has the token as its user, and a refused token never reaches a resolver', async t => {
  const app = await createHost(t)
  let calls = 0
  const resolvers = {
    Query: {
      who (_root: object, _args: object, { user }: { user: { username: string } | null }) {
        calls++
        return user?.username ?? null
      }
    }
  }
  await runBlock(blockWith("'@apollo/server'"), { app, typeDefs: 'type Query { who: String }', resolvers })
  const ask = async (headers = {}): Promise<{ statusCode: number, body: string }> => await app.inject({
    method: 'POST', url: '/graphql', headers: { ...headers, 'content-type': 'application/json' }, payload: '{"query":"{ who }"}'
  })
  const { token } = await issue(app)
  t.strictSame(JSON.parse((await ask(bearer(token))).body), { data: { who: 'token:ci' } })
  t.strictSame(JSON.parse((await ask()).body), { data: { who: null } })
  t.equal((await ask(bearer(FORGED))).statusCode, 401)
  t.equal(calls, 2)
})

t.test('@fastify/session: a guard of request.session.user lets tokens in, which make no session', async t => {
  const app = createApp(t)
  const sessions = new Map<string, unknown>()
  const store = {
    set (id: string, value: unknown, done: () => void) { sessions.set(id, value); done() },
    get (id: string, done: (error: null, value: unknown) => void) { done(null, sessions.get(id)) },
    destroy (id: string, done: () => void) { sessions.delete(id); done() }
  }
  await runBlock(`${blockWith("'@fastify/session'")}
    app.get('/guarded', { preHandler: guard }, async request => userOf(request))
    app.get('/login', async request => { request.session.user = { username: 'me', roles: ['admin'] } })`, {
    app, options: await optionsFor(t), secret: SECRET, store
  })
  const { token } = await issue(app)
  const asToken = await app.inject({ url: '/guarded', headers: bearer(token) })
  t.strictSame(asToken.json(), { username: 'token:ci', roles: ['viewer'] })
  t.strictSame([asToken.headers['set-cookie'], sessions.size], [undefined, 0])
  t.equal((await app.inject('/guarded')).statusCode, 401)
  const cookie = String((await app.inject('/login')).headers['set-cookie'])
  t.strictSame((await app.inject({ url: '/guarded', headers: { cookie } })).json(), { username: 'me', roles: ['admin'] })
  t.equal((await app.inject({ url: '/api/tokens', headers: { cookie } })).statusCode, 200)
  t.strictSame(
    (await app.inject({ url: '/guarded', headers: { cookie, ...bearer(token) } })).json(),
    { username: 'token:ci', roles: ['viewer'] }
  )
  t.equal((await app.inject({ url: '/guarded', headers: { cookie, ...bearer(FORGED) } })).statusCode, 401)
  t.equal(sessions.size, 1)
})

t.test('@fastify/express: middleware sees the token as its user, and no refused one', async t => {
  const app = createApp(t)
  const urls: string[] = []
  await runBlock(`${blockWith("'@fastify/express'")}
    app.use((req, res, next) => { urls.push(req.url); next() })
    app.get('/legacy/who', async request => request.raw.user)`, { app, options: await optionsFor(t), urls })
  const { token } = await issue(app)
  // Over HTTP: with Express, `inject` loses bodies.
  const address = await app.listen({ host: '127.0.0.1', port: 0 })
  const ask = async (path: string, headers = {}): Promise<unknown> => {
    const response = await fetch(address + path, { headers })
    const text = await response.text()
    return text === '' ? response.status : JSON.parse(text)
  }
  const who = { username: 'token:ci', roles: ['viewer'] }
  t.strictSame(await ask('/legacy/who', bearer(token)), who)
  t.strictSame(await ask(`/legacy/who?token=${token}`), who)
  t.equal(await ask('/legacy/who'), 401)
  t.match(await ask(`/legacy/who?token=${FORGED}`), { message: 'The token is not valid' })
  t.strictSame(urls, ['/legacy/who', '/legacy/who'])
})

t.test('@fastify/autoload: the plugin is there for the routes that it loads', async t => {
  const folder = join(path, 'autoloaded')
  await mkdir(join(folder, 'plugins'), { recursive: true })
  await mkdir(join(folder, 'routes'), { recursive: true })
  await writeFile(join(folder, 'plugins/tokens.js'), blockWith("{ name: 'tokens' }"))
  await writeFile(join(folder, 'routes/root.js'), `export default async app => {
    app.get('/', { preHandler: app.tokens.requireRole('viewer') }, async request => request.user)
  }`)
  const { postgres, secret, schema } = await optionsFor(t)
  Object.assign(process.env, { DATABASE_URL: postgres, TOKENS_SECRET: secret, TOKENS_SCHEMA: schema })
  const app = createApp(t)
  const { default: autoload } = await load<Plugin>('@fastify/autoload')
  await app.register(autoload, { dir: join(folder, 'plugins') })
  await app.register(autoload, { dir: join(folder, 'routes') })
  await app.ready()
  const { token } = await issue(app)
  t.strictSame((await app.inject({ url: '/', headers: bearer(token) })).json(), { username: 'token:ci', roles: ['viewer'] })
  t.equal((await app.inject('/')).statusCode, 401)
})

t.test("pino-http with the host's logger writes no token", async t => {
  const lines: string[] = []
  const app = await createHost(t, { logger: { level: 'info', stream: { write (line: string) { lines.push(line) } } } })
  await runBlock(blockWith("'pino-http'"), { app })
  app.get('/', async () => 'in')
  const { token } = await issue(app)
  t.equal((await app.inject(`/?token=${token}`)).body, 'in')
  t.equal(lines.filter(line => line.includes('request completed')).length, 2, 'one is of pino-http')
  t.notOk(lines.join('').includes(token))
})

const TRACED = `
import { registerInstrumentations } from '@opentelemetry/instrumentation'
import { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import { createRequire } from 'node:module'
import { http } from './http-instrumentation.js'

const exporter = new InMemorySpanExporter()
const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
provider.register()
registerInstrumentations({ tracerProvider: provider, instrumentations: [http] })
const require = createRequire(import.meta.url)
require('node:http')
const app = require('fastify').default()
const { DATABASE_URL: postgres, TOKENS_SECRET: secret, TOKENS_SCHEMA: schema } = process.env
await app.register(require('fastify-mmc-tokens'), { postgres, secret, schema })
app.get('/', async request => request.user)
const address = await app.listen({ port: 0, host: '127.0.0.1' })
const { token } = await app.tokens.issue({ name: 'ci', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
const users = []
for (const name of ['token', 'tok%65n']) users.push((await (await fetch(address + '/?a=1&' + name + '=' + token)).json()).username)
await app.close()
const spans = exporter.getFinishedSpans().map(({ attributes }) => attributes)
console.log(JSON.stringify({ users, token, queries: spans.map(span => span['url.query']), spans: JSON.stringify(spans) }))
`

t.test('OpenTelemetry: no span has the token', async t => {
  await writeFile(join(path, 'http-instrumentation.js'), blockWith('HttpInstrumentation'))
  await writeFile(join(path, 'traced.js'), TRACED)
  const { postgres, secret, schema } = await optionsFor(t)
  const { stdout } = await run(process.execPath, ['traced.js'], {
    cwd: path, env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: String(postgres), TOKENS_SECRET: String(secret), TOKENS_SCHEMA: schema }
  })
  const { users, token, queries, spans } = JSON.parse(stdout) as Record<'users' | 'queries', string[]> & Record<'token' | 'spans', string>
  t.strictSame(users, ['token:ci', 'token:ci'])
  t.strictSame(queries, ['a=1&token=REDACTED', 'a=1&token=REDACTED'])
  t.notOk(spans.includes(token))
})

t.test('@fastify/aws-lambda: events with a token in the header and in the query', async t => {
  const app = await createHost(t)
  app.get('/who', async request => ({ user: (request as { user?: object }).user ?? null, query: request.query }))
  const { token } = await issue(app)
  let handler = async (_event: object, _context: object): Promise<{ statusCode: number, body: string }> =>
    ({ statusCode: 0, body: '' })
  await runBlock(`${blockWith("'@fastify/aws-lambda'").replace('export const', 'const')}; receive(handler)`, {
    app, receive: (exported: typeof handler) => { handler = exported }
  })
  const call = async (headers: object, queryStringParameters = {}): Promise<unknown> => {
    const { statusCode, body } = await handler({
      httpMethod: 'GET', path: '/who', headers, queryStringParameters, requestContext: {}
    }, {})
    return statusCode === 200 ? JSON.parse(body) : statusCode
  }
  const accepted = { user: { username: 'token:ci', roles: ['viewer'] }, query: {} }
  t.strictSame(await call(bearer(token)), accepted)
  t.strictSame(await call({}, { token }), accepted)
  t.strictSame(await call({}), { user: null, query: {} })
  t.equal(await call(bearer(FORGED)), 401)
})

t.test('pluginTimeout: the plugin says that Postgres is unreachable before Fastify does', async t => {
  let app: FastifyInstance | undefined
  await runBlock(`${blockWith('pluginTimeout').replace('export const', 'const')}; receive(app)`, {
    receive: (exported: FastifyInstance) => { app = exported }
  })
  t.teardown(() => app?.close())
  await t.rejects(
    async () => await app?.register(tokensPlugin, { postgres: 'postgres://127.0.0.1:1/none', secret: SECRET }),
    { message: /Postgres at 127.0.0.1:1/ }
  )
})
