import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { Agent, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import pino from 'pino'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import tokensPlugin from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

/** A host's logging: what Fastify gets, and every byte that was written, once the host is closed. */
interface Logging {
  fastify: FastifyServerOptions
  prepare?: (app: FastifyInstance) => void
  read: () => string | Promise<string>
}

function collect (): { stream: { write: (line: string) => void }, read: () => string } {
  let text = ''
  return { stream: { write (line) { text += line } }, read: () => text }
}

const level = 'trace'
const setUps: Record<string, (t: Test) => Logging> = {
  'logger: { stream }' () {
    const { stream, read } = collect()
    return { fastify: { logger: { level, stream } }, read }
  },
  "a pino of the host's" () {
    const { stream, read } = collect()
    return { fastify: { loggerInstance: pino({ level }, stream) }, read }
  },
  'a pino with a last step of its own' () {
    const { stream, read } = collect()
    return { fastify: { loggerInstance: pino({ level, hooks: { streamWrite: line => line.replace('{"level":', '{"marked":true,"level":') } }, stream) }, read }
  },
  'a pino with redact, serializers, formatters and a mixin' () {
    const { stream, read } = collect()
    const loggerInstance = pino({
      level,
      redact: ['req.method', 'link.query.*'],
      serializers: { req: (request: FastifyRequest) => ({ method: request.method, link: { href: request.originalUrl } }), url: (url: string) => [url] },
      formatters: { level: label => ({ severity: label }), log: object => ({ ...object, formatted: true }) },
      mixin: () => ({ mixed: 'in' })
    }, stream)
    return { fastify: { loggerInstance }, read }
  },
  'a pino with other keys, ends of lines and two destinations' () {
    const [one, two] = [collect(), collect()]
    const loggerInstance = pino({ level, messageKey: 'text', errorKey: 'problem', nestedKey: 'payload', msgPrefix: '?token> ', crlf: true }, pino.multistream([{ level, stream: one.stream }, { level: 'warn', stream: two.stream }]))
    return { fastify: { loggerInstance }, read: () => one.read() + two.read() }
  },
  'logger: { serializers, redact } of Fastify' () {
    const { stream, read } = collect()
    return { fastify: { logger: { level, stream, redact: { paths: ['req.host'], remove: true }, serializers: { req: request => ({ host: request.host, text: `${request.method} ${request.url}` }) } } }, read }
  },
  'a factory of child loggers' () {
    const { stream, read } = collect()
    return {
      fastify: { logger: { level, stream } },
      prepare: app => app.setChildLoggerFactory((logger, bindings, options, raw) => logger.child({ ...bindings, asked: raw.url }, { ...options, msgPrefix: `${raw.url} ` })),
      read
    }
  },
  'a transport, that is a worker' (t) {
    const destination = `${t.testdir()}/log`
    const transport = pino.transport({ target: 'pino/file', options: { destination } })
    return {
      fastify: { loggerInstance: pino({ level }, transport) },
      async read () {
        await new Promise<unknown>(resolve => transport.flush(resolve))
        transport.end()
        return await readFile(destination, 'utf8')
      }
    }
  }
}

const database = await createDatabase(t)
const agent = new Agent({ keepAlive: true })

/** Runs a host, with the plugin or without, through these requests, and returns its log. */
async function logOf (t: Test, { fastify, prepare, read }: Logging, plugin: { enabled: boolean } | null, urls: string[] | ((app: FastifyInstance) => Promise<string[]>)): Promise<string> {
  const app = Fastify(fastify)
  t.teardown(() => app.close())
  prepare?.(app)
  await app.register(websocket)
  const early = app.log.child({ made: 'early' })
  const say = async (request: FastifyRequest): Promise<string> => {
    const { url, originalUrl, raw } = request
    request.log.info({ req: request, url }, `asked for ${url}, at first ${originalUrl}, raw ${raw.url}!`)
    request.log.child({ bound: originalUrl }, { serializers: { late: (value: string) => ({ value }) } }).debug({ late: originalUrl, deep: [{ url }] }, JSON.stringify({ url }))
    for (const log of [early, late, app.log]) log.warn({ req: request, link: { query: { url } } }, 'URL %s, %o', url, { originalUrl })
    return 'said'
  }
  app.get('/before', say)
  if (plugin !== null) await app.register(tokensPlugin, { postgres: database.url, schema: database.schema, secret: SECRET, ...plugin })
  const late = app.log.child({ made: 'late' }, { level: 'debug' })
  app.get('/after', say)
  app.get('/out', { config: { applicationTokens: false } }, say)
  app.get('/own', { logLevel: 'debug', logSerializers: { req: (request: FastifyRequest) => request.originalUrl, url: (url: string) => ({ url }) } }, say)
  app.get('/throw', async request => { throw new Error(`no luck at ${request.originalUrl}`, { cause: new Error(request.url) }) })
  app.get('/twice', (request, reply) => {
    reply.send('once')
    reply.send(request.url)
  })
  app.get('/ws', { websocket: true }, async (socket, request) => {
    await say(request)
    socket.close()
  })
  await app.listen({ port: 0, host: '127.0.0.1' })

  const { port } = app.server.address() as AddressInfo
  for (const path of typeof urls === 'function' ? await urls(app) : urls) {
    if (path.startsWith('/ws')) {
      // A refusal is an error of the socket, too.
      await new Promise(resolve => new WebSocket(`ws://127.0.0.1:${port}${path}`).on('error', () => {}).on('close', resolve))
    } else {
      const [response] = await once(get({ port, path, agent }), 'response') as [IncomingMessage]
      await once(response.resume(), 'end')
    }
  }
  await app.close()
  return await read()
}

/**
 * Lines without what differs from run to run, in an order that does not. What stands beside a value without a space between could belong
 * to it, so that it may go with it: a bracket, a quotation mark, a comma.
 */
function comparable (log: string): string[] {
  const changing = new Set(['time', 'pid', 'hostname', 'remotePort', 'responseTime', 'host'])
  // What we say ourselves is not the host's.
  return log.trim().split(/\r?\n/).filter(line => !line.includes('hears of revocations')).map(line => JSON.stringify(JSON.parse(line.replace(/127\.0\.0\.1:\d+/g, 'here')), (key, value: unknown) => {
    if (changing.has(key)) return undefined
    const text = key === 'stack' ? String(value).split(/\s+at \S+ \(/, 1)[0] : value
    return typeof text === 'string' ? text.replace(/(\[Redacted\])[^&\s]+/g, '$1') : text
  })).sort()
}

/** Values of the parameter, none of ours, all with this word in them, and queries around them. */
const CANARY = /can(a|%61)ry/gi
const queries: Array<[query: string, ...values: string[]]> = [
  ['?token=canary1', 'canary1'],
  ['?a=1&token=canary2.x-y_z~&z=2', 'canary2.x-y_z~'],
  ['?tok%65n=can%61ry3%20%22%5C&%74%6F%6B%65%6E=canary4;b=c&z=%zz', 'can%61ry3%20%22%5C', 'canary4;b=c'],
  ['?token=canary5&Token=kept&mytoken=kept&token2=kept&a.token=kept&%54oken=kept&token=canary6&z=token', 'canary5', 'canary6'],
  ['?token[]=canary7&token%5B%5D=canary8&z=2', 'canary7', 'canary8'],
  ['?z=1&token="canary9"\\&y=\\"2\\"&token=\\canary10\\', '"canary9"\\', '\\canary10\\'],
  ['?a&&token==canary11?token=<canary12>&z', '=canary11?token=<canary12>'],
  ['#token=canary13&z=2', 'canary13'],
  [';token=canary14&z=2', 'canary14'],
  ['?%zz=%&token=%zzcanary15%&z=%', '%zzcanary15%']
]
const paths = ['/before', '/after', '/out', '/own', '/throw', '/twice', '/missing', '/%zz']
const values = queries.flatMap(([, ...values]) => values).sort((a, b) => b.length - a.length)
const urls = [...queries.flatMap(([query]) => paths.map(path => path + query)), '/ws?token=canary1&z=2', '/ws/missing?tok%65n=can%61ry3%20%22%5C', '/before?z=2&mytoken=kept']

for (const [name, setUp] of Object.entries(setUps)) {
  t.test(`${name}: the log is as without us, but for the value of the parameter`, async t => {
    const plain = await logOf(t, setUp(t), null, urls)
    t.ok((plain.match(CANARY)?.length ?? 0) > urls.length, 'this test would notice')
    t.match(plain, 'mytoken=kept')
    const inJson = values.map(value => JSON.stringify(value).slice(1, -1))
    // Once more for JSON within JSON.
    const expected = inJson.flatMap(value => [JSON.stringify(value).slice(1, -1), value]).reduce((text, value) => text.replaceAll(value, '[Redacted]'), plain)
    for (const enabled of [true, false]) {
      const log = await logOf(t, setUp(t), { enabled }, urls)
      t.strictSame(log.match(CANARY), null)
      t.strictSame(comparable(log), comparable(expected), enabled ? 'enabled' : 'disabled')
    }
  })

  t.test(`${name}: tokens of ours, good and bad, are in no line`, async t => {
    const parts: string[] = []
    const log = await logOf(t, setUp(t), { enabled: true }, async app => {
      const { token } = await app.tokens.issue({ name: crypto.randomUUID(), role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
      const [, payload = '', signature = ''] = token.split('.')
      parts.push(payload, signature, signature.slice(1))
      const bad = `${token.slice(0, -20)}${signature.slice(-20).toLowerCase()}`
      const forms = [`?token=${token}&z=2`, `?a=1&%74oken=${token.replaceAll('.', '%2E')}`, `?token=${bad}`, `?token=${token}&token=${bad}&z=2`, `?token=canary&token=${token}`, `#token=${token}`, `?token[]=${token}`, `?token="${token}"`]
      return [...forms.flatMap(form => paths.map(path => path + form)), `/ws?token=${token}`, `/ws?token=${bad}`]
    })
    for (const part of [...parts, 'canary']) t.notOk(log.includes(part))
    t.match(log, '/after?token=[Redacted]&z=2')
    t.match(log, '/after?a=1&%74oken=[Redacted]')
  })
}
