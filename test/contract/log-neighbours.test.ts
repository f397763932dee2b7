import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import { buffer } from 'node:stream/consumers'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import pino from 'pino'
import { pino as oldPino } from 'pino-9-5'
import t, { type Test } from 'tap'
import { redactParameter } from '../../lib/http/redact-log.js'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import type { Log } from '../../lib/types.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { routing } from '../support/fastify-version.js'

const HOOKS = Symbol.for('pino.hooks')
type WithHooks = pino.Logger & { [HOOKS]?: object }

interface Line { level: number, msg: string, req?: { url: string }, err?: { message: string, stack: string } }

function collect (): { stream: { write: (line: string) => void }, text: () => string, lines: () => Line[] } {
  let text = ''
  return { stream: { write (line) { text += line } }, text: () => text, lines: () => text.trim().split('\n').map(line => JSON.parse(line) as Line) }
}

const database = await createDatabase(t)

async function hostWith (t: Test, fastify: FastifyServerOptions, options: Partial<TokensPluginOptions> = {}): Promise<FastifyInstance> {
  const app = Fastify(fastify)
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: database.url, schema: database.schema, secret: SECRET, ...options })
  app.get('/x', async request => {
    request.log.info({ req: request }, `asked for ${request.url}`)
    return request.query
  })
  app.get('/throw', async () => { throw new Error('no luck') })
  app.get('/throw-url', async request => { throw new Error(`no luck at ${request.url}`) })
  return app
}

/** Tokens of ours and others in the query, on routes and unknown ones: nothing breaks. */
async function use (t: Test, app: FastifyInstance): Promise<string> {
  const { token } = await app.tokens.issue({ name: crypto.randomUUID(), role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  t.strictSame((await app.inject({ url: `/x?a=1&token=${token}` })).json(), { a: '1' })
  t.strictSame((await app.inject({ url: '/x?a=1&token=canary' })).json(), { a: '1', token: 'canary' })
  t.equal((await app.inject({ url: '/x', headers: bearer(`${token}x`) })).statusCode, 401)
  for (const [url, status] of [['/throw', 500], ['/missing', 404]] as const) t.equal((await app.inject({ url: `${url}?token=canary` })).statusCode, status)
  return token
}

t.test("the host's own pino, its children and every other logger of the process are as they were", async t => {
  const [own, other, neighbour] = [collect(), collect(), collect()]
  const seen: string[] = []
  const hooks = { streamWrite (line: string) { seen.push(line); return line.replace('"msg":"', '"msg":"~') } }
  const host: WithHooks = pino({ level: 'trace', hooks }, own.stream)
  const another: WithHooks = pino({ level: 'trace' }, other.stream)
  const child: WithHooks = host.child({ made: 'before' })
  const before = [host[HOOKS], another[HOOKS], child[HOOKS], hooks.streamWrite]
  const keys = Reflect.ownKeys(host)

  await hostWith(t, { loggerInstance: another })
  const app = await hostWith(t, { loggerInstance: host })
  t.strictSame([host[HOOKS], another[HOOKS], child[HOOKS], hooks.streamWrite].map((value, index) => value === before[index]), [true, true, true, true], 'the same objects')
  t.strictSame(Reflect.ownKeys(host), keys)
  t.strictSame(Reflect.ownKeys(hooks), ['streamWrite'])

  await app.inject({ url: '/x?token=canary' })
  t.notMatch(own.text(), 'canary')
  t.equal(own.lines().length, seen.length, "the host's last step ran for each line")
  t.ok(own.lines().every(line => line.msg.startsWith('~')))

  for (const [logger, lines, mark] of [[host, own, '~'], [child, own, '~'], [host.child({ made: 'after' }), own, '~'], [another, other, ''], [pino({}, neighbour.stream), neighbour, '']] as const) {
    logger.info({ url: '/x?token=kept' }, 'see /y?token=kept')
    t.match(lines.lines().at(-1), { url: '/x?token=kept', msg: `${mark}see /y?token=kept` })
  }
  const without = Fastify({ logger: { stream: neighbour.stream } })
  await without.inject({ url: '/x?token=kept' })
  t.match(neighbour.lines().at(-1), { msg: 'request completed' })
  t.match(neighbour.text(), 'Route GET:/x?token=kept not found')
})

t.test('two hosts on one pino, each with a parameter of its own', async t => {
  const { stream, text } = collect()
  const loggerInstance = pino({}, stream)
  const one = await hostWith(t, { loggerInstance }, { queryParameter: 'access' })
  const two = await hostWith(t, { loggerInstance })
  for (const app of [one, two]) await app.inject({ url: `/x?access=${app === one ? 'canary' : 'kept'}&token=${app === two ? 'canary' : 'kept'}&z=1` })
  t.notMatch(text(), 'canary')
  t.match(text(), '/x?access=[Redacted]&token=kept&z=1')
  t.match(text(), '/x?access=kept&token=[Redacted]&z=1')
})

t.test('a renamed parameter is kept out of the log, the name it no longer has is not', async t => {
  const { stream, text } = collect()
  const app = await hostWith(t, { logger: { level: 'trace', stream } }, { queryParameter: 'a.cc-ess_1' })
  for (const url of ['/x', '/throw-url', '/missing']) await app.inject({ url: `${url}?a.cc-ess_1=canary&a%2Ecc%2Dess%5F1[]=canary&token=kept&a-cc-ess_1=kept&access=kept` })
  t.notMatch(text(), 'canary')
  for (const url of ['/x', '/throw-url', '/missing']) t.match(text(), `${url}?a.cc-ess_1=[Redacted]&a%2Ecc%2Dess%5F1[]=[Redacted]&token=kept&a-cc-ess_1=kept&access=kept`)
})

t.test("switched off, the parameter is nobody's business: the log is as without us, and old loggers are not warned of", async t => {
  for (const logger of [pino, oldPino as unknown as typeof pino]) {
    const { stream, text, lines } = collect()
    const loggerInstance: WithHooks = logger({ level: 'trace' }, stream)
    const app = await hostWith(t, { loggerInstance }, { queryParameter: false })
    t.equal((app.log as WithHooks)[HOOKS], loggerInstance[HOOKS])
    for (const url of ['/x', '/throw-url', '/missing']) await app.inject({ url: `${url}?token=kept` })
    t.match(text(), 'asked for /x?token=kept')
    t.match(text(), 'Route GET:/missing?token=kept not found')
    t.match(text(), 'no luck at /throw-url?token=kept')
    t.strictSame(lines().filter(line => line.level === 40), [])
  }
})

t.test('logger: false: nothing breaks, and nothing is said elsewhere', async t => {
  const spies = [t.capture(process, 'emitWarning'), t.capture(process.stderr, 'write'), t.capture(console, 'log'), t.capture(console, 'warn'), t.capture(console, 'error')]
  for (const fastify of [{}, { logger: false }]) {
    const app = await hostWith(t, fastify)
    t.notOk(HOOKS in app.log, 'the empty logger, which all hosts of the process share, has nothing of ours')
    await use(t, app)
  }
  t.strictSame(spies.flatMap(spy => spy()).map(call => call.args), [])
})

t.test("a pino before 9.6: Fastify's request and error lines are clean, and one warning says what may not be", async t => {
  const { stream, text, lines } = collect()
  const loggerInstance = oldPino({ level: 'trace' }, stream)
  t.match(loggerInstance.version, /^9\.[0-5]\./)
  const app = await hostWith(t, { loggerInstance })
  t.match(lines(), [{ level: 40, msg: /pino 9\.6/ }], 'at registration')
  const token = await use(t, app)
  await app.inject({ url: '/throw-url?token=canary&z=1' })
  t.equal(lines().filter(line => line.level === 40).length, 1)
  t.notOk(token.split('.').slice(1).some(part => text().includes(part)))
  t.notOk(lines().some(({ req, err }) => /canary/.test(JSON.stringify([req, err]))), 'only messages may hold it')
  t.match(lines().find(({ msg }) => msg === 'no luck'), { req: { url: '/throw?token=[Redacted]' } })
  t.match(lines().find(({ msg }) => msg.startsWith('no luck at')), { err: { message: 'no luck at /throw-url?token=[Redacted]&z=1', stack: /^Error: no luck at \/throw-url\?token=\[Redacted\]&z=1\n +at / } })
  loggerInstance.info({ req: { url: '/x?token=kept' } }, 'its own')
  t.match(lines().at(-1), { req: { url: '/x?token=kept' } })
})

t.test("a pino before 9.6: what the host's serializers make comes out as it does without us", async t => {
  const made = { list: ['a', { b: 1 }], date: new Date(0), nothing: null, number: 1, json: { toJSON: () => 'json' }, nested: { deep: { a: [1] } }, text: '/x?a=1', undefined }
  const serializers = Object.fromEntries(Object.entries(made).map(([key, value]) => [key, () => value]))
  const written = async (options: Partial<TokensPluginOptions>): Promise<object> => {
    const { stream, lines } = collect()
    const app = await hostWith(t, { loggerInstance: oldPino({ serializers, base: null, timestamp: false }, stream) }, options)
    app.log.info(Object.fromEntries(Object.keys(made).map(key => [key, 1])), 'as the host made it')
    return lines().at(-1) ?? {}
  }
  t.strictSame(await written({}), await written({ queryParameter: false }))
})

t.test('a pino before 9.6: what a serializer of the host makes that JSON can not hold is left out, and nothing breaks', async t => {
  const { stream, lines } = collect()
  const circle: { self?: object } = {}
  circle.self = circle
  const app = await hostWith(t, { loggerInstance: oldPino({ serializers: { circle: () => circle } }, stream) })
  app.log.info({ circle: 1 }, 'round')
  t.match(lines().at(-1), { msg: 'round', circle: '[Redacted]' })
})

t.test('a logger that is not pino: nothing breaks, and it is warned of once', async t => {
  const calls: Array<[level: string, ...args: unknown[]]> = []
  const level = (name: string) => (...args: unknown[]): void => { calls.push([name, ...args]) }
  const logger = { level: 'trace', fatal: level('fatal'), error: level('error'), warn: level('warn'), info: level('info'), debug: level('debug'), trace: level('trace'), silent: level('silent'), child: () => logger }
  const keys = Reflect.ownKeys(logger)
  const app = await hostWith(t, { loggerInstance: logger })
  t.match(calls, [['warn', /pino 9\.6.*"token"/]])
  await use(t, app)
  // Old versions of Fastify leave a symbol of their own.
  t.strictSame(Object.keys(logger), keys)
  t.equal(calls.filter(([name]) => name === 'warn').length, 1)
  for (const text of ['incoming request', 'request completed', 'no luck']) t.ok(calls.some(call => call.at(-1) === text), 'and it still logs')
})

t.test("the query as an object, as pino's own serializer of requests writes it, holds no value either", async t => {
  const { stream, text, lines } = collect()
  const app = await hostWith(t, { loggerInstance: pino({ serializers: { req: pino.stdSerializers.req } }, stream) })
  app.get('/out', { config: { applicationTokens: false } }, async request => {
    request.log.info({ query: request.query }, 'asked')
    return request.query
  })
  const { token } = await app.tokens.issue({ name: 'query', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  for (const value of [token, 'canary', 'canary&tok%65n=canary']) await app.inject({ url: `/out?a=1&token=${value}` })
  await app.inject({ url: `/x?token=${token}` })
  t.match(lines().filter(({ req }) => req), [{ req: { query: { a: '1' } } }], 'this test would notice')
  t.notOk(token.split('.').slice(1).some(part => text().includes(part)), 'a token of ours')
  t.notOk(text().includes('canary'), 'what is not ours')
})

t.test('the query as an object holds no value either, whatever schemas and parsers of the host made of it', async t => {
  const { stream, text, lines } = collect()
  const nested = (query: string): Record<string, unknown> => Object.fromEntries([...new URLSearchParams(query)].map(([key, value]) => [key, key === 'a' ? { b: value } : value]))
  for (const routerOptions of [{}, { querystringParser: nested }]) {
    const app = await hostWith(t, { loggerInstance: pino({}, stream), ...routing(routerOptions) })
    app.get('/typed', { schema: { querystring: { type: 'object', properties: { c: { type: 'integer' }, d: { default: false } } } } }, async request => {
      request.log.info({ query: request.query }, 'asked')
      return 1
    })
    for (const query of ['c=1&token=canary', 'a=1&token=canary', 'token[]=canary', 'token=canary&token[0]=canary']) await app.inject({ url: `/typed?${query}` })
  }
  t.match(lines().find(({ msg }) => msg === 'asked'), { query: { c: 1, d: false } }, 'this test would notice')
  t.strictSame(lines().filter(line => JSON.stringify(line).includes('canary')), [])
  t.notOk(text().includes('canary'))
  t.notOk(text().includes([...Buffer.from('canary')].join(',')))
})

t.test('what is named like the parameter, and is in no query, stays as the host wrote it', async t => {
  const { stream, lines } = collect()
  const app = await hostWith(t, { logger: { stream } })
  app.log.info({ token: 'of a lexer', form: { token: 'x' } }, 'its own')
  t.match(lines().at(-1), { token: 'of a lexer', form: { token: 'x' } })
})

t.test('pino writes through its hook from 9.6 on; every other logger, whatever its version, is warned of', async t => {
  const warnings = (logger: object): number => {
    let count = 0
    redactParameter({ warn () { count++ }, ...logger } as unknown as Log, 'token')
    return count
  }
  for (const version of ['9.6.0', '9.6', '9.14.2', '10.0.0', '11.5.1']) t.equal(warnings({ version, [HOOKS]: {} }), 0, version)
  for (const version of ['9.5.9', '8.21.0', '8.6.0', '7', 'x', '', undefined]) t.equal(warnings({ version, [HOOKS]: {} }), 1, String(version))
  t.equal(warnings({ version: '10.0.0' }), 1, 'of another kind')
})

t.test('a line break after a value ends the value, so that the text after it survives', async t => {
  const { stream, lines } = collect()
  const app = await hostWith(t, { logger: { stream } })
  await app.inject({ url: '/throw-url?token=canary' })
  t.match(lines().find(({ err }) => err !== undefined)?.err?.stack, /^Error: no luck at \/throw-url\?token=\[Redacted\]\n +at /)
  app.log.info('/x?token=canary\nkept\t/y?token=canary\tkept')
  t.equal(lines().at(-1)?.msg, '/x?token=[Redacted]\nkept\t/y?token=[Redacted]\tkept')
})

t.test('a request that is no HTTP, whose bytes Fastify logs as numbers at level trace, shows no value, as text or as numbers', async t => {
  const { stream, text, lines } = collect()
  const app = await hostWith(t, { logger: { level: 'trace', stream } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET /x?token=canary HTTP/1.1\r\nhost: x\r\nno header\r\n\r\n')
  t.match(String(await buffer(socket)), 'HTTP/1.1 400')
  t.match(text(), 'client error', 'this test would notice')
  t.notOk(text().includes('canary'))
  t.notOk(text().includes([...Buffer.from('canary')].join(',')))
  t.match(lines().find(line => 'rawPacket' in (line.err ?? {})), { err: { rawPacket: '[Redacted]' } }, 'and stays a line of JSON')
})
