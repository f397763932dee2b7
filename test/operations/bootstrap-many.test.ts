import { createHash, randomUUID } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase } from '../support/database.js'
import { collectEvents } from '../support/events.js'
import { createProxy } from '../support/proxy.js'

interface Entry { name: string, role: string, validUntil: string, hash: string }

const entry = (name: string, hash = createHash('sha256').update(name).digest('hex')): Entry => ({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', hash })
const entries = (count: number, prefix = 'token'): Entry[] => Array.from({ length: count }, (_, n) => entry(`${prefix} ${n}`))

async function writeFileOf (t: Test, list: Entry[]): Promise<string> {
  await mkdir('.data', { recursive: true })
  const file = join('.data', `bootstrap-${randomUUID()}.json`)
  await writeFile(file, JSON.stringify(list))
  t.teardown(() => rm(file))
  return file
}

t.test('2,000 entries at 30 ms a round trip are stored within the time of a few round trips, each with its event', async t => {
  const { database } = await buildHost(t)
  const proxy = await createProxy(t, database.url)
  const { all, onEvent } = collectEvents()
  const bootstrap = await writeFileOf(t, entries(2000))
  proxy.delay(30)
  const begun = performance.now()
  const without = await buildHost(t, { database, tokens: { postgres: proxy.url } })
  const ready = performance.now()
  const { app } = await buildHost(t, { database, tokens: { postgres: proxy.url, bootstrap, bootstrapStrict: true, onEvent } })
  const took = performance.now() - ready - (ready - begun)
  t.comment(`${Math.round(took)} ms more than a start without`)
  t.ok(took < 5000, 'one at a time takes a minute')
  t.equal(all.length, 2000)
  t.strictSame(new Set(all.map(({ name }) => name)).size, 2000)
  t.equal((await app.tokens.list()).length, 2000)
  t.equal(without.app.tokens.enabled, true)
})

t.test('what is taken keeps none of the others out, and is stored when its name has become free: only what is stored is noted', async t => {
  const host = await buildHost(t)
  const { hash } = await host.issue({ name: 'token\u00a01' })
  const bootstrap = await writeFileOf(t, entries(3))
  const { all, onEvent } = collectEvents()
  const lines: string[] = []
  const { database } = host
  await buildHost(t, { database, tokens: { bootstrap, onEvent }, fastify: { logger: { level: 'error', stream: { write (line: string) { lines.push(line) } } } } })
  t.equal(lines.length, 1)
  t.match(lines[0], /entry 2 \(\\"token 1\\"\) of the bootstrap file .*: another token has its name/)
  t.strictSame(all.map(({ type, name }) => [type, name]), [['token.issued', 'token 0'], ['token.issued', 'token 2']])
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
  const bootstrap = await writeFileOf(t, [a, { ...entry('c'), name: ' a ' }, b, { ...b, name: 'd' }, entry('e'), entry('x\u00a0y'), entry('x y')])
  const errors: string[] = []
  const { app } = await buildHost(t, { tokens: { bootstrap }, fastify: { logger: { level: 'error', stream: { write (line: string) { errors.push((JSON.parse(line) as { err: Error }).err.message) } } } } })
  t.strictSame(errors, [
    `entry 2 (" a ") of the bootstrap file ${bootstrap}: an entry before it has the same name: remove one of them`,
    `entry 4 ("d") of the bootstrap file ${bootstrap}: an entry before it has the same hash: remove one of them`,
    `entry 7 ("x y") of the bootstrap file ${bootstrap}: an entry before it has the same name: remove one of them`
  ])
  t.strictSame((await app.tokens.list()).map(({ name }) => name).sort(), ['a', 'b', 'e', 'x\u00a0y'])
})

t.test('nodes that boot at once with files that hold the same names under other hashes all start, and each name is stored once', async t => {
  const database = await createSeparateDatabase(t)
  await buildHost(t, { database })
  // In opposite orders of the hashes, so that they would wait for each other for ever.
  const names = Array.from({ length: 20 }, (_, n) => `name ${n}`)
  const hash = (n: number, node: number): string => `${n.toString(16).padStart(2, '0')}${String(node).repeat(62)}`
  const files = await Promise.all([1, 2, 3].map(async node => await writeFileOf(t, names.map((name, n) => entry(name, hash(node === 2 ? 19 - n : n, node))))))
  const hosts = await Promise.all(files.map(async bootstrap => await buildHost(t, { database, tokens: { bootstrap }, fastify: { logger: { level: 'fatal' } } })))
  t.strictSame((await hosts[0]?.app.tokens.list())?.map(({ name }) => name).sort(), names.sort())
})

t.test('a name that somebody takes in the very moment is told of as taken', async t => {
  const { database } = await buildHost(t)
  const bootstrap = await writeFileOf(t, entries(3))
  const other = new pg.Client(database.url)
  await other.connect()
  t.teardown(() => other.end())
  await other.query('BEGIN')
  await other.query(`INSERT INTO ${database.schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES (repeat('0', 64), 'token 2', 'admin', 'x', now(), now(), now())`)
  const errors: string[] = []
  const booting = buildHost(t, { database, tokens: { bootstrap }, fastify: { logger: { level: 'error', stream: { write (line: string) { errors.push(line) } } } } })
  const isWaiting = async (): Promise<boolean> => (await database.query('SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE query LIKE $1)', [`%${database.schema}%bootstrapped%`])).length > 0
  while (!await isWaiting());
  await other.query('COMMIT')
  t.equal((await (await booting).app.tokens.list()).length, 3)
  t.match(errors, [/entry 3 \(\\"token 2\\"\) .*another token has its name/])
})

t.test('an empty file is no mistake', async t => {
  const database = await createDatabase(t)
  const { app } = await buildHost(t, { database, tokens: { bootstrap: await writeFileOf(t, []), bootstrapStrict: true } })
  t.strictSame(await app.tokens.list(), [])
})
