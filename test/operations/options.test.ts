// Secrets of people who forgot to substitute.
/* eslint-disable no-template-curly-in-string */
import { generateKeyPairSync, randomBytes, randomInt } from 'node:crypto'
import Fastify, { type FastifyRequest, type FastifyServerOptions } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase } from '../support/database.js'
import { withoutRequestLog } from '../support/fastify-version.js'
import { until } from '../support/until.js'

async function refusal (options: object): Promise<{ code: string, message: string }> {
  const app = Fastify()
  try {
    await app.register(tokensPlugin, options as TokensPluginOptions)
    return { code: 'accepted', message: '' }
  } catch (error) {
    return error as { code: string, message: string }
  } finally {
    await app.close()
  }
}

t.test('an invalid option rejects the registration with an error that says what is valid', async t => {
  const good = { postgres: 'postgres://nobody@127.0.0.1:1/x', secret: SECRET, enabled: false }
  const mustBe: Record<string, [sentence: string, ...bad: unknown[]]> = {
    postgres: [
      'a connection string such as postgres://user:password@host:5432/database, a configuration object for pg, or a Pool of pg',
      undefined, '', 5, null, new pg.Client()
    ],
    listen: [
      'a connection string or a configuration object for pg that reaches Postgres directly, not through a pooler', '',
      5, null, new pg.Pool()
    ],
    secret: ['a string of at least 32 random bytes, such as the output of "openssl rand -base64 32", or an array of up to five: the first signs, all verify',
      undefined, 'short', 'x'.repeat(64), 'é'.repeat(15), 5, Buffer.alloc(32), [], [SECRET, 'short'], [SECRET, SECRET], [SECRET, 5], Array.from(
        { length: 6 }, (_, n) => SECRET + n
      ),
      generateKeyPairSync('ed25519').privateKey.export(
        { type: 'pkcs8', format: 'pem' }
      ), generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' }),
      JSON.stringify(
        generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' })
      ), JSON.stringify({ kty: 'oct', k: SECRET }, null, 2), `\n ${JSON.stringify({ kty: 'oct', k: SECRET })}`],
    roles: [
      'an array of different names, "admin" among them, each of 1 to 255 printable ASCII characters without spaces', [],
      ['viewer'], 'admin', ['admin', 'admin'], ['admin', ''], ['admin', 'a b'], ['admin', 5]
    ],
    hook: ['"preHandler", or "onRequest" for a host whose guards run in that hook', 'preValidation', '', true],
    queryParameter: [
      'a name of letters, digits, "_", "." and "-", or false to ignore tokens in the query', '', true, 'a b', 'a=',
      'a&b', 'tok%65n', 5
    ],
    versions: ['an array of different positive integers, such as [1]', [], 1, [0], [1.5], ['1'], [1, 1]],
    migrate: ['true, or false if an operator migrates the tables before the nodes start', 'no', 1],
    session: [
      'a function that takes the request and returns { username, roles } or null, or a promise of it', 'user', {}
    ],
    issuer: [
      'a string of 1 to 255 printable ASCII characters without spaces, quotes and backslashes; it is the iss claim', '',
      'a b', 'a"b', 'a\\b', 'é', 5
    ],
    enabled: ['true or false; false starts the plugin disabled, without a database connection', 'false', 0, null],
    prefix: [
      'a base path: empty, or a path that starts with a slash and does not end with one, such as "/mmc"', 'mmc', '/',
      '/mmc/', '/a//b', '/:id', 5
    ],
    schema: [
      'the name of a Postgres schema: up to 45 letters, digits and underscores, not starting with a digit', '', '1a',
      'a"b', 'a.b', 'x'.repeat(46), 5
    ],
    bootstrap: ['the path of a JSON file, an array of { name, role, validUntil, hash }', '', 5, [], null],
    bootstrapStrict: [
      'true to reject the start if the bootstrap file or an entry is invalid, or false to log it', 'no', 1
    ],
    onEvent: ['a function that takes an event, such as { type: "token.issued", name, … }', 'log', {}, null],
    maxLifetime: ['a positive integer in seconds, such as 7776000 for 90 days', 0, -1, 1.5, '90d', Infinity, NaN],
    tokensMayManageTokens: ['true, or false so that the four routes require a logged-in session', 'no', 0],
    purgeExpiredAfter: ['an integer in seconds from 0, such as 2592000 for 30 days', -1, 1.5, '30d', true],
    expiryHeader: [
      'true or false; true adds the header application-token-expires to responses to requests with a token',
      'x-expires', 1
    ]
  }
  for (const [name, [sentence, ...bad]] of Object.entries(mustBe)) {
    for (const value of bad) {
      t.match(
        await refusal({ ...good, [name]: value }),
        { code: 'MMC_TOKENS_INVALID_OPTION', message: `option "${name}" must be ${sentence}` },
        `${name}: ${String(value)}`
      )
    }
  }
  t.match(await refusal({ ...good, secert: 'x' }), {
    code: 'MMC_TOKENS_INVALID_OPTION',
    message: 'there is no option "secert": the options are postgres, listen, secret, session, issuer, roles, hook, queryParameter, versions, enabled, prefix, schema, migrate, bootstrap, bootstrapStrict, onEvent, maxLifetime, tokensMayManageTokens, purgeExpiredAfter, expiryHeader'
  })
  const unreadable = await refusal({ ...good, postgres: 'postgres://me:hid/den@host:port/x' })
  t.equal(unreadable.code, 'MMC_TOKENS_INVALID_OPTION')
  t.notOk(JSON.stringify(unreadable).includes('den'))
  t.equal((await refusal(
    { ...good, logLevel: 'warn', logSerializers: {}, prefix: '/a/b', issuer: undefined, unknown: undefined }
  )).code, 'accepted', "register's own keys and undefined")
  for (const secret of ['01234567'.padEnd(20, '7654321') +
    'abcdefghijkl', `${SECRET} {"kty"`]) t.equal((await refusal({ ...good, secret })).code, 'accepted', secret)
})

t.test('the plugin declares its name and the Fastify version that it supports', async t => {
  t.match(Reflect.get(tokensPlugin, Symbol.for('plugin-meta')), { name: 'fastify-mmc-tokens', fastify: '5.x' })
})

t.test("the caller's options are not changed, and may be frozen", async t => {
  const options = Object.freeze({
    postgres: Object.freeze({ host: '127.0.0.1', port: 1 }),
    secret: Object.freeze([SECRET, `another ${SECRET}`]) as string[],
    roles: Object.freeze(['admin', 'operator']) as string[],
    versions: Object.freeze([1]) as number[],
    enabled: false
  })
  t.equal((await refusal(options)).code, 'accepted')
  t.strictSame(Object.keys(options), ['postgres', 'secret', 'roles', 'versions', 'enabled'])
})

t.test('a list that is no array, and a function, are refused instead of replaced by the default', async t => {
  const good = { postgres: { port: 1 }, secret: SECRET, enabled: false }
  const cyclic: unknown[] = []
  cyclic.push(cyclic)
  for (const name of ['roles', 'versions', 'secret', 'hook', 'queryParameter']) {
    for (const value of [new Set(['admin', 'operator']), { admin: 1 }, () => {}, cyclic]) {
      t.match((await refusal({ ...good, [name]: value })).message, new RegExp(`option "${name}" must be`))
    }
  }
})

t.test('session returns who is logged in, or a promise of it; an invalid user is not logged in', async t => {
  const answers: Array<[answer: unknown, status: number, session?: boolean]> = [
    [{ username: 'u', roles: ['admin'] }, 200], [
      Promise.resolve({ username: 'u', roles: ['viewer', 'admin'] }), 200
    ], [{ username: 'u', roles: ['viewer'] }, 403], [{ username: 'u', roles: [] }, 403],
    [null, 401], [undefined, 401], [{}, 401], [
      { username: '', roles: ['admin'] }, 401
    ], [{ username: 'u', roles: 'admin' }, 401], [{ roles: ['admin'] }, 401], ['admin', 401], [true, 401]
  ]
  const database = await createDatabase(t)
  let answer: unknown
  const { app } = await buildHost(t, { database, tokens: { session: async () => await (answer as Promise<null>) } })
  for (const [given, status] of answers) {
    answer = given
    t.equal((await app.inject({ url: '/api/tokens' })).statusCode, status, JSON.stringify(given))
    const refused = await app.inject({ url: '/api/viewer', headers: bearer(FORGED) })
    t.strictSame(refused.json<{ data: unknown }>().data, { session: status !== 401 })
  }
  const sync = await buildHost(t, {
    database,
    tokens: {
      session: (request: FastifyRequest) =>
        request.headers['x-user'] === 'me' ? { username: 'me', roles: ['admin'] } : null
    }
  })
  t.equal((await sync.app.inject({ url: '/api/tokens', headers: { 'x-user': 'me' } })).statusCode, 200)
  t.equal((await sync.app.inject({ url: '/api/tokens' })).statusCode, 401)
})

t.test('a session function that throws is a 500, with the cause in the log, on the four routes and for an invalid token', async t => {
  const lines: string[] = []
  const { app } = await buildHost(t, {
    tokens: { session: () => { throw new Error('session store is down') } },
    fastify: { logger: { stream: { write (line: string) { lines.push(line) } } } }
  })
  for (const request of [{ url: '/api/tokens' }, { url: '/api/viewer', headers: bearer(FORGED) }]) {
    lines.length = 0
    const answer = await app.inject(request)
    t.equal(answer.statusCode, 500)
    t.strictSame(answer.json(), { code: 'INTERNAL_ERROR', message: 'Internal error' })
    t.ok(lines.some(line => line.includes('session store is down')))
  }
})

t.test('a host with another issuer ignores tokens of this one', async t => {
  const database = await createDatabase(t)
  const one = await buildHost(t, { database, tokens: { issuer: 'https://one.example' } })
  const two = await buildHost(t, { database })
  const { token } = await one.issue()
  t.strictSame((await one.app.inject({ url: '/api/profile', headers: bearer(token) })).json(), {
    username: 'token:token 1', roles: ['viewer']
  })
  t.match(
    (await two.app.inject({ url: '/api/profile', headers: bearer(token) })).json(),
    { message: 'Unauthorized' },
    "the host's own answer"
  )
  t.equal(
    (await one.app.inject({ url: '/api/tokens' })).headers['www-authenticate'], 'Bearer realm="https://one.example"'
  )
})

t.test('prefix is the base path of the four routes', async t => {
  const { app, login } = await buildHost(t, { basePath: '/a/b' })
  const headers = await login()
  t.equal((await app.inject({ url: '/a/b/api/tokens', headers })).statusCode, 200)
  t.equal((await app.inject({ url: '/api/tokens', headers })).statusCode, 404)
})

t.test('of several secrets the first signs and all verify, in any order; tokens of a removed one are refused', async t => {
  const database = await createDatabase(t)
  const [old, fresh] = [SECRET, `fresh ${SECRET}`]
  const host = async (...secret: string[]): Promise<Awaited<ReturnType<typeof buildHost>>> => await buildHost(t, {
    database, tokens: { secret: secret.length > 1 ? secret : secret.join() }
  })
  const status = async ({ app }: Awaited<ReturnType<typeof buildHost>>, token: string): Promise<number> => {
    return (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode
  }

  const before = await (await host(old)).issue({ name: 'before' })
  const both = await host(fresh, old)
  const during = await both.issue({ name: 'during' })
  for (const { token } of [before, during]) t.equal(await status(both, token), 200)
  t.equal(await status(await host(old, fresh), during.token), 200, 'a node that does not sign with it yet')
  const after = await host(fresh)
  t.equal(await status(after, during.token), 200)
  t.equal(await status(after, before.token), 401)
  t.equal(await status(await host(old), during.token), 401)
})

t.test('tokens may have only the roles of the host', async t => {
  const { app, issue } = await buildHost(t, { tokens: { roles: ['admin', 'robot'] } })
  t.equal((await issue({ role: 'robot' })).role, 'robot')
  await t.rejects(issue({ role: 'viewer' }), { statusCode: 400, message: 'role must be one of admin, robot' })
  const answer = await app.inject({
    method: 'POST',
    url: '/api/tokens',
    headers: bearer((await issue({ role: 'admin' })).token),
    payload: { name: 'x', role: 5, validUntil: '2999-01-01T00:00:00Z' }
  })
  t.strictSame(answer.json(), { code: 'INVALID', message: 'role must be one of admin, robot' })
})

t.test('queryParameter may be another name, or none', async t => {
  const database = await createDatabase(t)
  const renamed = await buildHost(t, { database, tokens: { queryParameter: 'access_token' } })
  const { token } = await renamed.issue()
  t.equal((await renamed.app.inject({ url: `/api/viewer?access_token=${token}` })).statusCode, 200)
  t.equal((await renamed.app.inject({ url: `/api/viewer?token=${token}` })).statusCode, 401)
  const { app } = await buildHost(t, { database, tokens: { queryParameter: false } })
  t.equal((await app.inject({ url: `/api/viewer?token=${token}` })).statusCode, 401)
  t.equal(
    (await app.inject({ url: `/api/viewer?token=${token}`, headers: bearer(token) })).statusCode,
    200,
    'one credential, not two'
  )
})

t.test('versions are those that the host serves', async t => {
  const { app, login } = await buildHost(t, { tokens: { versions: [1, 3] } })
  const headers = await login()
  const status = async (accept: string): Promise<number> => (await app.inject(
    { url: '/api/tokens', headers: { ...headers, accept } }
  )).statusCode
  for (const accept of [
    'application/json', 'application/json;version=1', 'application/json;version=3'
  ]) t.equal(await status(accept), 200)
  t.equal(await status('application/json;version=2'), 406)
  const refused = await app.inject({ url: '/api/tokens', headers: { ...headers, accept: 'text/html' } })
  t.strictSame(refused.json(), {
    code: 'NOT_ACCEPTABLE', message: 'Accept must allow one of: application/json;version=3, application/json;version=1'
  })
})

t.test('with hook: onRequest, a guard in that hook sees the token', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET, hook: 'onRequest' })
  app.addHook('onRequest', async (request, reply) => {
    if (request.applicationToken === null) return await reply.code(418).send()
  })
  app.get('/', async request => (request as { user?: unknown }).user)
  const { token } = await app.tokens.issue({
    name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
  })
  t.equal((await app.inject({ url: '/' })).statusCode, 418)
  for (const request of [{ url: '/', headers: bearer(token) }, { url: `/?token=${token}` }]) {
    t.strictSame((await app.inject(request)).json(), { username: 'token:a', roles: ['viewer'] })
  }
  t.equal((await app.inject({ url: '/', headers: bearer(FORGED) })).statusCode, 401)
})

t.test('with migrate: false the tables are not changed, and outdated ones reject the start with a clear error', async t => {
  const database = await createDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(tokensPlugin, { postgres: database.url, schema: database.schema, secret: SECRET, migrate: false })
  await t.rejects(async () => await app.ready(), {
    code: 'MMC_TOKENS_DATABASE',
    message: new RegExp(
    `schema "${database.schema}" is at migration 0 of 3; migrate it as the role that may [^]*, or leave the option "migrate" on$`
    )
  })
  await buildHost(t, { database })
  const { app: later, issue } = await buildHost(t, { database, tokens: { migrate: false } })
  t.strictSame((await later.tokens.list()).length, 0)
  t.ok(await issue())
})

for (const migrate of [true, false]) {
  t.test(`tables of a later version reject the start, with migrate: ${migrate}; a node that runs goes on`, async t => {
    const { database, issue } = await buildHost(t)
    await database.query('INSERT INTO migrations (number) VALUES (4)')
    await t.rejects(buildHost(t, { database, tokens: { migrate } }), {
      code: 'MMC_TOKENS_DATABASE',
      message: new RegExp(`schema "${database.schema}" is at migration 4, and this version knows 3: use a later version of the plugin$`)
    })
    t.strictSame(await database.query('SELECT max(number) FROM migrations'), [{ max: 4 }])
    t.ok(await issue())
  })
}

t.test('with listen, the tables must also exist behind the pooler and are not created there; both connections close with the host', async t => {
  const [direct, pooled] = [await createSeparateDatabase(t), await createSeparateDatabase(t)]
  const app = Fastify()
  t.teardown(() => app.close())
  app.register(tokensPlugin, { postgres: pooled.url, listen: direct.url, secret: SECRET })
  await t.rejects(async () => await app.ready(), { code: 'MMC_TOKENS_DATABASE', message: /is at migration 0 of 3/ })
  t.strictSame(await pooled.query("SELECT 1 FROM pg_namespace WHERE nspname = 'mmc_tokens'"), [])

  for (const options of [{ listen: { connectionString: direct.url, idleTimeoutMillis: 0 } }, {}]) {
    const lines: string[] = []
    const { app } = await buildHost(t, {
      database: direct,
      tokens: options,
      fastify: { logger: { level: 'warn', stream: { write (line: string) { lines.push(line) } } } }
    })
    await app.close()
    await until(
      async () => (await direct.query(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'fastify-mmc-tokens%'"
      )).length === 0
    )
    t.strictSame(lines, [])
  }
})

t.test('with listen, migrations use the direct connection, and statements are not prepared for the pooler', async t => {
  const database = await createDatabase(t)
  const { app, issue } = await buildHost(t, {
    database, tokens: { postgres: { connectionString: database.url, max: 1 }, listen: database.url }
  })
  const { token } = await issue()
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  const prepared = async (): Promise<string[]> => (await pool.query<{ name: string }>(
    'SELECT name FROM pg_prepared_statements'
  )).rows.map(({ name }) => name)
  const pooled = await buildHost(t, { database, tokens: { postgres: pool, listen: database.url } })
  await pooled.app.tokens.get('0'.repeat(64))
  t.strictSame(await prepared(), [])
  const direct = await buildHost(t, { database, tokens: { postgres: pool } })
  await direct.app.tokens.get('0'.repeat(64))
  // Beside what it asks on a schedule of its own.
  t.ok((await prepared()).includes(`mmc_tokens.${database.schema}.find`), 'this test would notice')

  const unreachable = Fastify()
  t.teardown(() => unreachable.close())
  unreachable.register(tokensPlugin, {
    postgres: database.url, schema: database.schema, secret: SECRET, listen: 'postgres://me:hidden@127.0.0.1:1/x'
  })
  await t.rejects(async () => await unreachable.ready(), {
    code: 'MMC_TOKENS_DATABASE', message: /^Postgres at 127\.0\.0\.1:1, database "x"/
  })
})

const FORGED = ['{"alg":"HS256","typ":"JWT"}', '{"iss":"cedalo"}', 'x'].map(part =>
  Buffer.from(part).toString('base64url')).join('.')

const GOOD = { postgres: 'postgres://localhost/none', secret: SECRET, enabled: false }

/** What a start with these options says; nothing where they are taken. */
async function complaint (t: Test, options: object, server: FastifyServerOptions = {}): Promise<string> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  return await Promise.resolve(app.register(tokensPlugin, { ...GOOD, ...options } as TokensPluginOptions)).then(
    () => '', ({ message }: Error) => message
  )
}

t.test('an invalid connection string is rejected, in every option', async t => {
  for (const bad of [
    'localhost:5432/mmc', 'not a url', 'mysql://me@here/mmc', 'postgres', 'postgres:', 'postgres://', 'postgresql:///',
    'postgres:here', ' postgres://here/mmc', 'host=here dbname=mmc', 'socket:', new URL('postgres://here/mmc'), []
  ]) {
    t.match(
      await complaint(t, { postgres: bad }), /^option "postgres" must be a connection string such as/, String(bad)
    )
    t.match(await complaint(t, { listen: bad }), /^option "listen" must be a connection string/, String(bad))
    t.match(
      await complaint(t, { postgres: { connectionString: bad } }),
      /^option "postgres" must be a connection string such as/,
      String(bad)
    )
  }
  for (const good of [
    'postgres://here/mmc', 'postgresql://me:pass@here:5433/mmc?sslmode=verify-full', 'POSTGRES://here',
    'postgres:///mmc', 'socket:/var/run/postgresql?db=mmc', '/var/run/postgresql mmc'
  ]) {
    t.equal(await complaint(t, { postgres: good, listen: good }), '', good)
    t.equal(await complaint(t, { postgres: { connectionString: good } }), '', good)
  }
  for (const config of [{}, { connectionString: undefined, host: 'here' }]) {
    t.equal(
      await complaint(t, { postgres: config }), ''
    )
  }
})

t.test('a connection string whose password is not percent-encoded is rejected without a part of it, in every option', async t => {
  for (const password of [
    '12/Qm9hdA', '/Qm9hdA', '12/3/Qm9hdA', '12?Qm9hdA', '?Qm9hdA', '12#Qm9hdA', '#Qm9hdA', '12/Qm9h?dA', '12/Qm9h#dA',
    '12#Qm9h?dA', 'Qm9hdA/', 'x@12/Qm9hdA', 'x@/Qm9hdA', 'x@12?Qm9hdA', 'x@12#Qm9hdA'
  ]) {
    const bad = `postgres://mmc:${password}@127.0.0.1:1/db`
    const pool = new pg.Pool()
    pool.options.connectionString = bad
    for (const options of [
      { postgres: bad }, { postgres: { connectionString: bad } }, { listen: bad }, { postgres: pool },
      { postgres: bad.replace('postgres', 'PostgreSQL') }
    ]) {
      const message = await complaint(t, options)
      t.match(message, /special characters percent-encoded$/, bad)
      t.notMatch(message, /Qm9h|mmc/)
    }
  }
  for (const good of [
    'postgres://me:12%2FQm9hdA%40@here:1/db', 'postgres://here/mmc?user=me@tenant&password=a@b',
    'postgres:///mmc?host=/tmp&user=me@tenant', 'socket:/tmp?db=a@b', '/tmp a@b'
  ]) t.equal(await complaint(t, { postgres: good }), '', good)
})

t.test('durations that look like milliseconds are rejected', async t => {
  for (const name of ['maxLifetime', 'purgeExpiredAfter']) {
    for (const seconds of [90 * 86_400_000, 3_155_760_001]) {
      t.match(await complaint(t, { [name]: seconds }), new RegExp(
      `^option "${name}" must be an? (positive )?integer in seconds.*, and at most 100 years$`
      ))
    }
    t.equal(await complaint(t, { [name]: 3_155_760_000 }), '')
  }
})

t.test('a misspelled option is rejected with a suggestion', async t => {
  for (const [misspelt, meant] of [
    ['secert', 'secret'], ['secrets', 'secret'], ['prefixx', 'prefix'], ['maxLifeTime', 'maxLifetime'],
    ['onevent', 'onEvent'], ['postgress', 'postgres'], ['queryParam', undefined], ['somethingElse', undefined]
  ]) {
    const said = await complaint(t, { [misspelt as string]: 'x' })
    t.ok(said.startsWith(`there is no option "${misspelt}": the options are postgres, `), said)
    t.equal(/did you mean "(.*)"\?$/.exec(said)?.[1], meant, said)
  }
})

t.test('options that fastify-cli passes to every plugin are ignored: skipOverride and those of the server', async t => {
  const server: FastifyServerOptions = {
    logger: false,
    bodyLimit: 1000,
    trustProxy: true,
    pluginTimeout: 5000,
    genReqId: () => 'x',
    ...withoutRequestLog(),
    requestTimeout: 1,
    keepAliveTimeout: 1,
    connectionTimeout: 1,
    exposeHeadRoutes: false,
    ajv: { customOptions: {} },
    requestIdHeader: 'x-id',
    forceCloseConnections: true,
    frameworkErrors: () => {},
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 200 }
  }
  t.equal(await complaint(t, { ...server, skipOverride: true, prefix: '/mmc' }, server), '')
})

/** What the start with this secret says: its error, else its warnings. */
async function start (t: Test, secret: string | string[]): Promise<string> {
  const lines: string[] = []
  const app = Fastify({
    logger: {
      level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } }
    }
  })
  t.teardown(() => app.close())
  try {
    await app.register(tokensPlugin, { postgres: 'postgres://localhost/none', secret, enabled: false })
    return lines.join('\n')
  } catch (error) {
    const { code, message } = error as { code: string, message: string }
    return `${code} ${message}`
  }
}

const WEAK: Record<string, string[]> = {
  'has fewer than 8 different characters': [
    `${'a'.repeat(40)}b`, '0110100110010110100101100110100110010110', 'abcdefgabcegdfabdcegfacbdefgaebcdgf'
  ],
  'repeats a short pattern': [
    '12345678901234567890123456789012', 'password-Password-password-Password', 'abcdefghijklm'.repeat(3),
    '00112233445566778899'.repeat(2)
  ],
  'contains a placeholder or an unreplaced variable': [
    'undefinedundefinedundefinedundefined', 'null-6f1c0e9b5a7d48f2a3c4b5d6e7f80912', '[object Object] 6f1c0e9b5a7d48f2a3c4', '${TOKENS_SECRET}-6f1c0e9b5a7d48f2a3c4', '${TOKENS_SECRET:-} 6f1c0e9b5a7d48f2a3',
    '$(openssl rand -base64 32) and more of it', '{{ .Values.tokens.secret | quote }} of helm', '%TOKENS_SECRET%-6f1c0e9b5a7d48f2a3c4', '$THE_SECRET_THAT_SIGNS_THE_TOKENS_0', '<a random string of 32 characters>',
    'changeme-changeme-changeme-changeme', 'CHANGE_ME 6f1c0e9b5a7d48f2a3c4b5d6e7', 'replace-this-6f1c0e9b5a7d48f2a3c4b5d6', 'your super secret 6f1c0e9b5a7d48f2a3'
  ]
}

t.test('a first secret that is easily guessed rejects the start, and the error says why', async t => {
  for (const [why, secrets] of Object.entries(WEAK)) {
    for (const secret of secrets) {
      const said = await start(t, secret)
      t.match(said, /^MMC_TOKENS_INVALID_OPTION option "secret" must be a string of at least 32 random bytes/, secret)
      t.ok(said.endsWith(`, and the first ${why}`), said)
      t.notOk(said.includes(secret))
    }
  }
})

t.test('a weak secret after the first is accepted with a warning, so that it can be replaced', async t => {
  for (const [why, [secret = '']] of Object.entries(WEAK)) {
    t.equal(
      await start(t, [SECRET, secret, `fresh ${SECRET}`]),
      `secret 2 of the option "secret" ${why} and may be guessed: remove it once the tokens that it signed are replaced`
    )
  }
  t.equal(await start(t, [SECRET, `fresh ${SECRET}`]), '')
})

t.test('random secrets are accepted: hexadecimal, base64, base64url, and decimal ones with 8 different digits', async t => {
  for (const encoding of ['hex', 'base64', 'base64url'] as const) {
    for (let n = 0; n < 50; n++) {
      t.equal(
        await start(t, randomBytes(encoding === 'hex' ? 16 : 32).toString(encoding)), ''
      )
    }
  }
  for (let n = 0; n < 50; n++) {
    const digits = Array.from({ length: 32 }, () => randomInt(10)).join('')
    if (new Set(digits).size >= 8) t.equal(await start(t, digits), '', digits)
  }
})
