import { mkdir, rm, writeFile } from 'node:fs/promises'
import pg from 'pg'
import t from 'tap'
import { migrations } from '../../lib/store/migrations.js'
import { buildHost, type TestHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const NEVER = '2999-01-01T00:00:00.000Z'

/** Each line: names that look alike. */
const ALIKE = [
  ['ci', 'c\u200di', 'ci\u200c', 'ci\ufe0f', 'ci\u{e0100}', 'ci\u{e0067}', '\u200dci', ' ci ', 'ci \u200d'],
  ['a b', 'a  b', 'a\u00a0b', 'a\u3000b', 'a \u200d b', 'a\u2009\u200a\u202fb', 'a\u2800b'],
  ['é', 'e\u0301', 'e\u200d\u0301'],
  ['👩👧', '👩\u200d👧'],
  ['❤', '❤\ufe0f', '❤\ufe0e'],
  ['Å', '\u212b', 'A\u030a']
]

/** Told apart. */
const OTHERS = ['CI', 'c i', 'сi', 'ｃi', 'ab', 'É', 'e', 'A b', '①', '1', 'ﬁ', 'fi']

t.test('names that look alike are one name, in whatever order they come; case and look-alike letters are told apart', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string) => await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: NEVER } })
  for (const alike of ALIKE) {
    for (const [first, ...others] of [alike, alike.toReversed()] as Array<[string, ...string[]]>) {
      const { hash } = (await create(first)).json<{ hash: string }>()
      for (const name of others) t.match(await create(name).then(answer => answer.json()), { code: 'CONFLICT', message: 'A token with this name exists' }, JSON.stringify([first, name]))
      await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    }
  }
  for (const name of [...ALIKE.map(([name = '']) => name), ...OTHERS]) t.equal((await create(name)).statusCode, 200, name)
})

t.test('of many that ask at once on three nodes for names that look alike, exactly one gets its token', async t => {
  const database = await createDatabase(t)
  const nodes = await Promise.all([1, 2, 3].map(async () => await buildHost(t, { database })))
  const headers = await (nodes[0] as TestHost).login()
  for (const [round, names] of ALIKE.entries()) {
    const answers = await Promise.all(nodes.flatMap(({ app }) => names.map(async name => (await app.inject({
      method: 'POST', url: '/api/tokens', headers, payload: { name: `${round} ${name}`, role: 'viewer', validUntil: NEVER }
    })).statusCode)))
    t.strictSame(answers.sort(), [200, ...Array.from({ length: answers.length - 1 }, () => 409)])
  }
})

t.test('a token that is renamed with SQL leaves its name to others, and takes the new one as it looks', async t => {
  const { issue, database } = await buildHost(t)
  const { hash } = await issue({ name: 'ci' })
  await database.query("UPDATE tokens SET name = 'c\u200d d' WHERE hash = $1", [hash])
  await issue({ name: 'ci' })
  await t.rejects(issue({ name: 'c d' }), { code: 'CONFLICT' })
  await t.rejects(database.query("UPDATE tokens SET name = 'c  i' WHERE hash = $1", [hash]).then(async () => await issue({ name: 'c i' })), { code: 'CONFLICT' })
})

t.test('rows of the version before keep their names, also such that look alike; its nodes go on, under the same rule', async t => {
  const database = await createDatabase(t)
  const [first = '', second = ''] = migrations(`"${database.schema}"`)
  await database.query(`CREATE SCHEMA "${database.schema}"; ${first}; ${second}; INSERT INTO migrations VALUES (1), (2)`)
  // As that version stores a token.
  const insert = async (name: string, at: string): Promise<number> => (await database.query(`
    INSERT INTO tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES (encode(sha256($1::text::bytea), 'hex'), $1, 'viewer', 'old', $2, '2999-01-01Z', $2) ON CONFLICT DO NOTHING RETURNING hash`, [name, at])).length
  const names = ['ci\u200b', 'ci', 'c\u202ei', '\u2060', '\u200b', 'a\u2028b', 'plain', 'e\u0301']
  for (const [index, name] of names.entries()) t.equal(await insert(name, `2026-01-0${index + 1}Z`), 1)

  const { app, issue } = await buildHost(t, { database })
  t.strictSame((await app.tokens.list()).map(({ name }) => name), names)
  for (const name of ['ci', 'a b', 'plain', 'é']) await t.rejects(issue({ name }), { code: 'CONFLICT' }, name)
  t.equal(await insert('pl\u200bain', '2026-02-01Z'), 0, 'an old node is refused, too')
  t.equal(await insert('new\u200b', '2026-02-01Z'), 1)
  await t.rejects(issue({ name: 'new' }), { code: 'CONFLICT' })

  const keys = await database.query('SELECT name_key FROM tokens ORDER BY issue_date LIMIT 7')
  const other = /^ci.[0-9a-f]{64}$/
  t.match(keys.map(({ name_key: key }) => key), [other, null, other, '', /^.[0-9a-f]{64}$/, 'a b', null])
})

t.test('a dump of the rows can be read back into the table', async t => {
  const { app, database, issue } = await buildHost(t)
  await issue({ name: 'a' })
  await issue({ name: 'b' })
  await database.query("UPDATE tokens SET name_key = E'a\\x01' || hash WHERE name = 'b'")
  const before = await app.tokens.list()
  const client = new pg.Client({ connectionString: database.url, options: `-c search_path=${database.schema}` })
  await client.connect()
  t.teardown(() => client.end())
  await client.query('CREATE TEMP TABLE dump AS SELECT * FROM tokens; DELETE FROM tokens; INSERT INTO tokens SELECT * FROM dump')
  t.strictSame(await app.tokens.list(), before)
  t.match(await database.query("SELECT name_key FROM tokens WHERE name = 'b'"), [{ name_key: /^a.[0-9a-f]{64}$/ }])
})

t.test('an entry of a bootstrap file whose name looks like that of another token finds it taken', async t => {
  const host = await buildHost(t)
  await host.issue({ name: 'c\u200di' })
  const { entry } = host.app.tokens.sign({ name: 'ci', role: 'viewer', validUntil: NEVER })
  await mkdir('.data', { recursive: true })
  const bootstrap = `.data/name-looks-${process.pid}.json`
  await writeFile(bootstrap, JSON.stringify([entry]))
  t.teardown(() => rm(bootstrap))
  await t.rejects(buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } }), { code: 'MMC_TOKENS_BOOTSTRAP', message: /another token has its name/ })
})
