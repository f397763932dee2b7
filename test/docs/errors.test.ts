import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type FastifyReply, type FastifyRequest } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import * as errors from '../../lib/errors.js'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { createBareHost, NEW_TOKEN } from '../support/bare-host.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { startPostgres } from '../support/postgres.js'

const page = await readFile('docs/errors.md', 'utf8')
const mistakes = /## Mistakes[^]*/.exec(page)?.[0] ?? ''
/** What the page says that one sees, by the mistake; and the texts in it, `…` for what varies. */
const seen = new Map([...mistakes.matchAll(/^- \*\*(.*?)\*\*: (.*)$/gm)].map(
  ([, mistake = '', answer = '']) => [mistake.replaceAll('`', ''), answer]
))
const texts = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, text = '']) => text)
const pattern = (text: string): RegExp =>
  new RegExp(text.split('…').map(part => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')).join('.*'))

/** The error of a host's start: code and message. */
async function startError (start: () => Promise<unknown>): Promise<string> {
  try {
    await start()
    return 'no error'
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code ?? ''} ${String(error)}`
  }
}

type Host = Awaited<ReturnType<typeof createBareHost>> & { log: string[] }

async function bareHost (t: Test): Promise<Host> {
  const log: string[] = []
  const host = await createBareHost(t, {
    logger: {
      stream: {
        write (line: string) {
          log.push(
            ...Object.values(JSON.parse(line) as object).map(value => typeof value === 'string' ? value : JSON.stringify(value))
          )
        }
      }
    }
  })
  return { ...host, log }
}

async function guard (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> {
  if ((request as { user?: unknown }).user === undefined) return await reply.code(401).send({ message: 'the guard' })
}

/** Status and body of an answer, its challenge, and the log: all that one sees. */
async function answer ({ app, log }: Host, request: object): Promise<string> {
  const { statusCode, body, headers } = await app.inject({ url: '/api/tokens', ...request })
  return [
    statusCode, (JSON.parse(body) as { message?: string }).message,
    `WWW-Authenticate: ${String(headers['www-authenticate'])}`, ...log
  ].join('\n')
}

async function startWith (t: Test, options: object): Promise<string> {
  const { addTokens } = await createBareHost(t)
  return await startError(async () => { await addTokens(options) })
}

/** What a start says where a user must have a password. */
async function startAs (t: Test, password = ''): Promise<string> {
  const server = await startPostgres()
  t.teardown(() => server.end())
  const client = new pg.Client(server.url)
  await client.connect()
  await client.query("CREATE ROLE guarded LOGIN PASSWORD 'a good one'").finally(() => client.end())
  await server.stop()
  await writeFile(join(server.folder, 'pg_hba.conf'), 'local all guarded scram-sha-256\nlocal all all trust\n')
  await server.start()
  return await startWith(t, { postgres: server.url.replace('//postgres@', `//guarded${password}@`) })
}

const walk: Record<string, (t: Test, host: Host) => Promise<string>> = {
  async 'registered twice' (_t, { addTokens }) {
    await addTokens()
    return await startError(addTokens)
  },
  'registered in a child': async (_t, { app }) => await startError(async () => {
    await app.register(async child => { await child.register(tokensPlugin, {} as TokensPluginOptions) })
  }),
  'a fastify-cli application, with fastify start': async (_t, { app }) => await startError(async () => {
    await app.register(async child => { await child.register(tokensPlugin, {} as TokensPluginOptions) })
  }),
  'registered without await': async (_t, { app, addTokens }) => await startError(async () => {
    const registered = addTokens()
    try {
      app.get('/', { preHandler: app.tokens.requireRole('viewer') }, async () => 'in')
    } finally {
      await registered
    }
  }),
  async 'registered after the routes' (t, host) {
    host.app.get('/', { preHandler: guard }, async () => ({ message: 'in' }))
    await host.addTokens()
    t.match(await answer(host, { url: '/', headers: bearer((await host.issue()).token) }), /^200\nin/)
    return ''
  },
  async 'a guard at the root, added before the plugin' (t, host) {
    host.app.addHook('preHandler', guard)
    await host.addTokens()
    await seeGuard(t, host)
    const earlier = await bareHost(t)
    earlier.app.addHook('onRequest', guard)
    await earlier.addTokens()
    return await seeGuard(t, earlier)
  },
  async 'a guard in onRequest or preValidation' (t, host) {
    await host.addTokens()
    host.app.addHook('onRequest', guard)
    await seeGuard(t, host)
    const later = await bareHost(t)
    await later.addTokens()
    later.app.addHook('preValidation', guard)
    return await seeGuard(t, later)
  },
  'no secret, or a short one': async t => await startWith(t, { secret: undefined }),
  'no postgres': async t => await startWith(t, { postgres: undefined }),
  'a password with special characters': async t => await startWith(t, { postgres: 'postgres://me:12/secret@host/mmc' }),
  'a misspelled option': async t => await startWith(t, { secrets: SECRET }),
  'Postgres is unreachable': async t => await startWith(t, { postgres: 'postgres://me@127.0.0.1:1/mmc' }),
  async 'a role without privileges' (t) {
    const { url, schema, query } = await createDatabase(t)
    await query(`CREATE ROLE ${schema}`)
    t.teardown(() => query(`DROP ROLE ${schema}`))
    return await startWith(t, { schema, postgres: { connectionString: url, options: `-c role=${schema}` } })
  },
  async 'a role without privileges on the table bootstrapped' (t) {
    const { database: { url, schema, query }, app: { tokens } } = await buildHost(t)
    await query(`CREATE ROLE ${schema}; GRANT USAGE ON SCHEMA ${schema} TO ${schema};
      GRANT SELECT ON migrations TO ${schema}; GRANT SELECT, DELETE, UPDATE ON events TO ${schema}`)
    t.teardown(() => query(`DROP OWNED BY ${schema}; DROP ROLE ${schema}`))
    const { entry } = tokens.mint({ name: 'ci', role: 'viewer', validUntil: NEW_TOKEN.validUntil })
    const bootstrap = join(t.testdir({ 'bootstrap.json': JSON.stringify([entry]) }), 'bootstrap.json')
    return await startWith(t, { schema, postgres: { connectionString: url, options: `-c role=${schema}` }, bootstrap })
  },
  async 'a role without privileges on the outbox' (t) {
    const { database: { url, schema, query } } = await buildHost(t)
    await query(
      `CREATE ROLE ${schema}; GRANT USAGE ON SCHEMA ${schema} TO ${schema}; GRANT SELECT ON migrations TO ${schema}`
    )
    t.teardown(() => query(`DROP OWNED BY ${schema}; DROP ROLE ${schema}`))
    return await startWith(t, { schema, postgres: { connectionString: url, options: `-c role=${schema}` } })
  },
  'no password': async t => await startAs(t),
  'a wrong password': async t => await startAs(t, ':bad'),
  async 'no such database' (t) {
    const url = new URL((await createDatabase(t)).url)
    url.pathname = '/none'
    return await startWith(t, { postgres: url.href })
  },
  'migrate: false before the tables exist': async t => await startWith(t, { migrate: false }),
  async 'tables of a later version' (t) {
    const { database: { url: postgres, schema, query } } = await buildHost(t)
    await query('INSERT INTO migrations (number) VALUES (4)')
    return await startWith(t, { schema, postgres })
  },
  async 'a database with another encoding than UTF8' (t) {
    const { url, query } = await createDatabase(t)
    const name = `test_${process.pid}_latin1`
    await query(`CREATE DATABASE ${name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'`)
    t.teardown(() => query(`DROP DATABASE ${name} WITH (FORCE)`))
    return await startWith(t, { postgres: Object.assign(new URL(url), { pathname: `/${name}` }).href })
  },
  async 'a pool that has already ended' (t) {
    const postgres = new pg.Pool({ connectionString: (await createDatabase(t)).url })
    await postgres.end()
    return await startWith(t, { postgres })
  },
  async 'a pool that ends while the host runs' (t, host) {
    const postgres = new pg.Pool({ connectionString: (await createDatabase(t)).url })
    await host.addTokens({ postgres })
    const { token } = await host.issue()
    await postgres.end()
    const said = await answer(host, { headers: bearer(token) })
    t.match(said, /^500\nInternal error\n/)
    return said
  },
  'a route of the host at /api/tokens, before the plugin': async (_t, { app, addTokens }) => {
    app.get('/api/tokens', async () => 'mine')
    return await startError(addTokens)
  },
  async 'a route of the host at /api/tokens, after the plugin' (_t, { app, addTokens }) {
    await addTokens()
    return await startError(async () => { app.get('/api/tokens', async () => 'mine') })
  },
  async 'request.user is a decorator with only a getter' (_t, host) {
    host.app.decorateRequest('user', { getter: () => 'me' })
    await host.addTokens()
    return await answer(host, { headers: bearer((await host.issue()).token) })
  },
  async 'session returns another shape, such as { name, role }' (_t, host) {
    await host.addTokens({ session: () => ({ name: 'me', role: 'admin' }) as never })
    return await answer(host, {})
  },
  async 'requireRole without a role, or not called' (_t, { app, addTokens }) {
    await addTokens()
    return await startError(async () => app.tokens.requireRole())
  },
  async "requireRole with a role that tokens can't have" (_t, { app, addTokens, log }) {
    await addTokens()
    app.tokens.requireRole('edtor')
    return log.join('\n')
  },
  async 'a weak secret' (t) {
    return await startWith(t, { secret: 'changeme-changeme-changeme-changeme' })
  },
  async 'a token without Bearer' (_t, host) {
    await host.addTokens()
    return await answer(host, { headers: { authorization: (await host.issue()).token } })
  },
  async 'Accept with another version' (_t, host) {
    await host.addTokens()
    return await answer(host, {
      headers: { ...bearer((await host.issue({ role: 'admin' })).token), accept: 'application/json;version=2' }
    })
  },
  async "the host's clock is ahead" (t, host) {
    await host.addTokens({ session: () => ({ username: 'me', roles: ['admin'] }) })
    const { token } = await host.issue()
    t.intercept(Date, 'now', { value: () => Date.UTC(3000, 0) })
    const refused = await answer(host, { headers: bearer(token) })
    return `${refused}\n${await answer(host, { method: 'POST', payload: NEW_TOKEN })}`
  },
  async "the host's clock is behind" (t, host) {
    await host.addTokens()
    const [ended, revoked] = [await host.issue(), await host.issue()]
    t.intercept(Date, 'now', { value: () => Date.UTC(2999, 0) - 1 })
    t.match(await answer(host, { headers: bearer(ended.token) }), /^403/, 'it came in: who is no admin')
    await host.app.tokens.revoke(revoked.hash)
    t.match(await answer(host, { headers: bearer(revoked.token) }), /^401/)
    return ''
  },
  async 'nodes with different secrets' (t, host) {
    const other = await bareHost(t)
    await other.addTokens({ secret: `another ${SECRET}` })
    await host.addTokens()
    return await answer(host, { headers: bearer((await other.issue()).token) })
  }
}

async function seeGuard (t: Test, host: Host): Promise<string> {
  host.app.get('/', async () => ({ message: 'in' }))
  const headers = bearer((await host.issue()).token)
  t.match(await answer(host, { url: '/' }), /^401\nthe guard/)
  t.notMatch(host.log.join('\n'), 'was checked', 'a request without a token is no sign of it')
  const said = await answer(host, { url: '/', headers })
  t.match(said, /^401\nthe guard/)
  await answer(host, { url: '/', headers })
  t.equal(host.log.filter(line => line.includes('was checked')).length, 1, 'told once')
  return said
}

t.strictSame(
  [...seen.keys()].sort(), Object.keys(walk).sort(), 'docs/errors.md lists the mistakes of this test, and no others'
)

for (const [mistake, make] of Object.entries(walk)) {
  t.test(`${mistake}: the error is as docs/errors.md says`, async t => {
    const cell = seen.get(mistake) ?? ''
    const said = await make(t, await bareHost(t))
    t.ok(said.startsWith(/^\d{3}/.exec(cell)?.[0] ?? ''), said)
    for (const text of texts(cell).filter(text => text !== 'app.tokens')) t.match(said, pattern(text))
  })
}

t.test('docs/errors.md has every error of lib/errors.ts with its status, code and message, and no others', async t => {
  for (const [name, Made] of Object.entries(errors)) {
    if (['TokensError', 'mustBe'].includes(name)) continue
    const { code, statusCode, message } = new (Made as new (text: string) => errors.TokensError)('…')
    t.ok(page.includes(code.startsWith('MMC_') ? `| \`${code}\` |` : `| ${statusCode} | \`${code}\` |`), name)
    if (message !== '…') t.ok(page.includes(`\`${message.replace(/ …$/, '').replace('NaN', '…')}\``), message)
  }
  const lib = (await Promise.all((await readdir('lib', { recursive: true })).filter(file => file.endsWith('.ts')).map(
    async file => await readFile(`lib/${file}`, 'utf8')
  ))).join('\n')
  for (const [, message = ''] of page.matchAll(/^\| \d{3} \| `\w+` \| `(.*?)` \|/gm)) t.match(lib, pattern(message))
})

t.test("an invalid token, a handler's own 401 and a route that ignores tokens cause no warning about an earlier guard", async t => {
  const host = await bareHost(t)
  await host.addTokens()
  host.app.get('/', async (_request, reply) => await reply.code(401).send({ message: 'for a reason of its own' }))
  host.app.get('/left-alone', { config: { applicationTokens: false }, preHandler: guard }, async () => 'in')
  const { token, hash } = await host.issue()
  for (const url of ['/', '/left-alone']) await answer(host, { url, headers: bearer(token) })
  await host.app.tokens.revoke(hash)
  t.match(await answer(host, { url: '/', headers: bearer(token) }), /^401\nThe token is not valid/)
  await host.app.tokens.disable()
  await answer(host, { url: '/', headers: bearer(token) })
  t.notMatch(host.log.join('\n'), 'was checked')
})
