import { hkdfSync, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { Agent, type IncomingMessage, get, request } from 'node:http'
import { type AddressInfo, type Socket, connect } from 'node:net'
import { parse } from 'node:querystring'
import { buffer, text } from 'node:stream/consumers'
import { inspect } from 'node:util'
import websocket from '@fastify/websocket'
import fc from 'fast-check'
import Fastify, { type FastifyInstance, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import pg from 'pg'
import pino from 'pino'
import { pino as oldPino } from 'pino-9-5'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { redactParameter } from '../../lib/http/redact-log.js'
import { createRedact } from '../../lib/http/redact.js'
import tokensPlugin, { type IssuedToken, type TokensPluginOptions } from '../../lib/index.js'
import type { Log } from '../../lib/types.js'
import { SECRET, bearer } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { routing } from '../support/fastify-version.js'
import { createHost } from '../support/host.js'
import { startPostgres } from '../support/postgres.js'
import { createSearch } from '../support/search-secrets.js'

const CANARIES = Number(process.env.CANARIES ?? 100)
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
// With it, a report asks for the name of each peer, which may take seconds where there is no DNS.
Object.assign(process.report, { excludeNetwork: true })
/** Requests under way at once. */
const AT_ONCE = 16

/** Where a token must never be. */
const PLACES = ['log', 'answers', 'rows', 'statements', 'errors', 'reports'] as const
type Place = typeof PLACES[number]
type Keep = (place: Place, text: string) => void

/** Every row of every table, and what Postgres shows of its connections. */
const ROWS = `SELECT query_to_xml(format('SELECT * FROM %I.%I', table_schema, table_name), true, false, '')::text AS rows FROM information_schema.tables
  WHERE table_schema NOT IN ('pg_catalog', 'information_schema') UNION ALL SELECT query_to_xml('SELECT * FROM pg_stat_activity', true, false, '')::text`

const upgrade = {
  connection: 'upgrade',
  upgrade: 'websocket',
  'sec-websocket-version': '13',
  'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA=='
}
/** The token but for its last character. */
const flaw = (token: string): string => token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A')
const encode = (token: string): string => [...token].map(character =>
  `%${character.charCodeAt(0).toString(16)}`).join('')

/** A request with a token, and the status that says that it was read as one. */
type Use = [path: string, headers: object, status: number]

/** The ways in which every canary is used. */
function uses ({ token }: IssuedToken): Use[] {
  return [
    ['/api/viewer', bearer(token), 200],
    [`/api/profile?token=${token}`, {}, 200],
    [`/nothing/here?a&${encode('token')}=${encode(token)}&z=2`, {}, 404],
    [`/fails?token=${token}`, {}, 500],
    [`/ws?token=${token}`, upgrade, 101]
  ]
}

/** The rarer ones, for every tenth. */
function rareUses ({ token, hash }: IssuedToken): Use[] {
  return [
    [`/api/profile?a=1&token=${encode(token)}`, {}, 200],
    [`/api/profile#token=${token}`, {}, 200],
    ['/nothing/here', bearer(token), 404],
    [`/nothing/here?token=${token}`, {}, 404],
    ['/fails', bearer(token), 500],
    [`/fails?token=${encode(token)}`, {}, 500],
    [`/api/profile?token=${flaw(token)}`, {}, 401],
    [`/api/tokens/${hash}`, bearer(token), 200],
    [`/api/tokens/${hash}?token=${token}`, {}, 200],
    ['/nothing/here', bearer(flaw(token)), 401],
    [`/api/profile?token=${token}`, bearer(token), 400],
    [`/fails?token=${token}&token=${encode(token)}`, {}, 400],
    [`/%zz?token=${token}`, bearer(token), 400],
    ['/ws', { ...upgrade, ...bearer(token) }, 101],
    [`/ws?token=${flaw(token)}`, upgrade, 401],
    [`/ws/nothing?token=${encode(token)}`, upgrade, 404]
  ]
}

/**
 * Uses canaries on two nodes, and tells in which places they, the signing secret or the key can be found afterwards.
 */
async function release (t: Test, count: number, plant?: (
  app: FastifyInstance, database: pg.Pool
) => void): Promise<Map<Place, number>> {
  const kept: Record<Place, string[]> = { log: [], answers: [], rows: [], statements: [], errors: [], reports: [] }
  const keep: Keep = (place, text) => { kept[place].push(text) }
  const settings = [
    'log_statement=all', 'log_min_duration_statement=0', 'log_parameter_max_length=-1',
    'log_parameter_max_length_on_error=-1', 'log_min_error_statement=debug5'
  ]
  const postgres = await startPostgres({ settings, onLog: text => { keep('statements', text) } })
  const pool = new pg.Pool({ connectionString: postgres.url, max: 2 })
  pool.on('error', () => {})
  t.teardown(async () => {
    await pool.end()
    await postgres.end()
  })

  const canaries: IssuedToken[] = []
  for (const level of ['trace', undefined]) {
    const app = await createHost({
      sessionKey: Buffer.alloc(32, 7),
      tokens: { postgres: postgres.url, secret: SECRET },
      fastify: {
        logger: {
          ...level !== undefined &&
        { level },
          stream: { write (line: string) { keep('log', line) } }
        }
      }
    })
    t.teardown(() => app.close())
    plant?.(app, pool)
    app.get('/fails', async request => { throw new Error(`no luck at ${request.url}`, { cause: request.query }) })
    app.addHook('onError', async (_request, _reply, error) => {
      keep('errors', inspect(error, { depth: 10 }))
      if (kept.reports.length < 10) keep('reports', JSON.stringify(process.report.getReport(error)))
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const ask = createClient(t, app)

    const [cookie = ''] = /mmc=[^;]+/.exec(await ask(
      '/auth?json=true', { 'content-type': 'application/x-www-form-urlencoded' }, 'username=cedalo&password=secret'
    )) ?? []
    // Again where Postgres took its second and said nothing, as it may on a busy machine.
    const patiently = async (status: number, send: () => Promise<string>): Promise<string> => {
      for (;;) {
        const answer = await send()
        if (answer.startsWith(`${status} `)) return answer
        keep('answers', answer)
        if (!answer.startsWith('500 ')) throw new Error(`${answer.slice(0, 3)}, not ${status}`)
      }
    }
    const own = await inTurn(Array.from({ length: count / 2 }, () => async () => {
      const answer = await patiently(200, async () => await ask(
        '/api/tokens',
        { cookie, 'content-type': 'application/json' },
        JSON.stringify({ name: randomUUID(), role: 'admin', validUntil: '2999-01-01T00:00:00Z' })
      ))
      return JSON.parse(answer.slice(answer.indexOf('\n\n'))) as IssuedToken
    }))
    canaries.push(...own)
    await inTurn(own.map((canary, n) => async () => {
      for (const [path, headers, status] of n % 10 === 0 ? [...uses(canary), ...rareUses(canary)] : uses(canary)) {
        keep('answers', await patiently(status, async () => await ask(path, headers)))
      }
    }))

    const [first, ...more] = own as [IssuedToken, ...IssuedToken[]]
    keep('answers', await ask('/api/tokens', { cookie }))
    await app.tokens.revoke(first.hash)
    keep('answers', await ask('/fails', bearer(first.token)))
    for (const { rows } of (await pool.query<{ rows: string }>(ROWS)).rows) keep('rows', rows)
    await postgres.stop('SIGQUIT')
    for (const { token } of more.slice(0, 3)) keep('answers', await ask(`/fails?token=${token}`, {}))
    await postgres.start()
    keep('reports', JSON.stringify(process.report.getReport()))
    await app.close()
  }
  for (const options of [{ secret: [SECRET, SECRET] }, { secret: SECRET, prefix: 'x' }, {
    secret: SECRET, postgres: 'postgres://127.0.0.1:1/x'
  }]) {
    await Fastify().register(tokensPlugin, { postgres: postgres.url, ...options }).then(
      () => t.fail(), (error: unknown) => { keep('errors', inspect(error, { depth: 10 })) }
    )
  }

  const search = createSearch(canaries.map(({ token }) => token), [Buffer.from(SECRET), KEY])
  t.comment(PLACES.map(place =>
    `${place}: ${Math.round(kept[place].reduce((sum, { length }) => sum + length, 0) / 1000)} kB`).join(', '))
  for (const place of PLACES) t.ok(kept[place].length > 0, place)
  t.match(kept.statements.join(''), canaries.at(-1)?.hash, 'values of statements are in the log of Postgres')
  return new Map(PLACES.map((place): [Place, number] => [place, new Set(search(kept[place].join('\n'))).size]))
}

/** Asks a host over HTTP for the whole answer: status, headers, body; of an upgrade the first that is sent, too. */
function createClient (t: Test, app: FastifyInstance) {
  const { port } = app.server.address() as AddressInfo
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE })
  t.teardown(() => { agent.destroy() })
  return async (path: string, headers: object, body?: string): Promise<string> => {
    const isUpgrade = 'upgrade' in headers
    const asked = request({
      port,
      path,
      agent: !isUpgrade && agent,
      method: body === undefined
        ? 'GET'
        : 'POST',
      headers: { ...headers }
    }).end(body)
    const [response, socket, head] = await Promise.race(
      [once(asked, 'response'), once(asked, 'upgrade')]
    ).catch((error: unknown) => {
      if (!isUpgrade) throw error
      return []
    }) as [IncomingMessage?, Socket?, Buffer?]
    // @fastify/websocket hangs up where there is no such route, its answer sent or not.
    if (response === undefined) return '404 '
    const start = `${response.statusCode} ${response.rawHeaders.join('\n')}\n\n`
    if (socket === undefined) return start + await text(response)
    const [more = ''] = head?.length === 0 ? await once(socket, 'data') as [Buffer] : []
    socket.destroy()
    return start + String(head) + String(more)
  }
}

/** Does all of this, some of it at once. */
async function inTurn<T> (work: Array<() => Promise<T>>): Promise<T[]> {
  const done: T[] = []
  const waiting = work.entries()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const [index, act] of waiting) done[index] = await act()
  }))
  return done
}

t.test(`${CANARIES} tokens, the signing secret and the key are not found where they must not be`, async t => {
  t.strictSame(await release(t, CANARIES), new Map(PLACES.map(place => [place, 0])))
})

t.test('the same search finds tokens in each of these places if a careless host puts them there', async t => {
  const found = await release(t, 8, (app, database) => {
    app.addHook('onReady', async () => { await database.query('CREATE TABLE IF NOT EXISTS audit (what text)') })
    app.addHook('onRequest', async request => {
      const { authorization = '-' } = request.headers
      request.log.info({ headers: request.headers })
      await database.query('INSERT INTO audit SELECT $1', [authorization])
    })
    app.addHook('onSend', async (request, reply) => { reply.header('x-asked', request.headers.authorization ?? '-') })
    app.addHook(
      'onError', async (request, _reply, error) => { error.stack = `${request.headers.authorization}\n${error.stack}` }
    )
  })
  t.strictSame([...found].filter(([, count]) => count === 0), [])
})

t.test('the search finds secrets, tokens and parts of them in every encoding, and nothing else', async t => {
  const token = `${'a.'}${randomBytes(40).toString('base64url')}`
  const search = createSearch([token], [KEY])
  for (const form of [
    token, token.slice(20, 44), encode(token), encodeURIComponent(encode(token)), Buffer.from(token).toString('base64')
  ]) t.strictSame(search(`x ${form} y`), [token], form)
  for (const form of [
    KEY.toString('hex'), KEY.toString('base64'), KEY.toString('base64url'), KEY.toString('latin1'), JSON.stringify(KEY)
  ]) t.equal(search(`x${form}y`).length, 1, form)
  t.strictSame(
    search(`${token.slice(20, 30)} ${randomBytes(400).toString('base64url')} ${KEY.toString('hex').slice(0, 60)}`), []
  )
})

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
    return {
      fastify: {
        loggerInstance: pino({
          level,
          hooks: {
            streamWrite: line =>
              line.replace('{"level":', '{"marked":true,"level":')
          }
        }, stream)
      },
      read
    }
  },
  'a pino with redact, serializers, formatters and a mixin' () {
    const { stream, read } = collect()
    const loggerInstance = pino({
      level,
      redact: ['req.method', 'link.query.*'],
      serializers: {
        req: (request: FastifyRequest) => ({ method: request.method, link: { href: request.originalUrl } }),
        url: (url: string) => [url]
      },
      formatters: { level: label => ({ severity: label }), log: object => ({ ...object, formatted: true }) },
      mixin: () => ({ mixed: 'in' })
    }, stream)
    return { fastify: { loggerInstance }, read }
  },
  'a pino with other keys, ends of lines and two destinations' () {
    const [one, two] = [collect(), collect()]
    const loggerInstance = pino(
      { level, messageKey: 'text', errorKey: 'problem', nestedKey: 'payload', msgPrefix: '?token> ', crlf: true },
      pino.multistream([{ level, stream: one.stream }, { level: 'warn', stream: two.stream }])
    )
    return { fastify: { loggerInstance }, read: () => one.read() + two.read() }
  },
  'logger: { serializers, redact } of Fastify' () {
    const { stream, read } = collect()
    return {
      fastify: {
        logger: {
          level,
          stream,
          redact: {
            paths: ['req.host'], remove: true
          },
          serializers: { req: request => ({ host: request.host, text: `${request.method} ${request.url}` }) }
        }
      },
      read
    }
  },
  'a factory of child loggers' () {
    const { stream, read } = collect()
    return {
      fastify: { logger: { level, stream } },
      prepare: app => app.setChildLoggerFactory((logger, bindings, options, raw) =>
        logger.child({ ...bindings, asked: raw.url }, { ...options, msgPrefix: `${raw.url} ` })),
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
async function logOf (
  t: Test,
  { fastify, prepare, read }: Logging,
  plugin: { enabled: boolean } | null,
  urls: string[] | ((app: FastifyInstance) => Promise<string[]>)
): Promise<string> {
  const app = Fastify(fastify)
  t.teardown(() => app.close())
  prepare?.(app)
  await app.register(websocket)
  const early = app.log.child({ made: 'early' })
  const say = async (request: FastifyRequest): Promise<string> => {
    const { url, originalUrl, raw } = request
    request.log.info({ req: request, url }, `asked for ${url}, at first ${originalUrl}, raw ${raw.url}!`)
    request.log.child({ bound: originalUrl }, { serializers: { late: (value: string) => ({ value }) } }).debug(
      { late: originalUrl, deep: [{ url }] }, JSON.stringify({ url })
    )
    for (const log of [early, late, app.log]) {
      log.warn(
        { req: request, link: { query: { url } } }, 'URL %s, %o', url, { originalUrl }
      )
    }
    return 'said'
  }
  app.get('/before', say)
  if (plugin !== null) {
    await app.register(tokensPlugin, {
      postgres: database.url, schema: database.schema, secret: SECRET, ...plugin
    })
  }
  const late = app.log.child({ made: 'late' }, { level: 'debug' })
  app.get('/after', say)
  app.get('/out', { config: { applicationTokens: false } }, say)
  app.get('/own', {
    logLevel: 'debug',
    logSerializers: {
      req: (request: FastifyRequest) => request.originalUrl, url: (url: string) => ({ url })
    }
  }, say)
  app.get('/throw', async request => {
    throw new Error(`no luck at ${request.originalUrl}`, { cause: new Error(request.url) })
  })
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
      await new Promise(resolve =>
        new WebSocket(`ws://127.0.0.1:${port}${path}`).on('error', () => {}).on('close', resolve))
    } else {
      const [response] = await once(get({ port, path, agent }), 'response') as [IncomingMessage]
      await once(response.resume(), 'end')
    }
  }
  await app.close()
  return await read()
}

/**
 * Lines without what differs from run to run, in an order that does not. What stands beside a value without a space
 * between could belong to it, so that it may go with it: a bracket, a quotation mark, a comma.
 */
function comparable (log: string): string[] {
  const changing = new Set(['time', 'pid', 'hostname', 'remotePort', 'responseTime', 'host'])
  // What we say ourselves is not the host's.
  return log.trim().split(/\r?\n/).filter(
    line => !line.includes('revocation listener connected')
  ).map(line => JSON.stringify(JSON.parse(line.replace(/127\.0\.0\.1:\d+/g, 'here')), (key, value: unknown) => {
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
  [
    '?token=canary5&Token=kept&mytoken=kept&token2=kept&a.token=kept&%54oken=kept&token=canary6&z=token', 'canary5',
    'canary6'
  ],
  ['?token[]=canary7&token%5B%5D=canary8&z=2', 'canary7', 'canary8'],
  ['?z=1&token="canary9"\\&y=\\"2\\"&token=\\canary10\\', '"canary9"\\', '\\canary10\\'],
  ['?a&&token==canary11?token=<canary12>&z', '=canary11?token=<canary12>'],
  ['#token=canary13&z=2', 'canary13'],
  [';token=canary14&z=2', 'canary14'],
  ['?%zz=%&token=%zzcanary15%&z=%', '%zzcanary15%']
]
const paths = ['/before', '/after', '/out', '/own', '/throw', '/twice', '/missing', '/%zz']
const values = queries.flatMap(([, ...values]) => values).sort((a, b) => b.length - a.length)
const urls = [
  ...queries.flatMap(([query]) => paths.map(path => path + query)), '/ws?token=canary1&z=2',
  '/ws/missing?tok%65n=can%61ry3%20%22%5C', '/before?z=2&mytoken=kept'
]

for (const [name, setUp] of Object.entries(setUps)) {
  t.test(`${name}: the log is as without the plugin, except for the value of the parameter`, async t => {
    const plain = await logOf(t, setUp(t), null, urls)
    t.ok((plain.match(CANARY)?.length ?? 0) > urls.length, 'this test would notice')
    t.match(plain, 'mytoken=kept')
    const inJson = values.map(value => JSON.stringify(value).slice(1, -1))
    // Once more for JSON within JSON.
    const expected = inJson.flatMap(value => [JSON.stringify(value).slice(1, -1), value]).reduce((text, value) =>
      text.replaceAll(value, '[Redacted]'), plain)
    for (const enabled of [true, false]) {
      const log = await logOf(t, setUp(t), { enabled }, urls)
      t.strictSame(log.match(CANARY), null)
      t.strictSame(comparable(log), comparable(expected), enabled ? 'enabled' : 'disabled')
    }
  })

  t.test(`${name}: no line has a token, valid or invalid`, async t => {
    const parts: string[] = []
    const log = await logOf(t, setUp(t), { enabled: true }, async app => {
      const { token } = await app.tokens.issue({
        name: crypto.randomUUID(), role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
      })
      const [, payload = '', signature = ''] = token.split('.')
      parts.push(payload, signature, signature.slice(1))
      const bad = `${token.slice(0, -20)}${signature.slice(-20).toLowerCase()}`
      const forms = [
        `?token=${token}&z=2`, `?a=1&%74oken=${token.replaceAll('.', '%2E')}`, `?token=${bad}`,
        `?token=${token}&token=${bad}&z=2`, `?token=canary&token=${token}`, `#token=${token}`, `?token[]=${token}`,
        `?token="${token}"`
      ]
      return [...forms.flatMap(form => paths.map(path => path + form)), `/ws?token=${token}`, `/ws?token=${bad}`]
    })
    for (const part of [...parts, 'canary']) t.notOk(log.includes(part))
    t.match(log, '/after?token=[Redacted]&z=2')
    t.match(log, '/after?a=1&%74oken=[Redacted]')
  })
}

const HOOKS = Symbol.for('pino.hooks')
type WithHooks = pino.Logger & { [HOOKS]?: object }

interface Line { level: number, msg: string, req?: { url: string }, err?: { message: string, stack: string } }

function captureLog (): { stream: { write: (line: string) => void }, text: () => string, lines: () => Line[] } {
  let text = ''
  return {
    stream: { write (line) { text += line } },
    text: () => text,
    lines: () =>
      text.trim().split('\n').map(line => JSON.parse(line) as Line)
  }
}

async function hostWith (
  t: Test, fastify: FastifyServerOptions, options: Partial<TokensPluginOptions> = {}
): Promise<FastifyInstance> {
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
  const { token } = await app.tokens.issue({
    name: crypto.randomUUID(), role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  t.strictSame((await app.inject({ url: `/x?a=1&token=${token}` })).json(), { a: '1' })
  t.strictSame((await app.inject({ url: '/x?a=1&token=canary' })).json(), { a: '1', token: 'canary' })
  t.equal((await app.inject({ url: '/x', headers: bearer(`${token}x`) })).statusCode, 401)
  for (const [url, status] of [
    ['/throw', 500], ['/missing', 404]
  ] as const) t.equal((await app.inject({ url: `${url}?token=canary` })).statusCode, status)
  return token
}

t.test("the host's pino, its children and every other logger of the process are not changed", async t => {
  const [own, other, neighbour] = [captureLog(), captureLog(), captureLog()]
  const seen: string[] = []
  const hooks = { streamWrite (line: string) { seen.push(line); return line.replace('"msg":"', '"msg":"~') } }
  const host: WithHooks = pino({ level: 'trace', hooks }, own.stream)
  const another: WithHooks = pino({ level: 'trace' }, other.stream)
  const child: WithHooks = host.child({ made: 'before' })
  const before = [host[HOOKS], another[HOOKS], child[HOOKS], hooks.streamWrite]
  const keys = Reflect.ownKeys(host)

  await hostWith(t, { loggerInstance: another })
  const app = await hostWith(t, { loggerInstance: host })
  t.strictSame(
    [host[HOOKS], another[HOOKS], child[HOOKS], hooks.streamWrite].map((value, index) => value === before[index]),
    [true, true, true, true],
    'the same objects'
  )
  t.strictSame(Reflect.ownKeys(host), keys)
  t.strictSame(Reflect.ownKeys(hooks), ['streamWrite'])

  await app.inject({ url: '/x?token=canary' })
  t.notMatch(own.text(), 'canary')
  t.equal(own.lines().length, seen.length, "the host's last step ran for each line")
  t.ok(own.lines().every(line => line.msg.startsWith('~')))

  for (const [logger, lines, mark] of [
    [host, own, '~'], [child, own, '~'], [host.child({ made: 'after' }), own, '~'], [another, other, ''],
    [pino({}, neighbour.stream), neighbour, '']
  ] as const) {
    logger.info({ url: '/x?token=kept' }, 'see /y?token=kept')
    t.match(lines.lines().at(-1), { url: '/x?token=kept', msg: `${mark}see /y?token=kept` })
  }
  const without = Fastify({ logger: { stream: neighbour.stream } })
  await without.inject({ url: '/x?token=kept' })
  t.match(neighbour.lines().at(-1), { msg: 'request completed' })
  t.match(neighbour.text(), 'Route GET:/x?token=kept not found')
})

t.test('two hosts on one pino may have different parameters', async t => {
  const { stream, text } = captureLog()
  const loggerInstance = pino({}, stream)
  const one = await hostWith(t, { loggerInstance }, { queryParameter: 'access' })
  const two = await hostWith(t, { loggerInstance })
  for (const app of [one, two]) {
    await app.inject({
      url: `/x?access=${app === one ? 'canary' : 'kept'}&token=${app === two ? 'canary' : 'kept'}&z=1`
    })
  }
  t.notMatch(text(), 'canary')
  t.match(text(), '/x?access=[Redacted]&token=kept&z=1')
  t.match(text(), '/x?access=kept&token=[Redacted]&z=1')
})

t.test('a renamed parameter is kept out of the log, the default name is not', async t => {
  const { stream, text } = captureLog()
  const app = await hostWith(t, { logger: { level: 'trace', stream } }, { queryParameter: 'a.cc-ess_1' })
  for (const url of ['/x', '/throw-url', '/missing']) {
    await app.inject({
      url: `${url}?a.cc-ess_1=canary&a%2Ecc%2Dess%5F1[]=canary&token=kept&a-cc-ess_1=kept&access=kept`
    })
  }
  t.notMatch(text(), 'canary')
  for (const url of ['/x', '/throw-url', '/missing']) {
    t.match(
      text(), `${url}?a.cc-ess_1=[Redacted]&a%2Ecc%2Dess%5F1[]=[Redacted]&token=kept&a-cc-ess_1=kept&access=kept`
    )
  }
})

t.test('with queryParameter: false, the log is as without the plugin, and old loggers cause no warning', async t => {
  for (const logger of [pino, oldPino as unknown as typeof pino]) {
    const { stream, text, lines } = captureLog()
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

t.test('with logger: false nothing breaks, and nothing is logged elsewhere', async t => {
  const spies = [
    t.capture(process, 'emitWarning'), t.capture(process.stderr, 'write'), t.capture(console, 'log'),
    t.capture(console, 'warn'), t.capture(console, 'error')
  ]
  for (const fastify of [{}, { logger: false }]) {
    const app = await hostWith(t, fastify)
    t.notOk(HOOKS in app.log, 'the empty logger, which all hosts of the process share, has nothing of ours')
    await use(t, app)
  }
  t.strictSame(spies.flatMap(spy => spy()).map(call => call.args), [])
})

t.test("with a pino before 9.6, Fastify's request and error lines are redacted, and one warning says what may not be", async t => {
  const { stream, text, lines } = captureLog()
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
  t.match(lines().find(({ msg }) => msg.startsWith('no luck at')), {
    err: {
      message: 'no luck at /throw-url?token=[Redacted]&z=1',
      stack: /^Error: no luck at \/throw-url\?token=\[Redacted\]&z=1\n +at /
    }
  })
  loggerInstance.info({ req: { url: '/x?token=kept' } }, 'its own')
  t.match(lines().at(-1), { req: { url: '/x?token=kept' } })
})

t.test("with a pino before 9.6, the output of the host's serializers is as without the plugin", async t => {
  const made = {
    list: ['a', { b: 1 }],
    date: new Date(0),
    nothing: null,
    number: 1,
    json: { toJSON: () => 'json' },
    nested: { deep: { a: [1] } },
    text: '/x?a=1',
    undefined
  }
  const serializers = Object.fromEntries(Object.entries(made).map(([key, value]) => [key, () => value]))
  const written = async (options: Partial<TokensPluginOptions>): Promise<object> => {
    const { stream, lines } = captureLog()
    const app = await hostWith(
      t, { loggerInstance: oldPino({ serializers, base: null, timestamp: false }, stream) }, options
    )
    app.log.info(Object.fromEntries(Object.keys(made).map(key => [key, 1])), 'as the host made it')
    return lines().at(-1) ?? {}
  }
  t.strictSame(await written({}), await written({ queryParameter: false }))
})

t.test("with a pino before 9.6, output of a host's serializer that is not valid JSON is omitted, and nothing breaks", async t => {
  const { stream, lines } = captureLog()
  const circle: { self?: object } = {}
  circle.self = circle
  const app = await hostWith(t, { loggerInstance: oldPino({ serializers: { circle: () => circle } }, stream) })
  app.log.info({ circle: 1 }, 'round')
  t.match(lines().at(-1), { msg: 'round', circle: '[Redacted]' })
})

t.test('with a logger that is not pino nothing breaks, and one warning is logged', async t => {
  const calls: Array<[level: string, ...args: unknown[]]> = []
  const level = (name: string) => (...args: unknown[]): void => { calls.push([name, ...args]) }
  const logger = {
    level: 'trace',
    fatal: level('fatal'),
    error: level('error'),
    warn: level('warn'),
    info: level('info'),
    debug: level('debug'),
    trace: level('trace'),
    silent: level('silent'),
    child: () => logger
  }
  const keys = Reflect.ownKeys(logger)
  const app = await hostWith(t, { loggerInstance: logger })
  t.match(calls, [['warn', /pino 9\.6.*"token"/]])
  await use(t, app)
  // Old versions of Fastify leave a symbol of their own.
  t.strictSame(Object.keys(logger), keys)
  t.equal(calls.filter(([name]) => name === 'warn').length, 1)
  for (const text of ['incoming request', 'request completed', 'no luck']) {
    t.ok(
      calls.some(call => call.at(-1) === text), 'and it still logs'
    )
  }
})

t.test("the query as an object, as pino's request serializer writes it, is redacted too", async t => {
  const { stream, text, lines } = captureLog()
  const app = await hostWith(t, { loggerInstance: pino({ serializers: { req: pino.stdSerializers.req } }, stream) })
  app.get('/out', { config: { applicationTokens: false } }, async request => {
    request.log.info({ query: request.query }, 'asked')
    return request.query
  })
  const { token } = await app.tokens.issue({
    name: 'query', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  for (const value of [token, 'canary', 'canary&tok%65n=canary']) await app.inject({ url: `/out?a=1&token=${value}` })
  await app.inject({ url: `/x?token=${token}` })
  t.match(lines().filter(({ req }) => req), [{ req: { query: { a: '1' } } }], 'this test would notice')
  t.notOk(token.split('.').slice(1).some(part => text().includes(part)), 'a token of ours')
  t.notOk(text().includes('canary'), 'what is not ours')
})

t.test("the query as an object is redacted, whatever the host's schemas and parsers made of it", async t => {
  const { stream, text, lines } = captureLog()
  const nested = (query: string): Record<string, unknown> =>
    Object.fromEntries([...new URLSearchParams(query)].map(([key, value]) => [key, key === 'a' ? { b: value } : value]))
  for (const routerOptions of [{}, { querystringParser: nested }]) {
    const app = await hostWith(t, { loggerInstance: pino({}, stream), ...routing(routerOptions) })
    app.get('/typed', {
      schema: { querystring: { type: 'object', properties: { c: { type: 'integer' }, d: { default: false } } } }
    }, async request => {
      request.log.info({ query: request.query }, 'asked')
      return 1
    })
    for (const query of [
      'c=1&token=canary', 'a=1&token=canary', 'token[]=canary', 'token=canary&token[0]=canary'
    ]) await app.inject({ url: `/typed?${query}` })
  }
  t.match(lines().find(({ msg }) => msg === 'asked'), { query: { c: 1, d: false } }, 'this test would notice')
  t.strictSame(lines().filter(line => JSON.stringify(line).includes('canary')), [])
  t.notOk(text().includes('canary'))
  t.notOk(text().includes([...Buffer.from('canary')].join(',')))
})

t.test("properties with the parameter's name outside a query are not changed", async t => {
  const { stream, lines } = captureLog()
  const app = await hostWith(t, { logger: { stream } })
  app.log.info({ token: 'of a lexer', form: { token: 'x' } }, 'its own')
  t.match(lines().at(-1), { token: 'of a lexer', form: { token: 'x' } })
})

t.test('every logger but pino 9.6 or later, of any version, causes a warning', async t => {
  const warnings = (logger: object): number => {
    let count = 0
    redactParameter({ warn () { count++ }, ...logger } as unknown as Log, 'token', 'cedalo')
    return count
  }
  for (const version of ['9.6.0', '9.6', '9.14.2', '10.0.0', '11.5.1']) {
    t.equal(
      warnings({ version, [HOOKS]: {} }), 0, version
    )
  }
  for (const version of ['9.5.9', '8.21.0', '8.6.0', '7', 'x', '', undefined]) {
    t.equal(
      warnings({ version, [HOOKS]: {} }), 1, String(version)
    )
  }
  t.equal(warnings({ version: '10.0.0' }), 1, 'of another kind')
})

t.test('a line break ends a value, so that the text after it is kept', async t => {
  const { stream, lines } = captureLog()
  const app = await hostWith(t, { logger: { stream } })
  await app.inject({ url: '/throw-url?token=canary' })
  t.match(
    lines().find(({ err }) => err !== undefined)?.err?.stack,
    /^Error: no luck at \/throw-url\?token=\[Redacted\]\n +at /
  )
  app.log.info('/x?token=canary\nkept\t/y?token=canary\tkept')
  t.equal(lines().at(-1)?.msg, '/x?token=[Redacted]\nkept\t/y?token=[Redacted]\tkept')
})

t.test('an invalid HTTP request, whose bytes Fastify logs at level trace, is redacted as text and as numbers', async t => {
  const { stream, text, lines } = captureLog()
  const app = await hostWith(t, { logger: { level: 'trace', stream } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET /x?token=canary HTTP/1.1\r\nhost: x\r\nno header\r\n\r\n')
  t.match(String(await buffer(socket)), 'HTTP/1.1 400')
  t.match(text(), 'client error', 'this test would notice')
  t.notOk(text().includes('canary'))
  t.notOk(text().includes([...Buffer.from('canary')].join(',')))
  t.match(lines().find(line =>
    'rawPacket' in (line.err ?? {})), { err: { rawPacket: '[Redacted]' } }, 'and stays a line of JSON')
})

const redact = createRedact('token', 'cedalo')

t.test('a valid ?token= is in no line, wherever the query begins: enabled, disabled and on a route that opts out', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  let log = ''
  const app = Fastify({ logger: { level: 'trace', stream: { write (line: string) { log += line } } } })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/files/*', async request => ({ user: (request as { user?: unknown }).user ?? null }))
  app.get('/out/*', { config: { applicationTokens: false } }, async request => request.url)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x'
  })
  const encoded = [...token].map(char => `%${char.charCodeAt(0).toString(16)}`).join('')
  const [, , signature = ''] = token.split('.')
  for (const isEnabled of [true, false]) {
    if (!isEnabled) await app.tokens.disable()
    for (const base of ['/files', '/out', '/nope']) {
      for (const path of [
        `a;v=1?token=${token}`, `a;jsessionid=0A1B?token=${token}`, `a;v=1#token=${token}`, `a;a=b?token=${token}`,
        `a;v=1?%74o%6Be%6e=${encoded}`, `a?b=;c=?d=#e=?token[]=${token}`, `a?token%5b0][x]=${token}`,
        `a?a=b?token=${token},foo`
      ]) {
        const [answer] = await once(
          get({ port: (app.server.address() as AddressInfo).port, path: `${base}/${path}`, agent: false }), 'response'
        ) as [IncomingMessage]
        await once(answer.resume(), 'end')
        t.match(log, '[Redacted]')
        t.notOk(log.includes(signature) || log.includes(encoded), path)
        log = ''
      }
    }
  }
})

/** The same, slowly: at each mark of a query, a key up to `=`, decoded, and its value. */
function redactSlowly (text: string): string {
  let redacted = ''
  for (let index = 0; index < text.length; index++) {
    redacted += text[index]
    const key = /^[^?&#;= "\\]+(?==)/.exec(text.slice(index + 1))?.[0]
    if (!'?&#;'.includes(text[index] ?? '') || key === undefined) continue
    const name = key.replace(/%([0-9a-f]{2})/gi, (_escape, code: string) =>
      String.fromCharCode(Number.parseInt(code, 16)))
    if (name !== 'token' && !name.startsWith('token[')) continue
    const value = /^(?:[^& "\\]|\\["\\])*/.exec(text.slice(index + key.length + 2))?.[0] ?? ''
    redacted += `${key}=${value === '' ? '' : '[Redacted]'}`
    index += key.length + 1 + value.length
  }
  return redacted
}

t.test('every line is redacted as by a simple, slow reference', t => {
  const parts = [
    'token', 'tok%65n', '%74OKEN', '%74%6f%6B%65%6E', 'tokens', 'mytoken', 'toke', '[', ']', '%5B0]', '%5b', '%', '%7',
    '%zz', '=', '=', '?', '&', '#', ';', ' ', '"', '\\"', '\\\\', '\\n', 'a', 'é', ','
  ]
  fc.assert(fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 30 }), pieces => {
    const text = pieces.join('')
    // A line break in JSON is a backslash and a letter, where a key can't begin.
    return redact(text) === redactSlowly(text)
  }), { numRuns: 20_000 })
  t.end()
})

t.test('a parameter is found in any encoding, with any name of any length', t => {
  for (const name of ['t', 'a.cc-ess_1', 'abcdefgh', 'abcdefghi', 'Z'.repeat(255)]) {
    const hide = createRedact(name, 'cedalo')
    for (const key of [
      name, [...name].map(char => `%${char.charCodeAt(0).toString(16)}`).join(''),
      `${name.slice(0, -1)}%${name.charCodeAt(name.length - 1).toString(16).toUpperCase()}`
    ]) {
      t.equal(hide(`"/x?${key}=secret&${key}x=kept&y${key}=kept"`), `"/x?${key}=[Redacted]&${key}x=kept&y${key}=kept"`)
    }
  }
  t.equal(createRedact('a.b', 'cedalo')('?a-b=kept'), '?a-b=kept')
  t.equal(
    redact('/x?token[&a=kept&token[b]=x'), '/x?token[&a=kept&token[b]=[Redacted]', 'a key that never ends is none'
  )
  t.end()
})

t.test('every value of a query as an object is redacted, and the line stays valid JSON', t => {
  for (const value of ['x', '"\\', [], ['x'], [['x"]'], { token: 'x' }], { a: ['}', { 'b"': 'x' }] }, 1, true, null]) {
    for (const key of ['token', 'token[]', 'token["', 'tok%65n%5B']) {
      const line = JSON.stringify({
        token: 'kept',
        query: { 'a"token': 'kept', text: ',"token":"kept"', [key]: value, last: { [key]: value, z: 1 } },
        msg: 'kept'
      })
      t.strictSame(JSON.parse(redact(line)), {
        token: 'kept',
        query: { 'a"token': 'kept', text: ',"token":"kept"', [key]: '[Redacted]', last: { [key]: '[Redacted]', z: 1 } },
        msg: 'kept'
      })
    }
  }
  t.equal(redact('{"query":{"token":"x, cut of'), '{"query":{"token":"[Redacted]"', 'what is no JSON')
  t.end()
})

t.test('of very many values, those after the first are removed together with the text between them', t => {
  t.equal(
    redact(`"/?${'token=x&'.repeat(40)}a=1" ?token=y`),
    `"/?${'token=[Redacted]&'.repeat(32)}token=[Redacted]" ?token=[Redacted]`
  )
  t.end()
})

const claims = (iss: string): string => Buffer.from(
  JSON.stringify({ role: 'admin', iat: 1764203000, exp: 4070908800, iss, jti: randomUUID() })
).toString('base64url')
const jwt = (iss = 'cedalo', header: object = { alg: 'HS256', typ: 'JWT' }): string =>
  `${Buffer.from(JSON.stringify(header)).toString('base64url')}.${claims(iss)}.${randomBytes(32).toString('base64url')}`

t.test('a token is redacted wherever it stands, except after Bearer in a header', t => {
  const token = jwt()
  for (const [text, left] of [
    [
      '/x?a=T&b=1', '/x?a=[Redacted]&b=1'
    ], ['/x/T/y', '/x/[Redacted]/y'], ['/x?a=1|token=T', '/x?a=1|token=[Redacted]'], ['T', '[Redacted]'],
    [
      'next=%2Fy%3Ftoken%3DT', 'next=%2Fy%3Ftoken%3D[Redacted]'
    ], ['Bearer%20T', 'Bearer%20[Redacted]'], ['x T', 'x [Redacted]']
  ] as const) {
    for (const form of [token, token.replaceAll('.', '%2E')]) {
      t.equal(
        redact(`"${text.replace('T', form)}"`), `"${left}"`, text
      )
    }
  }
  for (const scheme of ['Bearer ', 'bearer ']) {
    const header = `{"headers":{"authorization":"${scheme}${token}"}}`
    t.equal(redact(header), header, 'what a host logs of its headers')
  }
  t.equal(redact(`{"query":{"a":"Bearer ${token}"}}`), '{"query":{"a":"Bearer [Redacted]"}}', 'what was a query')
  t.equal(redact('{"country":{"token":"x"}}'), '{"country":{"token":"x"}}', 'the member of an object that is no query')
  t.end()
})

t.test('a JWT of another issuer or algorithm, and what only resembles one, is kept', t => {
  const [header = '', payload = ''] = jwt().split('.')
  for (const kept of [
    jwt('host'), jwt('cedalo', { alg: 'RS256', typ: 'JWT' }), header, `${header}.${payload}`, `${header}.e30.x`,
    `x${header}..x`, 'ciOiJIUz'
  ]) {
    t.equal(redact(`"/x?jwt=${kept}&a=${kept}"`), `"/x?jwt=${kept}&a=${kept}"`)
  }
  t.equal(createRedact('token', 'host')(`"${jwt('host')}"`), '"[Redacted]"', 'but that of the issuer that is set')
  t.end()
})

t.test('a copy of a token in needless escapes is redacted beside it, however often they were applied', t => {
  const token = jwt()
  const once = (text: string): string => text.replace(/\W/g, char => `%${char.charCodeAt(0).toString(16)}`)
  const forms = ['e', 'y', '5', 'I', 'c'].map(char => token.replace(char, encode(char)))
  forms.push(
    encode(token), token.replaceAll('e', '%65'), `${token.slice(0, 60)}${encode(token.charAt(60))}${token.slice(61)}`
  )
  for (const form of forms.flatMap(form => [form, once(form), once(once(form)), encode(form)])) {
    const line = redact(`{"url":"/x?z=%20&token=${token}&next=${form}&b=1","msg":"100 %"}`)
    t.notOk(token.split('.').slice(1).some(part => decodeAll(line).includes(part)), form.slice(0, 20))
    t.match(JSON.parse(line), { url: /^\/x\?z=%20&token=\[Redacted\]&next=/ })
  }
  const kept = `{"url":"/x?%61=1&token=${token}&next=%2Fy%3Fq%3D%2520x%C3%A9&a=${'x'.repeat(300)}&b=%61"}`
  t.equal(redact(kept), kept.replace(token, '[Redacted]'), 'what clients do escape')
  const many = redact(`{"url":"/x?token=${token}&a=${'%20'.repeat(100)}","b":"%20","c":"kept"}`)
  t.equal(many, `{"url":"/x?token=[Redacted]&a=${'%20'.repeat(64)}[Redacted]","b":"[Redacted]","c":"kept"}`)
  t.end()
})

t.test('of a flood the surroundings are redacted: the rest of the string or array, or the query as an object', t => {
  const many = (piece: string): string => piece.repeat(40)
  t.equal(
    redact(`{"url":"/x?${many('&token[')}","b":"kept"}`), `{"url":"/x?${'&token['.repeat(32)}&[Redacted]","b":"kept"}`
  )
  t.equal(redact(`["${many('?token= ","')}a"]`), `["${'?token= ","'.repeat(32)}?token=[Redacted]"]`)
  const token = jwt()
  t.equal(redact(`["${many(`${token}","`)}a"]`), `["${'[Redacted]","'.repeat(8)}[Redacted]"]`)
  const members = Array.from({ length: 40 }, (_, at) => [`token[${at}]`, 'x'] as const)
  for (const query of [
    Object.fromEntries(members), { a: many('?token=x&') }, { a: many('?token=x;').split(';'), b: [{ c: 1 }] },
    { token: 'x', a: many(token) }
  ]) {
    const line = JSON.stringify({ req: { query, url: 'kept' }, query: { token: 'x', a: 'kept' }, msg: 'kept' })
    t.strictSame(JSON.parse(redact(line)), {
      req: { query: '[Redacted]', url: 'kept' }, query: { token: '[Redacted]', a: 'kept' }, msg: 'kept'
    })
  }
  t.end()
})

t.test('a line of JSON stays valid JSON without tokens, whatever is in it', t => {
  const token = jwt()
  const piece = fc.constantFrom(
    '?token=',
    '&tok%65n=',
    '#token[a]=',
    '&token[',
    'token',
    token,
    token.slice(0, 40),
    '%65',
    '%25',
    '"',
    '\\',
    ' ',
    '&',
    '中',
    '\u2028',
    'ciOiJIUz',
    'query":{',
    ',"token":'
  )
  const string = fc.array(piece, { maxLength: 12 }).map(pieces => pieces.join(''))
  const key = fc.oneof(string, fc.constantFrom('token', 'query', 'token[a]', 'rawPacket'))
  const value = fc.anything({
    key, values: [string, fc.integer(), fc.constant(null)], maxDepth: 2, maxKeys: 6, withBoxedValues: false
  })
  fc.assert(fc.property(value, query => {
    const line = redact(JSON.stringify({ req: { url: JSON.stringify(query), query }, msg: 'kept' }))
    return (JSON.parse(line) as { msg: string }).msg === 'kept' && !line.includes(token)
  }), { numRuns: 1000 })
  t.end()
})

const HOSTILE = [
  'a', '&', '&%=', '&%zz=', '&token=x', '&token=', '&token[', '&toke', '&toke%', '&%74%6f%6b%65%6', '&%74%6f%6b%65%6e=',
  '\\"', '{"query":{', ',"token":"x"', ',"token":[', ',"token[\\"', '"query":{,"token":{"'
]

t.test('redaction takes linear time, and a malformed key does not throw', t => {
  const cost = (text: string): number => {
    const times = Array.from({ length: 7 }, () => {
      const begun = process.cpuUsage()
      for (let count = 0; count < 20; count++) redact(text)
      const { user, system } = process.cpuUsage(begun)
      return (user + system) / 1000
    })
    return Math.min(...times)
  }
  for (const piece of HOSTILE) {
    const line = (length: number): string => `{"query":{"url":"/x?${piece.repeat(length / piece.length)}"}}`
    const [small, large] = [cost(line(15_000)), cost(line(240_000))]
    // Sixteen times as long: 256 times the work if it were quadratic.
    t.ok(large < 100 * small + 20, `${piece}: ${small.toFixed(1)} and ${large.toFixed(1)} ms`)
  }
  t.end()
})

const WARNING = 'was not made from app.log'

function captureWarnings () {
  let text = ''
  return {
    stream: { write (line: string) { text += line } },
    read: () => text,
    warnings: () =>
      text.split('may appear in it').length - 1
  }
}

interface Host {
  fastify?: FastifyServerOptions
  before?: (app: FastifyInstance) => void
  queryParameter?: string | false
  enabled?: boolean
}

/** Asks a host for these URLs, twice each. */
async function ask (t: Test, {
  fastify, before = () => {}, ...options
}: Host, urls = ['/x?token=canary', '/nope?token=canary', '/out?token=canary']): Promise<void> {
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

t.test('a childLoggerFactory with its own pino causes one warning in its log, also while disabled and if the host has no other log', async t => {
  for (const logger of [{ stream: captureWarnings().stream }, false] as const) {
    for (const enabled of [true, false]) {
      const { stream, read, warnings } = captureWarnings()
      const own = pino({}, stream)
      await ask(t, {
        fastify: { logger, childLoggerFactory: (_logger, bindings, options) => own.child(bindings, options) }, enabled
      })
      t.match(read(), 'canary', 'this test would notice')
      t.match(read(), WARNING)
      t.equal(warnings(), 1)
    }
  }
})

t.test('the factory of a single route, and pino-http whenever its middleware runs, cause one warning in their log', async t => {
  const [log, own] = [captureWarnings(), captureWarnings()]
  const other = pino({}, own.stream)
  await ask(t, {
    fastify: { logger: { stream: log.stream } },
    before (app) { app.get('/route', { childLoggerFactory: () => other } as object, async () => 'x') }
  }, ['/x?token=canary', '/route?token=canary'])
  t.strictSame([log.warnings(), own.warnings()], [0, 1])

  // What pino-http adds to a request.
  for (const hook of ['onRequest', 'preHandler'] as const) {
    for (const logger of [{ stream: log.stream }, false] as const) {
      const http = captureWarnings()
      const nest = pino({}, http.stream)
      const before = (app: FastifyInstance): void => {
        app.addHook(hook as 'onRequest', async request => {
          Object.assign(request.raw, { log: request.log, allLogs: [nest.child({ req: request.raw.url })] })
        })
      }
      await ask(t, { fastify: { logger }, before })
      t.strictSame([log.warnings(), http.warnings()], [0, 1], hook)
    }
  }
})

t.test('redacted loggers, requests without the parameter, and queryParameter: false cause no warning', async t => {
  const { stream, read, warnings } = captureWarnings()
  const own = pino({}, stream)
  const hosts: Host[] = [
    { fastify: { logger: { stream } } },
    { fastify: { loggerInstance: pino({}, stream).child({ name: 'child' }, { redact: ['x'], serializers: {} }) } },
    {
      fastify: {
        logger: { stream },
        childLoggerFactory: (logger, bindings, options) =>
          logger.child({ ...bindings, more: 1 }, { ...options, level: 'debug', msgPrefix: '~' }).child({})
      }
    },
    {
      fastify: { logger: { stream } },
      before (app) {
        app.addHook(
          'onRequest', async request => { Object.assign(request.raw, { allLogs: [app.log.child({ http: true })] }) }
        )
      }
    },
    {
      fastify: { logger: { stream } },
      before (app) { app.addHook('onRequest', async request => { Object.assign(request.raw, { allLogs: 'a text' }) }) }
    },
    {
      fastify: { logger: { stream } },
      before (app) {
        app.addHook('onRequest', async request => { Object.assign(request.raw, { allLogs: [null, {}] }) })
      }
    },
    { fastify: { logger: { stream }, childLoggerFactory: () => own }, queryParameter: false },
    { fastify: { logger: { stream }, childLoggerFactory: () => own }, queryParameter: 'access' },
    { fastify: { logger: false } }
  ]
  for (const host of hosts) await ask(t, host)
  t.match(read(), '/x?token=[Redacted]')
  t.equal(warnings(), 0)
})

t.test('an older pino causes a warning at registration, and not again', async t => {
  const { stream, read } = captureWarnings()
  await ask(t, { fastify: { loggerInstance: oldPino({}, stream) } })
  t.equal(read().split('"level":40').length - 1, 1)
  t.notMatch(read(), WARNING)
})

type Router = NonNullable<FastifyServerOptions['routerOptions']>

/** As `qs` with `comma: true`. */
const commas = (query: string): Record<string, unknown> => Object.fromEntries(Object.entries(parse(query)).map(
  ([key, value]) => [key, String(value).includes(',') ? String(value).split(',') : value]
))
const PARSERS: Record<string, Router> = {
  default: {},
  semicolon: { useSemicolonDelimiter: true } as Router,
  commas: { querystringParser: commas },
  'split at semicolons': { querystringParser: query => ({ ...parse(query, ';') }) },
  'split at bars': { querystringParser: query => ({ ...parse(query, '|') }) },
  nested: {
    querystringParser: query => ({
      ...parse(query), deep: { list: [query, 1, null, { [query]: 'x' }] }, [query]: 'y', n: 1
    })
  },
  'decoded twice': { querystringParser: query => ({ ...parse(decodeURIComponent(query)) }) }
}

async function createParsingHost (t: Test, routerOptions: Router, log: string[]) {
  const { url: postgres, schema } = await createDatabase(t)
  // Its lines have the query twice: in the URL and as an object.
  const logger = {
    level: 'trace',
    serializers: { req: ({ method, url, query }: FastifyRequest) => ({ method, url, query }) },
    stream: { write (line: string) { log.push(line) } }
  }
  const app = Fastify({ ...routing(routerOptions), rewriteUrl: request => String(request.url), logger })
  t.teardown(() => app.close())
  // It fixes what `request.originalUrl` is.
  app.addHook('onRequest', async request => request.originalUrl)
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  for (const path of ['/x', '/x/*']) {
    app.get(path, async request => ({
      name: request.applicationToken?.name,
      url: request.url,
      all: [
        request.originalUrl, request.raw.url, (request.raw as { originalUrl?: string }).originalUrl, request.query
      ]
    }))
  }
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x'
  })
  const ask = async (path: string): Promise<string> => {
    const [answer] = await once(
      get({ port: (app.server.address() as AddressInfo).port, path, agent: false }), 'response'
    ) as [IncomingMessage]
    return await text(answer)
  }
  return { app, token, ask }
}

/** Text without percent-encoding, however often it was applied. */
function decodeAll (text: string): string {
  const decoded = text.replace(/%([0-9a-f]{2})/gi, (_escape, code: string) =>
    String.fromCharCode(Number.parseInt(code, 16)))
  return decoded === text ? text : decodeAll(decoded)
}

const CASES: Array<[parser: string, query: (token: string) => string, url: string]> = [
  ['semicolon', token => `;token=${token}&b=2?c`, '/x;b=2?c'],
  ['semicolon', token => `;token=${token}&b=2#c`, '/x;b=2#c'],
  ['commas', token => `?token=${token},foo`, '/x?token=,foo'],
  ['commas', token => `?token=foo,${token}&z=1`, '/x?token=foo,&z=1'],
  ['split at semicolons', token => `?a=1;token=${token}`, '/x?a=1'],
  ['split at semicolons', token => `?token=${token};a=1`, '/x?a=1'],
  ['default', token => `?next=%2Fy%3Ftoken%3D${token}&token=${token}`, '/x?next=%2Fy%3Ftoken%3D'],
  ['default', token => `?a=x.${token}&token=${token}&%zz=%41`, '/x?%zz=%41'],
  ['default', token => `?token=${token}#a=${token}&token=${token.replaceAll('e', '%65')}`, '/x'],
  ['default', token => `?next=${token.replaceAll('e', '%65')}&token=${token}`, '/x'],
  ['default', token => `?a=x%20${token}&b=Bearer%20${token}&token=${token}`, '/x?a=x%20&b=Bearer%20'],
  ['default', token => `/${token}?token=${token}`, '/x/'],
  ['split at bars', token => `?a=1|token=${token}|z=1`, '/x?a=1|token=|z=1'],
  ['nested', token => `?token=${token}&a=1`, '/x?a=1'],
  ['decoded twice', token => `?token=${token.replaceAll('e', '%2565')}&a=1`, '/x']
]

t.test("no copy of a token is left in URL, query or log, whatever the host's parser found", async t => {
  for (const [parser, query, url] of CASES) {
    const log: string[] = []
    const { token, ask } = await createParsingHost(t, PARSERS[parser] ?? {}, log)
    const answer = await ask(`/x${query(token)}`)
    const { name, url: left } = JSON.parse(answer) as { name: unknown, url: unknown }
    t.strictSame({ name, url: left }, { name: 'a', url }, `${parser} ${query('T')}`)
    const [, payload = 'none', signature = 'none'] = token.split('.')
    t.notOk(answer.includes(payload) || answer.includes(signature))
    t.match(log.join(''), /"query":("|{)/, 'this test would notice')
    const decoded = decodeAll(log.join(''))
    t.notOk(decoded.includes(payload) || decoded.includes(signature), 'in the log')
  }
})

t.test('a refused token leaves no copy in URL, query or log, and hundreds of them take no longer', async t => {
  const log: string[] = []
  const { token, ask } = await createParsingHost(t, {}, log)
  t.match(await ask(`/x?token=${token}x`), '"UNAUTHORIZED"')
  const short = [...'abcdefghij'].map(char => `${char}.eyJpc3MiOiJjZWRhbG8ifQ.`)
  t.match(
    await ask(`/x?${Array.from({ length: 300 }, (_, index) => `token=${short[index % 10]}${index}`).join('&')}`),
    '"INVALID"'
  )
  t.notOk(log.join('').includes(token) || log.join('').includes('eyJpc3MiOiJjZWRhbG8ifQ'))
})

t.test('each Bearer of a joined Authorization header counts: a token beside any other is a 400, in one header or two', async t => {
  const { app, token } = await createParsingHost(t, {}, [])
  const ask = async (authorization: string): Promise<number> => {
    const request = get({
      port: (app.server.address() as AddressInfo).port, path: '/x', agent: false, headers: { authorization }
    })
    const [answer] = await once(request, 'response') as [IncomingMessage]
    answer.resume()
    return Number(answer.statusCode)
  }
  for (const [first, second] of [['bad', token], [token, 'bad'], [token, token], [`${token}x`, 'opaque']] as const) {
    for (const comma of [',', ', ', ' ,  ']) {
      t.equal(
        await ask(`Bearer ${first}${comma}bearer ${second}`), 400, `${first.slice(0, 3)}${comma}`
      )
    }
  }
  t.equal((await app.inject({ url: '/x', headers: { ...bearer(`${token}x`) } })).statusCode, 401)
  for (const value of [
    `Basic eDp4, Bearer ${token}`, `Bearer ${token}, Basic eDp4`,
    `Digest username="x", uri="/, Bearer", qop=auth, Bearer ${token}`, `Bearer ${token},`
  ]) t.equal(await ask(value), 200, value.slice(0, 20))
  for (const value of [
    'Bearer bad, Bearer worse', 'Digest a="b", c="d"', ',,,', `Basic ${token}, Digest ${token}`
  ]) t.equal(await ask(value), 200, 'left alone')
})
