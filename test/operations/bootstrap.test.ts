import { createHash, randomUUID } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin, { type ApplicationTokens } from '../../lib/index.js'
import { SECRET, type TestHost, bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { createProxy } from '../support/proxy.js'
import { until } from '../support/until.js'

const NEVER = '2999-01-01T00:00:00.000Z'

type Minted = ReturnType<ApplicationTokens['mint']>

/** Mints as an operator does: on a host that is switched off, without a database. */
async function mint (t: Test, token: Partial<Minted['entry']> = {}): Promise<Minted> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: 'postgres://nowhere.invalid', secret: SECRET, enabled: false })
  return app.tokens.mint({ name: 'ci', role: 'viewer', validUntil: NEVER, ...token })
}

async function writeBootstrap (t: Test, entries: unknown): Promise<string> {
  await mkdir('.data', { recursive: true })
  const file = join('.data', `bootstrap-${randomUUID()}.json`)
  await writeFile(file, typeof entries === 'string' ? entries : JSON.stringify(entries))
  t.teardown(() => rm(file))
  return file
}

const statusOf = async ({ app }: TestHost, token: string): Promise<number> => (await app.inject(
  { url: '/api/viewer', headers: bearer(token) }
)).statusCode

t.test('a token minted offline works from the first start, and its record says that it comes from bootstrap', async t => {
  const { token, entry } = await mint(t)
  t.strictSame(Object.keys(entry), ['name', 'role', 'validUntil', 'hash'])
  const host = await buildHost(t, { tokens: { bootstrap: await writeBootstrap(t, [entry]) } })
  t.equal(await statusOf(host, token), 200)
  t.match(await host.app.tokens.list(), [{ ...entry, requestedBy: 'bootstrap' }])
})

t.test('ten nodes that start at once store each token once, and one of them reports it', async t => {
  const minted = await Promise.all(['a', 'b', 'c'].map(async name => await mint(t, { name })))
  const bootstrap = await writeBootstrap(t, minted.map(({ entry }) => entry))
  const database = await createDatabase(t)
  const { onEvent, until } = collectEvents()
  const nodes = await Promise.all(Array.from({ length: 10 }, async () => await buildHost(t, {
    database, tokens: { bootstrap, bootstrapStrict: true, onEvent }
  })))
  for (const node of nodes) for (const { token } of minted) t.equal(await statusOf(node, token), 200)
  t.strictSame(
    (await until(3)).map(({ type, name, actor, address, requestId }) => [type, name, actor, address, requestId]).sort(),
    ['a', 'b', 'c'].map(name => ['token.issued', name, 'bootstrap', null, null])
  )
})

t.test('a revoked token stays revoked at every later start, whoever revoked it', async t => {
  const ways: Array<(host: TestHost, hash: string) => Promise<unknown>> = [
    async ({ app }, hash) => await app.tokens.revoke(hash),
    async ({ database }, hash) => await database.query('DELETE FROM tokens WHERE hash = $1', [hash]),
    async ({ database }) => await database.query('TRUNCATE tokens')
  ]
  for (const end of ways) {
    const { token, entry } = await mint(t)
    const bootstrap = await writeBootstrap(t, [entry])
    const host = await buildHost(t, { tokens: { bootstrap } })
    await end(host, entry.hash)
    const later = await buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } })
    t.equal(await statusOf(later, token), 401)
    t.strictSame(await later.app.tokens.list(), [])
  }
})

t.test('nodes that start while the token is being revoked do not restore it', async t => {
  const database = await createDatabase(t)
  const { entry } = await mint(t)
  const bootstrap = await writeBootstrap(t, [entry])
  const { app } = await buildHost(t, { database, tokens: { bootstrap } })
  await Promise.all([app.tokens.revoke(entry.hash), ...Array.from({ length: 5 }, async () =>
    await buildHost(t, { database, tokens: { bootstrap } }))])
  t.equal(await app.tokens.get(entry.hash), null)
})

t.test('a token that is used before its row exists works within a second after it does', async t => {
  const { token, entry } = await mint(t)
  const host = await buildHost(t)
  // It believes what it finds from then on.
  await until(() => host.app.tokens.health().lease === 'held')
  t.equal(await statusOf(host, token), 401)
  await buildHost(t, { database: host.database, tokens: { bootstrap: await writeBootstrap(t, [entry]) } })
  const stored = performance.now()
  let refused = 0
  await until(async () => {
    const begun = performance.now() - stored
    const status = await statusOf(host, token)
    if (status === 401) refused = begun
    return status === 200
  })
  t.ok(refused < 1000, `refused ${refused} ms after`)
})

t.test('an invalid entry is an error that names it and what it must be; the others are stored, and strict hosts do not start', async t => {
  const { token, entry: good } = await mint(t, { name: 'good' })
  const { entry } = await mint(t)
  const { name, ...nameless } = entry
  const cases: Array<[entry: unknown, message: string]> = [
    [
      5,
      'entry 2 of the bootstrap file FILE: it must be an object with name, role, validUntil and hash, and nothing else'
    ],
    [
      null,
      'entry 2 of the bootstrap file FILE: it must be an object with name, role, validUntil and hash, and nothing else'
    ],
    [
      nameless,
      'entry 2 of the bootstrap file FILE: name must be a string of well-formed Unicode with 1 to 255 characters after trimming, at least one of them visible, without control characters, line separators and misleading invisible characters'
    ],
    [
      { ...entry, token },
      'entry 2 ("ci") of the bootstrap file FILE: it must be an object with name, role, validUntil and hash, and nothing else'
    ],
    [
      { ...entry, hash: entry.hash.toUpperCase() },
      'entry 2 ("ci") of the bootstrap file FILE: hash must be the SHA-256 of the token in 64 lower-case hexadecimal digits'
    ],
    [
      { ...entry, role: 'king' },
      'entry 2 ("ci") of the bootstrap file FILE: role must be one of admin, editor, viewer, connectionManager, monitoringViewer'
    ],
    [
      { ...entry, validUntil: '2026-02-30T00:00:00Z' },
      'entry 2 ("ci") of the bootstrap file FILE: validUntil must be a time in the future, up to the year 9999, with a zone: an RFC 3339 date-time such as 2099-12-31T10:05:00Z'
    ],
    [
      { ...entry, name: 'good' },
      'entry 2 ("good") of the bootstrap file FILE: an earlier entry has the same name: remove one of them'
    ],
    [
      { ...good, name: 'twin' },
      'entry 2 ("twin") of the bootstrap file FILE: an earlier entry has the same hash: remove one of them'
    ]
  ]
  for (const [bad, message] of cases) {
    const file = await writeBootstrap(t, [good, bad, { ...entry, name: 'last', hash: '0'.repeat(64) }])
    const lines: string[] = []
    const host = await buildHost(t, {
      fastify: { logger: { level: 'error', stream: { write: line => { lines.push(line) } } } },
      tokens: { bootstrap: file }
    })
    t.equal(lines.length, 1, message)
    t.match(JSON.parse(lines[0] ?? ''), {
      msg: 'could not load a bootstrap token',
      err: { code: 'MMC_TOKENS_BOOTSTRAP', message: message.replace('FILE', file) }
    })
    t.notOk(lines.join().includes(token), 'no secret in the log')
    t.strictSame((await host.app.tokens.list()).map(({ name }) => name).sort(), ['good', 'last'])
    t.equal(await statusOf(host, token), 200)

    await t.rejects(buildHost(t, { database: host.database, tokens: { bootstrap: file, bootstrapStrict: true } }), {
      code: 'MMC_TOKENS_BOOTSTRAP', message: message.replace('FILE', file)
    })
  }
})

t.test('a name that has become free is used at the next start', async t => {
  const { token, entry } = await mint(t)
  const host = await buildHost(t)
  const { hash } = await host.issue({ name: 'ci' })
  const bootstrap = await writeBootstrap(t, [entry])
  await t.rejects(buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } }),
    {
      code: 'MMC_TOKENS_BOOTSTRAP',
      message: `entry 1 ("ci") of the bootstrap file ${bootstrap}: another token has its name: revoke that one, or give this one another name`
    })
  await host.app.tokens.revoke(hash)
  t.equal(await statusOf(
    await buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } }), token
  ), 200)
})

t.test('a file that can not be read, or is no list, is reported without its content', async t => {
  const { token } = await mint(t)
  const noList = 'must be a JSON array of { name, role, validUntil, hash }'
  for (const [file, what] of [
    ['.data/there-is-none.json', "can't be read: ENOENT"], [await writeBootstrap(t, token), noList],
    [await writeBootstrap(t, '{}'), noList]
  ] as const) {
    await t.rejects(buildHost(t, { tokens: { bootstrap: file, bootstrapStrict: true } }), {
      code: 'MMC_TOKENS_BOOTSTRAP', message: `the bootstrap file ${file} ${what}`
    })
    const lines: string[] = []
    const { app } = await buildHost(t, {
      fastify: { logger: { stream: { write: line => { lines.push(line) } } } }, tokens: { bootstrap: file }
    })
    t.equal(app.tokens.enabled, true)
    t.notOk(lines.join().includes(token.slice(0, 30)))
  }
})

t.test('an entry that has expired is not an error', async t => {
  const { token, entry } = await mint(t)
  const bootstrap = await writeBootstrap(t, [{ ...entry, validUntil: '2020-01-01T00:00:00Z' }])
  t.equal(await statusOf(await buildHost(t, { tokens: { bootstrap, bootstrapStrict: true } }), token), 401)
})

t.test('an unreachable database rejects the start, strict or not', async t => {
  const { entry } = await mint(t)
  const host = await buildHost(t)
  await host.database.query('ALTER TABLE bootstrapped RENAME TO gone')
  await t.rejects(
    buildHost(t, { database: host.database, tokens: { bootstrap: await writeBootstrap(t, [entry]) } }),
    { code: 'MMC_TOKENS_DATABASE', message: /can't be used: relation ".*bootstrapped" does not exist/ }
  )
})

t.test('a node that is enabled again does not read the file again', async t => {
  const { entry } = await mint(t)
  const bootstrap = await writeBootstrap(t, [entry])
  const { app } = await buildHost(t, { tokens: { bootstrap, bootstrapStrict: true } })
  await writeFile(bootstrap, 'not a list')
  await app.tokens.disable()
  await app.tokens.enable()
  t.equal(app.tokens.enabled, true)
})

t.test('a rejected start leaves no connection open, in a host that keeps running', async t => {
  const { url, query } = await createSeparateDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => await app.register(
    tokensPlugin, { postgres: url, secret: SECRET, bootstrap: '.data/there-is-none.json', bootstrapStrict: true }
  ), { code: 'MMC_TOKENS_BOOTSTRAP' })
  await until(async () => (await query(
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'fastify-mmc-tokens%'"
  )).length === 0)
})

interface Entry { name: string, role: string, validUntil: string, hash: string }

const entry = (name: string, hash = createHash('sha256').update(name).digest('hex')): Entry => ({
  name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', hash
})
const entries = (count: number, prefix = 'token'): Entry[] =>
  Array.from({ length: count }, (_, n) => entry(`${prefix} ${n}`))

async function writeFileOf (t: Test, list: Entry[]): Promise<string> {
  await mkdir('.data', { recursive: true })
  const file = join('.data', `bootstrap-${randomUUID()}.json`)
  await writeFile(file, JSON.stringify(list))
  t.teardown(() => rm(file))
  return file
}

t.test('2,000 entries at 30 ms a round trip are stored within the time of a few round trips, each with its event', async t => {
  const { all, onEvent, until } = collectEvents()
  const { database } = await buildHost(t, { tokens: { onEvent } })
  const proxy = await createProxy(t, database.url)
  const bootstrap = await writeFileOf(t, entries(2000))
  proxy.delay(30)
  const begun = performance.now()
  const without = await buildHost(t, { database, tokens: { postgres: proxy.url, onEvent } })
  const ready = performance.now()
  const { app } = await buildHost(t, {
    database, tokens: { postgres: proxy.url, bootstrap, bootstrapStrict: true, onEvent }
  })
  const took = performance.now() - ready - (ready - begun)
  t.comment(`${Math.round(took)} ms more than a start without`)
  t.ok(took < 20_000, 'one at a time takes a minute')
  proxy.delay(0)
  await until(2000)
  t.equal(all.length, 2000)
  t.strictSame(new Set(all.map(({ name }) => name)).size, 2000)
  t.equal((await app.tokens.list()).length, 2000)
  t.equal(without.app.tokens.enabled, true)
})

t.test('what is taken keeps none of the others out, and is stored when its name has become free: only what is stored is noted', async t => {
  const { onEvent, until } = collectEvents()
  const host = await buildHost(t, { tokens: { onEvent } })
  const { hash } = await host.issue({ name: 'token\u00a01' })
  const bootstrap = await writeFileOf(t, entries(3))
  const lines: string[] = []
  const { database } = host
  await buildHost(t, {
    database,
    tokens: { bootstrap, onEvent },
    fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } }
  })
  t.equal(lines.length, 1)
  t.match(lines[0], /entry 2 \(\\"token 1\\"\) of the bootstrap file .*: another token has its name/)
  t.strictSame(
    (await until(3)).map(({ type, name }) => [type, name]).sort(),
    ['token 0', 'token 2', 'token\u00a01'].map(name => ['token.issued', name])
  )
  t.equal((await database.query('SELECT hash FROM bootstrapped')).length, 2)
  await host.app.tokens.revoke(hash)
  await buildHost(t, { database, tokens: { bootstrap, bootstrapStrict: true } })
  t.strictSame((await host.app.tokens.list()).map(({ hash }) => hash).sort(), entries(3).map(({ hash }) => hash).sort())
})

t.test('a token that was there before its file was noted is known, and a later boot does not bring it back', async t => {
  const host = await buildHost(t)
  const issued = await host.issue({ name: 'by hand' })
  const bootstrap = await writeFileOf(t, [entry('another name', issued.hash), entry('new')])
  await buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } })
  t.strictSame((await host.app.tokens.list()).map(({ name }) => name).sort(), ['by hand', 'new'])
  await host.app.tokens.revoke(issued.hash)
  await buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } })
  t.strictSame((await host.app.tokens.list()).map(({ name }) => name), ['new'])
})

t.test('of a name and a hash that stand twice in the file the first stands, and the second is named', async t => {
  const [a, b] = [entry('a'), entry('b')]
  const bootstrap = await writeFileOf(t, [
    a, { ...entry('c'), name: ' a ' }, b, { ...b, name: 'd' }, entry('e'), entry('x\u00a0y'), entry('x y')
  ])
  const errors: string[] = []
  const { app } = await buildHost(t, {
    tokens: { bootstrap },
    fastify: {
      logger: {
        level: 'error', stream: { write (line: string) { errors.push((JSON.parse(line) as { err: Error }).err.message) } }
      }
    }
  })
  t.strictSame(errors, [
    `entry 2 (" a ") of the bootstrap file ${bootstrap}: an earlier entry has the same name: remove one of them`,
    `entry 4 ("d") of the bootstrap file ${bootstrap}: an earlier entry has the same hash: remove one of them`,
    `entry 7 ("x y") of the bootstrap file ${bootstrap}: an earlier entry has the same name: remove one of them`
  ])
  t.strictSame((await app.tokens.list()).map(({ name }) => name).sort(), ['a', 'b', 'e', 'x\u00a0y'])
})

t.test('nodes that boot at once with files that hold the same names under other hashes all start, and each name is stored once', async t => {
  const database = await createSeparateDatabase(t)
  await buildHost(t, { database })
  // In opposite orders of the hashes, so that they would wait for each other for ever.
  const names = Array.from({ length: 20 }, (_, n) => `name ${n}`)
  const hash = (n: number, node: number): string => `${n.toString(16).padStart(2, '0')}${String(node).repeat(62)}`
  const files = await Promise.all([1, 2, 3].map(async node =>
    await writeFileOf(t, names.map((name, n) => entry(name, hash(node === 2 ? 19 - n : n, node))))))
  const hosts = await Promise.all(files.map(async bootstrap => await buildHost(t, {
    database, tokens: { bootstrap }, fastify: { logger: { level: 'fatal' } }
  })))
  t.strictSame((await hosts[0]?.app.tokens.list())?.map(({ name }) => name).sort(), names.sort())
})

t.test('a name that is taken at the same moment is reported as taken', async t => {
  const { database } = await buildHost(t, { database: await createSeparateDatabase(t) })
  const bootstrap = await writeFileOf(t, entries(3))
  const other = new pg.Client(database.url)
  await other.connect()
  t.teardown(() => other.end())
  const isWaiting = async (): Promise<boolean> => (await database.query(
    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
  )).length > 0
  const errors: string[] = []

  async function bootMeanwhile (): Promise<TestHost | Error> {
    errors.length = 0
    await other.query('BEGIN')
    await other.query(`INSERT INTO ${database.schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
      VALUES (repeat('0', 64), 'token 2', 'admin', 'x', now(), now(), now())`)
    let isOver = false
    const booting = buildHost(t, {
      database,
      tokens: { bootstrap },
      fastify: { logger: { level: 'error', stream: { write (line: string) { errors.push(line) } } } }
    })
      .catch((error: Error) => error).finally(() => { isOver = true })
    await until(async () => isOver || await isWaiting())
    await other.query(isOver ? 'ROLLBACK' : 'COMMIT')
    return await booting
  }
  let booted = await bootMeanwhile()
  // On a busy machine its deadline may pass before it is seen to wait.
  for (let tries = 1; tries < 5 && booted instanceof Error; tries++) booted = await bootMeanwhile()
  if (booted instanceof Error) throw booted
  t.equal((await booted.app.tokens.list()).length, 3)
  t.match(errors, [/entry 3 \(\\"token 2\\"\) .*another token has its name/])
})

t.test('an empty list is not an error', async t => {
  const database = await createDatabase(t)
  const { app } = await buildHost(t, {
    database, tokens: { bootstrap: await writeFileOf(t, []), bootstrapStrict: true }
  })
  t.strictSame(await app.tokens.list(), [])
})
