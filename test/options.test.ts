import Fastify, { type FastifyRequest } from 'fastify'
import pg from 'pg'
import t from 'tap'
import tokensPlugin, { type TokensPluginOptions } from '../lib/index.js'
import { bearer, buildHost, SECRET } from './host/build-host.js'
import { createDatabase } from './host/database.js'

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

t.test('an option that can not be taken is refused at registration with a sentence that says what to write instead', async t => {
  const good = { postgres: 'postgres://nobody@127.0.0.1:1/x', secret: SECRET, enabled: false }
  const mustBe: Record<string, [sentence: string, ...bad: unknown[]]> = {
    postgres: ['a connection string such as postgres://user:password@host:5432/database, a configuration object for pg, or a Pool of pg', undefined, '', 5, null, new pg.Client()],
    secret: ['a string of at least 32 random bytes, such as the output of "openssl rand -base64 32"', undefined, 'short', 'x'.repeat(64), 'é'.repeat(15), 5, Buffer.alloc(32)],
    session: ['a function that takes the request and returns { username, roles } or null, or a promise of it', 'user', {}],
    issuer: ['a string of 1 to 255 printable ASCII characters without spaces, quotes and backslashes; it is the claim iss', '', 'a b', 'a"b', 'a\\b', 'é', 5],
    enabled: ['true or false; false starts the plugin switched off, without a database connection', 'false', 0, null],
    prefix: ['the base path of the routes: empty, or a path that starts with a slash and does not end with one, such as "/mmc"', 'mmc', '/', '/mmc/', '/a//b', '/:id', 5],
    schema: ['the name of the Postgres schema that holds our tables: up to 63 letters, digits and underscores, no digit first', '', '1a', 'a"b', 'a.b', 'x'.repeat(64), 5]
  }
  for (const [name, [sentence, ...bad]] of Object.entries(mustBe)) {
    for (const value of bad) {
      t.match(await refusal({ ...good, [name]: value }), { code: 'MMC_TOKENS_INVALID_OPTION', message: `option "${name}" must be ${sentence}` }, `${name}: ${String(value)}`)
    }
  }
  t.match(await refusal({ ...good, secert: 'x' }), {
    code: 'MMC_TOKENS_INVALID_OPTION', message: 'there is no option "secert": the options are postgres, session, secret, issuer, enabled, prefix, schema'
  })
  const unreadable = await refusal({ ...good, postgres: 'postgres://me:hid/den@host:port/x' })
  t.equal(unreadable.code, 'MMC_TOKENS_INVALID_OPTION')
  t.notOk(JSON.stringify(unreadable).includes('den'))
  t.equal((await refusal({ ...good, logLevel: 'warn', logSerializers: {}, prefix: '/a/b', issuer: undefined })).code, 'accepted', "register's own keys and undefined")
})

t.test('the options of the caller stay as they are, frozen ones too', async t => {
  const options = Object.freeze({ postgres: Object.freeze({ host: '127.0.0.1', port: 1 }), secret: SECRET, enabled: false })
  t.equal((await refusal(options)).code, 'accepted')
  t.strictSame(Object.keys(options), ['postgres', 'secret', 'enabled'])
})

t.test('session: who is logged in, as the host says, at once or by a promise; what is no principal is nobody', async t => {
  const answers: Array<[answer: unknown, status: number, session?: boolean]> = [
    [{ username: 'u', roles: ['admin'] }, 200], [Promise.resolve({ username: 'u', roles: ['viewer', 'admin'] }), 200], [{ username: 'u', roles: ['viewer'] }, 403], [{ username: 'u', roles: [] }, 403],
    [null, 401], [undefined, 401], [{}, 401], [{ username: '', roles: ['admin'] }, 401], [{ username: 'u', roles: 'admin' }, 401], [{ roles: ['admin'] }, 401], ['admin', 401], [true, 401]
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
  const sync = await buildHost(t, { database, tokens: { session: (request: FastifyRequest) => request.headers['x-user'] === 'me' ? { username: 'me', roles: ['admin'] } : null } })
  t.equal((await sync.app.inject({ url: '/api/tokens', headers: { 'x-user': 'me' } })).statusCode, 200)
  t.equal((await sync.app.inject({ url: '/api/tokens' })).statusCode, 401)
})

t.test('a session check of the host that throws is a 500, with the cause in the log, on the routes and for a bad token', async t => {
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

t.test('issuer names what is ours: a host with another one leaves our tokens alone', async t => {
  const database = await createDatabase(t)
  const one = await buildHost(t, { database, tokens: { issuer: 'https://one.example' } })
  const two = await buildHost(t, { database })
  const { token } = await one.issue()
  t.strictSame((await one.app.inject({ url: '/api/profile', headers: bearer(token) })).json(), { username: 'token:token 1', roles: ['viewer'] })
  t.match((await two.app.inject({ url: '/api/profile', headers: bearer(token) })).json(), { message: 'Log in' }, "the host's own answer")
  t.equal((await one.app.inject({ url: '/api/tokens' })).headers['www-authenticate'], 'Bearer realm="https://one.example"')
})

t.test('prefix is the base path of the four routes', async t => {
  const { app, login } = await buildHost(t, { basePath: '/a/b' })
  const headers = await login()
  t.equal((await app.inject({ url: '/a/b/api/tokens', headers })).statusCode, 200)
  t.equal((await app.inject({ url: '/api/tokens', headers })).statusCode, 404)
})

const FORGED = ['{"alg":"HS256","typ":"JWT"}', '{"iss":"cedalo"}', 'x'].map(part => Buffer.from(part).toString('base64url')).join('.')
