import pg from 'pg'
import t from 'tap'
import { bearer, buildHost, type TestHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

interface Answer { status: number, names: string[], link: string | undefined, body: { code?: string, message?: string } }

async function list ({ app, login }: TestHost, query: string, base = ''): Promise<Answer> {
  const answer = await app.inject({ url: `${base}/api/tokens${query}`, headers: await login() })
  const body = answer.json<Array<{ name: string }> & { message: string }>()
  return { status: answer.statusCode, names: Array.isArray(body) ? body.map(({ name }) => name) : [], link: answer.headers.link as string | undefined, body }
}

/** All pages, by the links from one to the next. */
async function walk (host: TestHost, query: string, base?: string): Promise<string[][]> {
  const pages: string[][] = []
  for (let next: string | undefined = query; next !== undefined;) {
    const { status, names, link } = await list(host, next, base)
    t.equal(status, 200)
    pages.push(names)
    next = /^<(\?[^>]+)>; rel="next"$/.exec(link ?? '')?.[1]
  }
  return pages
}

t.test('a list by pages is the list, in its order, and the last page has no link', async t => {
  const host = await buildHost(t)
  for (const name of ['a', 'b', 'c', 'd', 'e']) await host.issue({ name })
  t.strictSame(await walk(host, ''), [['a', 'b', 'c', 'd', 'e']], 'without a limit: everything, as ever')
  t.strictSame(await walk(host, '?limit=2'), [['a', 'b'], ['c', 'd'], ['e']])
  t.strictSame(await walk(host, '?limit=5'), [['a', 'b', 'c', 'd', 'e']])
  t.strictSame(await walk(host, '?limit=1000'), [['a', 'b', 'c', 'd', 'e']])
  t.strictSame((await walk(host, '?limit=1')).length, 5)
  for (const query of ['', '?limit=2']) {
    const { headers } = await host.app.inject({ url: `/api/tokens${query}`, headers: await host.login() })
    t.equal(headers['content-type'], 'application/json; charset=utf-8')
  }
  const { link } = await list(host, '?limit=4')
  const cursor = new URLSearchParams(/\?[^>]+/.exec(link ?? '')?.[0]).get('cursor') ?? ''
  t.strictSame((await list(host, `?cursor=${cursor}`)).names, ['e'], 'a cursor without a limit: all that follows')
})

t.test('a page asks Postgres for its tokens and one more, and no further', async t => {
  const database = await createDatabase(t)
  const postgres = new pg.Pool({ connectionString: database.url })
  t.teardown(() => postgres.end())
  const sizes: unknown[] = []
  postgres.on('connect', client => {
    const { query } = client
    client.query = ((config: { name?: string, values?: unknown[] }) => {
      if (config.name?.endsWith('.page') === true) sizes.push(config.values?.[2])
      return Reflect.apply(query, client, [config])
    }) as typeof query
  })
  const host = await buildHost(t, { database, tokens: { postgres } })
  for (const name of ['a', 'b', 'c', 'd', 'e']) await host.issue({ name })
  for (const query of ['?limit=1', '?limit=1000', '']) await list(host, query)
  t.strictSame(sizes, [2, 500, 500])
})

t.test('pages of tokens that were made in the same millisecond, thousands of them, miss none and repeat none', async t => {
  const host = await buildHost(t)
  await host.database.query('INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', \'2026-01-01Z\', \'2999-01-01Z\', \'2026-01-01Z\' FROM generate_series(1, 2500) AS n')
  for (const limit of [499, 500, 501, 1000]) {
    const names = (await walk(host, `?limit=${limit}`)).flat()
    t.equal(names.length, 2500)
    t.equal(new Set(names).size, 2500)
  }
})

t.test('a token that is revoked or made between two pages disturbs neither', async t => {
  const host = await buildHost(t)
  const tokens = []
  for (const name of ['a', 'b', 'c', 'd']) tokens.push(await host.issue({ name }))
  const { link } = await list(host, '?limit=2')
  await host.app.tokens.revoke(tokens[1]?.hash ?? '')
  await host.issue({ name: 'e' })
  t.strictSame(await walk(host, /\?[^>]+/.exec(link ?? '')?.[0] ?? ''), [['c', 'd'], ['e']])
})

t.test('the link keeps what else was asked for, stays on the path of the request and holds no token', async t => {
  const host = await buildHost(t, { basePath: '/mmc', tokens: { queryParameter: 'key' } })
  for (const name of ['a', 'b', 'c']) await host.issue({ name })
  const { token } = await host.issue({ name: 'admin', role: 'admin' })
  const { headers } = await host.app.inject({ url: `/mmc/api/tokens?limit=1&state=active&unusedSince=2999-01-01T00:00:00Z&key=${token}&other=1` })
  t.match(headers.link, /^<\?limit=1&cursor=[\w-]+&state=active&unusedSince=2999-01-01T00%3A00%3A00Z>; rel="next"$/)
  t.strictSame((await walk(host, '?limit=2&state=active', '/mmc')).flat(), ['a', 'b', 'c', 'admin'])
})

t.test('a list of those that have expired, and of those that have not', async t => {
  const host = await buildHost(t)
  for (const name of ['old', 'new', 'older']) await host.issue({ name })
  await host.database.query("UPDATE tokens SET valid_until = now() - interval '1 second' WHERE name LIKE 'old%'")
  t.strictSame((await list(host, '?state=expired')).names, ['old', 'older'])
  t.strictSame((await list(host, '?state=active')).names, ['new'])
  t.strictSame(await walk(host, '?state=expired&limit=1'), [['old'], ['older']])
})

t.test('a list of those that nobody used since, with what this node has not written yet', async t => {
  const host = await buildHost(t)
  for (const name of ['idle', 'busy', 'new']) await host.issue({ name })
  const { token } = await host.issue({ name: 'used just now' })
  await host.database.query("UPDATE tokens SET last_used = '2026-01-01T00:00:00Z' WHERE name IN ('idle', 'used just now'); UPDATE tokens SET last_used = '2026-03-01T00:00:00Z' WHERE name = 'busy'")
  t.strictSame((await list(host, '?unusedSince=2026-02-01T00:00:00Z')).names, ['idle', 'used just now'])
  t.equal((await host.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  t.strictSame((await list(host, '?unusedSince=2026-02-01T01:00:00%2B02:00')).names, ['idle'])
  t.strictSame((await list(host, '?unusedSince=2026-01-01T00:00:00Z')).names, [], 'used at that very time is not before')
  t.strictSame(await walk(host, '?unusedSince=2026-04-01T00:00:00Z&limit=1'), [['idle'], ['busy']])
})

t.test('a parameter that is no good is a 400 that says what it must be, for admins alone', async t => {
  const host = await buildHost(t)
  const hash = '0'.repeat(64)
  const cursor = (text: string): string => Buffer.from(text).toString('base64url')
  const cases = {
    'limit must be a whole number from 1 to 1000': ['limit=0', 'limit=1001', 'limit=-1', 'limit=1.5', 'limit=x', 'limit=', 'limit=1&limit=2', 'limit=1e9'],
    'state must be active or expired': ['state=x', 'state=', 'state=active&state=expired', 'state=Active'],
    'cursor must be what the Link to the next had': [
      'cursor=', 'cursor=x', `cursor=${cursor('2026-01-01')}`, `cursor=${cursor(`2026-13-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`0000-01-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`2026-01-01T00:00:00.000Z${hash}'--`)}`, `cursor=${cursor(` 2026-01-01T00:00:00.000Z${hash}`)}`, 'cursor=a&cursor=b'
    ],
    'unusedSince must be an RFC 3339 date-time': ['unusedSince=', 'unusedSince=yesterday', 'unusedSince=2026-01-01', 'unusedSince=2026-02-30T00:00:00Z', 'unusedSince=2026-01-01T00:00:00', 'unusedSince=1', 'unusedSince=0000-01-01T00:00:00Z', 'unusedSince=9999-12-31T23:59:59-01:00', 'unusedSince=9999-12-31T23:59:00-00:01']
  }
  for (const [message, queries] of Object.entries(cases)) {
    for (const query of queries) {
      const { status, body } = await list(host, `?${query}`)
      t.equal(status, 400, query)
      t.ok(body.code === 'INVALID' && body.message?.startsWith(message), `${query}: ${body.message}`)
      t.equal((await host.app.inject(`/api/tokens?${query}`)).statusCode, 401)
      t.equal((await host.app.inject({ url: `/api/tokens?${query}`, headers: await host.login('viewer') })).statusCode, 403)
      t.equal((await host.app.inject({ url: `/api/tokens?${query}`, headers: { ...await host.login(), accept: 'application/json;version=7' } })).statusCode, 406)
    }
  }
  for (const query of [`cursor=${cursor(`0001-01-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`9999-12-31T23:59:59.999Z${hash}`)}`, 'unusedSince=1970-01-01T00:00:00Z', 'unusedSince=9999-12-31T23:59:59Z']) {
    t.equal((await list(host, `?${query}`)).status, 200, query)
  }
  t.equal((await list(host, '?page=x&sort=name&Limit=0')).status, 200, 'what is not ours means nothing')
})

t.test('DELETE that prefers the minimum is a 204 without the list (RFC 7240), and any other as ever', async t => {
  const { app, issue, login } = await buildHost(t)
  const headers = await login()
  const revoke = async (prefer: string) => {
    const { hash, token } = await issue()
    const answer = await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, prefer } })
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
    return answer
  }
  for (const prefer of ['return=minimal', 'return="minimal"', 'RETURN=Minimal', 'respond-async, return=minimal', 'return = minimal; foo=bar']) {
    const { statusCode, headers, body } = await revoke(prefer)
    t.strictSame([statusCode, body, headers['preference-applied'], headers['cache-control'], headers['content-type']], [204, '', 'return=minimal', 'no-store', undefined], prefer)
  }
  for (const prefer of ['', 'return=representation', 'return=minimalist', 'x-return=minimal', 'return']) {
    const { statusCode, headers, body } = await revoke(prefer)
    t.strictSame([statusCode, body, headers['preference-applied']], [200, '[]', undefined], prefer)
  }
  t.equal((await app.inject({ method: 'DELETE', url: `/api/tokens/${'0'.repeat(64)}`, headers: { prefer: 'return=minimal' } })).statusCode, 401)
})
