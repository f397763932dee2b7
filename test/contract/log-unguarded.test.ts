import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import pino from 'pino'
import { pino as oldPino } from 'pino-9-5'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const WARNING = 'was not made from app.log'

function collect () {
  let text = ''
  return { stream: { write (line: string) { text += line } }, read: () => text, warnings: () => text.split('may appear in it').length - 1 }
}

interface Host { fastify?: FastifyServerOptions, before?: (app: FastifyInstance) => void, queryParameter?: string | false, enabled?: boolean }

const database = await createDatabase(t)

/** Asks a host for these URLs, twice each. */
async function ask (t: Test, { fastify, before = () => {}, ...options }: Host, urls = ['/x?token=canary', '/nope?token=canary', '/out?token=canary']): Promise<void> {
  const { childLoggerFactory, ...server } = fastify ?? {}
  const app = Fastify(server)
  t.teardown(() => app.close())
  // Fastify 5.0 knows no option of that name.
  if (childLoggerFactory !== undefined) app.setChildLoggerFactory(childLoggerFactory)
  before(app)
  await app.register(tokensPlugin, { postgres: database.url, schema: database.schema, secret: SECRET, ...options })
  app.get('/x', async () => 'x')
  app.get('/out', { config: { applicationTokens: false } }, async () => 'x')
  for (const url of [...urls, ...urls]) await app.inject(url)
}

t.test("a childLoggerFactory that writes through the host's own pino is warned of once, in that log, also while disabled and where the host has no other log", async t => {
  for (const logger of [{ stream: collect().stream }, false] as const) {
    for (const enabled of [true, false]) {
      const { stream, read, warnings } = collect()
      const own = pino({}, stream)
      await ask(t, { fastify: { logger, childLoggerFactory: (_logger, bindings, options) => own.child(bindings, options) }, enabled })
      t.match(read(), 'canary', 'this test would notice')
      t.match(read(), WARNING)
      t.equal(warnings(), 1)
    }
  }
})

t.test('so is the factory of a single route, and pino-http, whenever its middleware runs', async t => {
  const [log, own] = [collect(), collect()]
  const other = pino({}, own.stream)
  await ask(t, {
    fastify: { logger: { stream: log.stream } },
    before (app) { app.get('/route', { childLoggerFactory: () => other } as object, async () => 'x') }
  }, ['/x?token=canary', '/route?token=canary'])
  t.strictSame([log.warnings(), own.warnings()], [0, 1])

  // What pino-http adds to a request.
  for (const hook of ['onRequest', 'preHandler'] as const) {
    for (const logger of [{ stream: log.stream }, false] as const) {
      const http = collect()
      const nest = pino({}, http.stream)
      const before = (app: FastifyInstance): void => { app.addHook(hook as 'onRequest', async request => { Object.assign(request.raw, { log: request.log, allLogs: [nest.child({ req: request.raw.url })] }) }) }
      await ask(t, { fastify: { logger }, before })
      t.strictSame([log.warnings(), http.warnings()], [0, 1], hook)
    }
  }
})

t.test('whoever is guarded, has no value of the parameter, or switched the parameter off, is not warned of', async t => {
  const { stream, read, warnings } = collect()
  const own = pino({}, stream)
  const hosts: Host[] = [
    { fastify: { logger: { stream } } },
    { fastify: { loggerInstance: pino({}, stream).child({ name: 'child' }, { redact: ['x'], serializers: {} }) } },
    { fastify: { logger: { stream }, childLoggerFactory: (logger, bindings, options) => logger.child({ ...bindings, more: 1 }, { ...options, level: 'debug', msgPrefix: '~' }).child({}) } },
    { fastify: { logger: { stream } }, before (app) { app.addHook('onRequest', async request => { Object.assign(request.raw, { allLogs: [app.log.child({ http: true })] }) }) } },
    { fastify: { logger: { stream } }, before (app) { app.addHook('onRequest', async request => { Object.assign(request.raw, { allLogs: 'a text' }) }) } },
    { fastify: { logger: { stream } }, before (app) { app.addHook('onRequest', async request => { Object.assign(request.raw, { allLogs: [null, {}] }) }) } },
    { fastify: { logger: { stream }, childLoggerFactory: () => own }, queryParameter: false },
    { fastify: { logger: { stream }, childLoggerFactory: () => own }, queryParameter: 'access' },
    { fastify: { logger: false } }
  ]
  for (const host of hosts) await ask(t, host)
  t.match(read(), '/x?token=[Redacted]')
  t.equal(warnings(), 0)
})

t.test('an older pino is warned of at registration, and not again', async t => {
  const { stream, read } = collect()
  await ask(t, { fastify: { loggerInstance: oldPino({}, stream) } })
  t.equal(read().split('"level":40').length - 1, 1)
  t.notMatch(read(), WARNING)
})
