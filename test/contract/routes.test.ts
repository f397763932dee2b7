import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, get, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { Type } from '@sinclair/typebox'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { createInputCheck, deferBodyErrors } from '../../lib/http/body.js'
import { createLists } from '../../lib/http/list.js'
import type { Token } from '../../lib/index.js'
import { CreateTokenSchema } from '../../schemas/token.js'
import { NEW_TOKEN } from '../support/bare-host.js'
import { type TestHost, bearer, buildHost } from '../support/build-host.js'
import { type Database, createDatabase } from '../support/database.js'

const KEYS = ['name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed']
const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/

t.test('the exact requests of the MMC frontend get the responses that it expects', async t => {
  const { app, login } = await buildHost(t, { basePath: '/mmc' })
  const headers = { ...await login(), accept: 'application/json;version=1' }
  const url = '/mmc/api/tokens'

  t.same((await app.inject({ url, headers })).json(), [], 'a list is an array')
  const payload = {
    name: 'a name of thirty characters 30', role: 'monitoringViewer', validUntil: '2999-11-25 10:05:00000Z'
  }
  const created = await app.inject({
    method: 'POST', url, headers: { ...headers, 'content-type': 'application/json' }, payload: JSON.stringify(payload)
  })
  t.equal(created.statusCode, 200)
  const { token, ...record } = created.json<Record<string, string>>()
  t.match(record, {
    name: payload.name,
    role: payload.role,
    validUntil: '2999-11-25T10:05:00.000Z',
    issueDate: TIME,
    requestedBy: 'cedalo'
  })
  t.same((await app.inject({ url, headers })).json(), [record], 'what it appends is what the list has')
  t.same((await app.inject({ url: `${url}/${record.hash}`, headers })).json(), record)

  for (const click of ['the first', 'the second']) {
    const deleted = await app.inject({
      method: 'DELETE', url: `${url}/${record.hash}`, headers: { ...headers, 'content-type': 'application/json' }
    })
    t.equal(deleted.statusCode, 200, `${click} of a double click`)
    t.same(deleted.json(), [])
  }
  const expired = await app.inject({ url, headers: { accept: headers.accept } })
  t.equal(expired.statusCode, 401)
  t.match(expired.json(), { code: 'UNAUTHORIZED', data: { session: false } }, 'sends the browser to the login page')
})

t.test('a record has seven properties in this order; only the response to the creating POST has the token before them', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const created = await app.inject({
    method: 'POST',
    url: '/api/tokens',
    headers,
    payload: { name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z' }
  })
  t.same(Object.keys(created.json()), ['token', ...KEYS])
  const { hash, lastUsed, issueDate } = created.json<Record<string, string>>()
  t.equal(lastUsed, issueDate, 'never used')
  for (const url of ['/api/tokens', `/api/tokens/${hash}`]) {
    t.same([(await app.inject({ url, headers })).json()].flat().map(record => Object.keys(record as object)), [KEYS])
  }
})

t.test('a list is sorted by issue date, then by hash, over all pages', async t => {
  const { app, database, issue, login } = await buildHost(t)
  await issue()
  await database.query(`INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), 'n' || n, 'viewer', 'sql', '2026-01-01Z'::timestamptz + (n / 7) * interval '1 ms',
    '2999-01-01Z', '2026-01-01Z' FROM generate_series(1, 1499) AS n`)
  const list = (await app.inject(
    { url: '/api/tokens', headers: await login() }
  )).json<Array<{ issueDate: string, hash: string }>>()
  t.equal(list.length, 1500)
  const keys = list.map(({ issueDate, hash }) => issueDate + hash)
  t.strictSame(keys, keys.toSorted())
  t.strictSame(list, await app.tokens.list())
})

t.test('for an unknown or malformed hash, GET is 404, and DELETE changes nothing and is 200', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const { token, ...record } = await issue()
  for (const hash of [
    '0'.repeat(64), record.hash.slice(1), `${record.hash}0`, '%00', '%27', '😀', '*', '__proto__', `${record.hash}%0a`
  ]) {
    const url = `/api/tokens/${encodeURI(decodeURI(hash))}`
    const got = await app.inject({ url, headers })
    t.equal(got.statusCode, 404, hash)
    t.same(got.json(), { code: 'NOT_FOUND', message: 'No token has this hash' }, hash)
    const deleted = await app.inject({ method: 'DELETE', url, headers })
    t.equal(deleted.statusCode, 200, hash)
    t.same(deleted.json(), [record], hash)
  }
})

t.test('a DELETE with a JSON content type and no body, or with any body, is the same as without', async t => {
  const { app, login, issue } = await buildHost(t)
  const session = await login()
  for (const [type, payload] of [
    ['application/json', undefined], ['application/json', ''], ['application/json', '{'], ['text/plain', 'x'],
    ['garbage', 'x']
  ]) {
    const { hash } = await issue()
    const deleted = await app.inject({
      method: 'DELETE',
      url: `/api/tokens/${hash}`,
      headers: { ...session, 'content-type': type },
      ...payload !== undefined && { payload }
    })
    t.equal(deleted.statusCode, 200, `${type}: ${payload}`)
    t.equal(await app.tokens.get(hash), null)
  }
})

t.test('an admin token may manage tokens, as token:<name>; a token of another role may not', async t => {
  const { app, issue } = await buildHost(t)
  const admin = await issue({ name: 'root', role: 'admin' })
  const payload = { name: 'child', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  const created = await app.inject({ method: 'POST', url: '/api/tokens', headers: bearer(admin.token), payload })
  t.equal(created.json<{ requestedBy: string }>().requestedBy, 'token:root')
  for (const role of ['editor', 'viewer', 'connectionManager', 'monitoringViewer']) {
    const refused = await app.inject({
      method: 'POST', url: '/api/tokens', headers: bearer((await issue({ role })).token), payload
    })
    t.equal(refused.statusCode, 403)
    t.same(refused.json(), { code: 'NOT_ALLOWED', message: 'Only an admin may manage tokens' })
    t.equal(refused.headers['www-authenticate'], 'Bearer realm="cedalo", error="insufficient_scope"')
  }
})

t.test('every response of the four routes has Cache-Control: no-store', async t => {
  const { app, issue, login } = await buildHost(t)
  const headers = await login()
  const { hash } = await issue()
  const url = `/api/tokens/${hash}`
  const answers = [
    await app.inject({ url: '/api/tokens', headers }),
    await app.inject({ url: '/api/tokens' }),
    await app.inject({ url, headers: { ...headers, accept: 'text/html' } }),
    await app.inject({
      method: 'POST',
      url: '/api/tokens',
      headers,
      payload: { name: 'b', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
    }),
    await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: {} }),
    await app.inject({ url, headers: bearer((await issue()).token) }),
    await app.inject({ method: 'DELETE', url, headers }),
    await app.inject({ url, headers })
  ]
  t.same(answers.map(answer => answer.statusCode), [200, 401, 406, 200, 400, 403, 200, 404])
  for (const answer of answers) t.equal(answer.headers['cache-control'], 'no-store')
})

t.test('a token works over a real socket, and the second Authorization header that Node hides is seen', async t => {
  const { app, login, issue } = await buildHost(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const base = `http://127.0.0.1:${port}`
  const headers = { ...await login(), 'content-type': 'application/json' }

  const created = await fetch(`${base}/api/tokens`, {
    method: 'POST', headers, body: JSON.stringify({ name: 'wire', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
  })
  const { token, hash } = await created.json() as { token: string, hash: string }
  t.equal((await fetch(`${base}/api/viewer`, { headers: bearer(token) })).status, 200)
  t.equal((await fetch(`${base}/api/viewer?token=${token}`)).status, 200)
  await fetch(`${base}/api/tokens/${hash}`, { method: 'DELETE', headers })
  t.equal((await fetch(`${base}/api/viewer`, { headers: bearer(token) })).status, 401)

  const status = async (authorization: string[]): Promise<number | undefined> => {
    const outgoing = request({ port, path: '/api/viewer', agent: false })
    outgoing.setHeader('authorization', authorization)
    outgoing.end()
    const [response] = await once(outgoing, 'response')
    response.resume()
    return response.statusCode
  }
  const [one, two] = [await issue(), await issue()]
  t.equal(await status([`Bearer ${one.token}`, `Bearer ${two.token}`]), 400)
  t.equal(await status(['Basic eDp5', `Bearer ${two.token}`]), 200, 'one of ours, wherever it stands')
})

const VERSION_99 = { accept: 'application/json;version=99' }
const bodies = {
  good: { payload: { name: 'x', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } },
  bad: { payload: { name: 5 } },
  taken: { payload: { name: 'taken', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } },
  broken: { payload: '{', headers: { 'content-type': 'application/json' } },
  poisoned: { payload: '{"__proto__":1}', headers: { 'content-type': 'application/json' } },
  form: { payload: 'a=b', headers: { 'content-type': 'application/x-www-form-urlencoded' } },
  garbage: { payload: 'a', headers: { 'content-type': 'garbage' } }
} satisfies Record<string, InjectOptions>

t.test('every route checks in this order: disabled, two credentials, not authenticated, not an admin, version, body', async t => {
  const { app, login, issue } = await buildHost(t)
  const { token: admin, hash } = await issue({ name: 'taken', role: 'admin' })
  const { token: viewer } = await issue({ role: 'viewer' })
  const forged = `${admin.slice(0, admin.lastIndexOf('.'))}.${createHmac('sha256', 'x').update('x').digest('base64url')}`
  const session = await login()

  const who: Array<[who: string, headers: Record<string, string>, status?: number, query?: object]> = [
    ['two tokens', { ...session, ...bearer(admin) }, 400, { token: viewer }],
    ['two tokens, one forged', bearer(admin), 400, { token: forged }],
    ['anonymous', {}, 401],
    ['a foreign bearer', bearer('opaque'), 401],
    ['a forged token', bearer(forged), 401],
    ['a forged token beside an admin', { ...session, ...bearer(forged) }, 401],
    ['an editor', await login('editor'), 403],
    ['a viewer', await login('viewer'), 403],
    ['a viewer token', bearer(viewer), 403],
    ['a viewer token beside an admin', { ...session, ...bearer(viewer) }, 403],
    ['an admin', session],
    ['an admin beside a foreign bearer', { ...session, ...bearer('opaque') }],
    ['an admin token', bearer(admin)],
    ['an admin token beside a viewer', { ...await login('viewer'), ...bearer(admin) }]
  ]
  const body = { good: 200, bad: 400, taken: 409, broken: 400, poisoned: 400, form: 415, garbage: 415 }
  const code: Record<number, string> = {
    400: 'INVALID',
    401: 'UNAUTHORIZED',
    403: 'NOT_ALLOWED',
    404: 'NOT_FOUND',
    406: 'NOT_ACCEPTABLE',
    409: 'CONFLICT',
    415: 'INVALID'
  }

  for (const isEnabled of [false, true]) {
    await (isEnabled ? app.tokens.enable() : app.tokens.disable())
    for (const [name, headers, refused, query] of who) {
      for (const accept of [undefined, VERSION_99]) {
        const expect = async (request: InjectOptions, otherwise: number, what: string): Promise<void> => {
          const answer = await app.inject({
            ...request, query: { ...query }, headers: { ...request.headers, ...headers, ...accept }
          })
          const status = isEnabled ? refused ?? (accept === undefined ? otherwise : 406) : 404
          t.equal(
            answer.statusCode,
            status,
            `${name}, ${isEnabled ? 'enabled' : 'disabled'}, ${accept?.accept ?? 'any version'}: ${what}`
          )
          if (status !== 200) t.equal(answer.json<{ code: string }>().code, code[status])
          if (status === 200 && what === 'POST good') await app.tokens.revoke(answer.json<{ hash: string }>().hash)
        }
        await expect({ url: '/api/tokens' }, 200, 'GET list')
        await expect({ url: `/api/tokens/${hash}` }, 200, 'GET one')
        await expect({ url: '/api/tokens/unknown' }, 404, 'GET unknown')
        await expect({ method: 'DELETE', url: '/api/tokens/unknown' }, 200, 'DELETE')
        for (const [which, status] of Object.entries(body)) {
          await expect(
            { method: 'POST', url: '/api/tokens', ...bodies[which as keyof typeof bodies] }, status, `POST ${which}`
          )
        }
      }
    }
  }
})

/** A host whose parsers are its own; ours are in a child, which judges bodies when a session is known. */
async function create (t: Test): Promise<FastifyInstance> {
  const host = Fastify()
  t.teardown(() => host.close())
  for (const type of ['application/octet-stream', 'application/json', /^x/]) {
    host.addContentTypeParser(
      type, { parseAs: 'string' }, (_request, _body, done) => { done(null, 'by the host') }
    )
  }
  await host.register(async app => {
    deferBodyErrors(app)
    app.post(
      '/',
      { preHandler: createInputCheck('body', Type.Unknown() as never) },
      async request => ({ body: request.body ?? null })
    )
    app.delete('/', async request => ({ body: request.body ?? null }))
  })
  return host
}

t.test('any JSON content type is parsed; others are 415 and invalid JSON is 400, after the other checks', async t => {
  const app = await create(t)
  const post = async (type: string | undefined, payload: string) => await app.inject({
    method: 'POST', url: '/', headers: type === undefined ? {} : { 'content-type': type }, payload
  })
  for (const type of [
    'application/json', 'APPLICATION/JSON', ' application/json ;charset=utf-8', 'application/json;'
  ]) {
    t.strictSame((await post(type, '{"a":1}')).json(), { body: { a: 1 } }, type)
  }
  for (const type of [
    'text/plain', 'application/jsonx', 'x application/json', 'application/xml', 'application/octet-stream', 'xml',
    'application/x-www-form-urlencoded', '/'
  ]) {
    t.match((await post(type, '{"a":1}')).json(), {
      code: 'INVALID', statusCode: 415, message: 'The body must be JSON in UTF-8, with content-type application/json'
    }, type)
  }
  for (const payload of [
    '{', '{"a":1}}', 'undefined', '{"__proto__":{}}', '{"constructor":{"prototype":{}}}', '{"a":{"__proto__":1}}'
  ]) {
    t.match((await post('application/json', payload)).json(), {
      code: 'INVALID', statusCode: 400, message: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype'
    }, payload)
  }
})

t.test('a DELETE without a body is valid with any content type', async t => {
  const app = await create(t)
  t.equal((await app.inject({ method: 'POST', url: '/' })).statusCode, 200, 'of a POST the schema says so')
  for (const headers of [{}, { 'content-type': 'application/json' }]) {
    t.equal(
      (await app.inject({ method: 'DELETE', url: '/', headers })).statusCode, 200
    )
  }
})

t.test('an error of the schema has the property and its description', async t => {
  const check = createInputCheck('body', CreateTokenSchema)
  const valid = { name: 'x', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  await t.rejects(check({ body: { ...valid, name: 1 } } as never), {
    code: 'INVALID', message: `name must be ${CreateTokenSchema.properties.name.description}`
  })
  for (const body of [null, undefined, [], 'x', 1]) {
    await t.rejects(check({ body } as never), {
      code: 'INVALID', message: `The body must be ${CreateTokenSchema.description}`
    })
  }
  const closed = createInputCheck('body', Type.Object({}, { additionalProperties: false, description: 'empty' }))
  await t.rejects(closed({ body: { unknown: 1 } } as never), { message: 'unknown must be empty' })
  await check({ body: valid } as never)
})

const body = (name: string, encoding: BufferEncoding = 'utf8'): Buffer =>
  Buffer.from(JSON.stringify({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }), encoding)

t.test('a content type with another charset than UTF-8 is 415, and nothing is stored', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const post = async (charset: string, payload: Buffer) => await app.inject({
    method: 'POST', url: '/api/tokens', headers: { ...headers, 'content-type': `application/json${charset}` }, payload
  })
  for (const [index, charset] of [
    '', ';', '; charset=utf-8', ';charset=UTF-8', ';charset="utf-8"', ' ; Charset = "UTF8"', ';charset=utf8',
    ';charset=us-ascii', ';charset=US-ASCII;x=y', ';x=y;charset=utf-8'
  ].entries()) {
    const answer = await post(charset, body(`Müller ${index}`))
    t.strictSame([answer.statusCode, answer.json<{ name: string }>().name], [200, `Müller ${index}`], charset)
  }
  for (const charset of [
    ';charset=iso-8859-1', ';charset=latin1', ';charset="utf-16"', ';charset=utf-7', ';charset=', ';charset="utf-8',
    ";charset='utf-8'", ';charset=utf-8;charset=latin1', ';charset=utf-88', ';charset=xutf-8', '; CHARSET=ISO-8859-1'
  ]) {
    const answer = await post(charset, body('Müller', 'latin1'))
    t.strictSame(
      [answer.statusCode, answer.json()],
      [415, { code: 'INVALID', message: 'The body must be JSON in UTF-8, with content-type application/json' }],
      charset
    )
  }
  t.equal((await app.tokens.list()).length, 10)
})

t.test('bytes that are not UTF-8 are 400', async t => {
  const { app, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json' }
  const payloads = [body('Müller', 'latin1'), body('Müller', 'utf16le'), Buffer.concat(
    [body('a'), Buffer.from([0x80])]
  ), ...[[0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0xff]].map(bytes =>
    Buffer.concat([body('').subarray(0, 9), Buffer.from(bytes), body('').subarray(9)]))]
  for (const payload of payloads) {
    const answer = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    t.strictSame([answer.statusCode, answer.json()], [400, {
      code: 'INVALID', message: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype'
    }], payload.toString('hex'))
  }
  t.strictSame(await app.tokens.list(), [])
  const large = await app.inject({
    method: 'POST', url: '/api/tokens', headers, payload: Buffer.alloc(2 ** 20 + 1, 0xff)
  })
  t.equal(large.statusCode, 413, 'the limit of the host comes first')
})

async function fill ({ query }: Database, count: number): Promise<void> {
  await query(`INSERT INTO tokens SELECT encode(sha256(n::text::bytea), 'hex'), 'a name that takes some room ' || n, 'viewer', 'sql', '2026-01-01Z'::timestamptz + n * interval '1 ms',
    '2999-01-01Z', '2026-01-01Z' FROM generate_series(1, ${count}) AS n`)
}

t.test('a slow reader of a long list holds no client of the pool, and gets the whole list', async t => {
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  t.teardown(() => pool.end())
  const { app, issue, login } = await buildHost(t, { database, tokens: { postgres: pool } })
  await fill(database, 20_000)
  const { token } = await issue()
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo

  const [slow] = await once(
    get({ port, path: '/api/tokens', headers: await login(), agent: false }), 'response'
  ) as [IncomingMessage]
  await once(slow.pause(), 'readable')
  for (let n = 0; n < 5; n++) {
    t.equal(
      (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200
    )
  }
  t.ok(await issue(), 'the only client of the pool is free')
  const list = await json(slow) as Array<{ hash: string }>
  t.ok(list.length >= 20_001)
  t.equal(new Set(list.map(({ hash }) => hash)).size, list.length)
})

t.test('a list that fails halfway is cut off, so that it is not valid JSON', async t => {
  const { app, database, login } = await buildHost(t)
  await fill(database, 20_000)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const [answer] = await once(
    get({ port, path: '/api/tokens', headers: await login(), agent: false }), 'response'
  ) as [IncomingMessage]
  await once(answer.pause(), 'readable')
  await database.query('DROP TABLE tokens')
  await t.rejects(json(answer))
})

t.test('DELETE returns the list without the token', async t => {
  const { app, database, issue, login } = await buildHost(t)
  await fill(database, 1000)
  const { hash } = await issue()
  const list = (await app.inject(
    { method: 'DELETE', url: `/api/tokens/${hash}`, headers: await login() }
  )).json<Array<{ hash: string }>>()
  t.equal(list.length, 1000)
  t.notOk(list.some(token => token.hash === hash))
})

interface Answer {
  status: number,
  names: string[],
  link: string | undefined,
  body: {
    code?: string, message?: string
  }
}

async function list ({ app, login }: TestHost, query: string, base = ''): Promise<Answer> {
  const answer = await app.inject({ url: `${base}/api/tokens${query}`, headers: await login() })
  const body = answer.json<Array<{ name: string }> & { message: string }>()
  return {
    status: answer.statusCode,
    names: Array.isArray(body)
      ? body.map(({ name }) => name)
      : [],
    link: answer.headers.link as string | undefined,
    body
  }
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

t.test('the pages of a list make up the list, in its order, and the last one has no link', async t => {
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

t.test('a page reads its tokens and one more from Postgres', async t => {
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

t.test('pages of thousands of tokens created in the same millisecond miss none and repeat none', async t => {
  const host = await buildHost(t)
  await host.database.query(
    'INSERT INTO tokens SELECT encode(sha256(n::text::bytea), \'hex\'), n::text, \'viewer\', \'sql\', \'2026-01-01Z\', \'2999-01-01Z\', \'2026-01-01Z\' FROM generate_series(1, 2500) AS n'
  )
  for (const limit of [499, 500, 501, 1000]) {
    const names = (await walk(host, `?limit=${limit}`)).flat()
    t.equal(names.length, 2500)
    t.equal(new Set(names).size, 2500)
  }
})

t.test('a token that is revoked or created between two pages does not affect the rest of the list', async t => {
  const host = await buildHost(t)
  const tokens = []
  for (const name of ['a', 'b', 'c', 'd']) tokens.push(await host.issue({ name }))
  const { link } = await list(host, '?limit=2')
  await host.app.tokens.revoke(tokens[1]?.hash ?? '')
  await host.issue({ name: 'e' })
  t.strictSame(await walk(host, /\?[^>]+/.exec(link ?? '')?.[0] ?? ''), [['c', 'd'], ['e']])
})

t.test('the link keeps the other parameters and the path of the request, and has no token', async t => {
  const host = await buildHost(t, { basePath: '/mmc', tokens: { queryParameter: 'key' } })
  for (const name of ['a', 'b', 'c']) await host.issue({ name })
  const { token } = await host.issue({ name: 'admin', role: 'admin' })
  const { headers } = await host.app.inject({
    url: `/mmc/api/tokens?limit=1&state=active&unusedSince=2999-01-01T00:00:00Z&key=${token}&other=1`
  })
  t.match(headers.link, /^<\?limit=1&cursor=[\w-]+&state=active&unusedSince=2999-01-01T00%3A00%3A00Z>; rel="next"$/)
  t.strictSame((await walk(host, '?limit=2&state=active', '/mmc')).flat(), ['a', 'b', 'c', 'admin'])
})

t.test('a list can be limited to expired or active tokens', async t => {
  const host = await buildHost(t)
  for (const name of ['old', 'new', 'older']) await host.issue({ name })
  await host.database.query("UPDATE tokens SET valid_until = now() - interval '1 second' WHERE name LIKE 'old%'")
  t.strictSame((await list(host, '?state=expired')).names, ['old', 'older'])
  t.strictSame((await list(host, '?state=active')).names, ['new'])
  t.strictSame(await walk(host, '?state=expired&limit=1'), [['old'], ['older']])
})

t.test('a list can be limited to tokens not used since a time, including uses not yet written', async t => {
  const host = await buildHost(t)
  for (const name of ['idle', 'busy', 'new']) await host.issue({ name })
  const { token } = await host.issue({ name: 'used just now' })
  await host.database.query(
    "UPDATE tokens SET last_used = '2026-01-01T00:00:00Z' WHERE name IN ('idle', 'used just now'); UPDATE tokens SET last_used = '2026-03-01T00:00:00Z' WHERE name = 'busy'"
  )
  t.strictSame((await list(host, '?unusedSince=2026-02-01T00:00:00Z')).names, ['idle', 'used just now'])
  t.equal((await host.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  t.strictSame((await list(host, '?unusedSince=2026-02-01T01:00:00%2B02:00')).names, ['idle'])
  t.strictSame(
    (await list(host, '?unusedSince=2026-01-01T00:00:00Z')).names, [], 'used at that very time is not before'
  )
  t.strictSame(await walk(host, '?unusedSince=2026-04-01T00:00:00Z&limit=1'), [['idle'], ['busy']])
})

t.test('a list is JSON if uses not yet written exclude a whole page of it', async t => {
  const host = await buildHost(t)
  const { token } = await host.issue()
  await host.database.query(`UPDATE tokens SET last_used = '2026-01-01';
    INSERT INTO tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    SELECT lpad(n::text, 64, '0'), n::text, 'viewer', 'x', '2026-01-01', '2999-01-01', '2026-01-01'
    FROM generate_series(1, 500) AS n`)
  t.equal((await host.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
  t.equal((await list(host, '?unusedSince=2026-02-01T00:00:00Z')).names.length, 500)

  const app = Fastify()
  let pages: Token[][] = []
  const lists = createLists({ list: async function * () { yield * pages } })
  app.get('/', async (_request, reply) => await lists.send(reply))
  const one = { name: 'a' } as Token
  for (pages of [[[], [one]], [[one], []], [[one], [], [one]], [[], []], [[]], []]) {
    t.strictSame((await app.inject('/')).json(), pages.flat())
  }
})

t.test('an invalid parameter is a 400 that says what it must be, for admins only', async t => {
  const host = await buildHost(t)
  const hash = '0'.repeat(64)
  const cursor = (text: string): string => Buffer.from(text).toString('base64url')
  const cases = {
    'limit must be an integer from 1 to 1000, the page size': [
      'limit=0', 'limit=1001', 'limit=-1', 'limit=1.5', 'limit=x', 'limit=', 'limit=1&limit=2', 'limit=1e9'
    ],
    'state must be active or expired': ['state=x', 'state=', 'state=active&state=expired', 'state=Active'],
    'cursor must be a cursor from the header Link': [
      'cursor=', 'cursor=x', `cursor=${cursor('2026-01-01')}`, `cursor=${cursor(`2026-13-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`0000-01-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`2026-01-01T00:00:00.000Z${hash}'--`)}`, `cursor=${cursor(` 2026-01-01T00:00:00.000Z${hash}`)}`, 'cursor=a&cursor=b'
    ],
    'unusedSince must be an RFC 3339 date-time': [
      'unusedSince=', 'unusedSince=yesterday', 'unusedSince=2026-01-01', 'unusedSince=2026-02-30T00:00:00Z',
      'unusedSince=2026-01-01T00:00:00', 'unusedSince=1', 'unusedSince=0000-01-01T00:00:00Z',
      'unusedSince=9999-12-31T23:59:59-01:00', 'unusedSince=9999-12-31T23:59:00-00:01'
    ]
  }
  for (const [message, queries] of Object.entries(cases)) {
    for (const query of queries) {
      const { status, body } = await list(host, `?${query}`)
      t.equal(status, 400, query)
      t.ok(body.code === 'INVALID' && body.message?.startsWith(message), `${query}: ${body.message}`)
      t.equal((await host.app.inject(`/api/tokens?${query}`)).statusCode, 401)
      t.equal(
        (await host.app.inject({ url: `/api/tokens?${query}`, headers: await host.login('viewer') })).statusCode, 403
      )
      t.equal((await host.app.inject(
        { url: `/api/tokens?${query}`, headers: { ...await host.login(), accept: 'application/json;version=7' } }
      )).statusCode, 406)
    }
  }
  for (const query of [
    `cursor=${cursor(`0001-01-01T00:00:00.000Z${hash}`)}`, `cursor=${cursor(`9999-12-31T23:59:59.999Z${hash}`)}`,
    'unusedSince=1970-01-01T00:00:00Z', 'unusedSince=9999-12-31T23:59:59Z'
  ]) {
    t.equal((await list(host, `?${query}`)).status, 200, query)
  }
  t.equal((await list(host, '?page=x&sort=name&Limit=0')).status, 200, 'what is not ours means nothing')
})

t.test('DELETE with Prefer: return=minimal is a 204 without the list (RFC 7240); other preferences are ignored', async t => {
  const { app, issue, login } = await buildHost(t)
  const headers = await login()
  const revoke = async (prefer: string) => {
    const { hash, token } = await issue()
    const answer = await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, prefer } })
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
    return answer
  }
  for (const prefer of [
    'return=minimal', 'return="minimal"', 'RETURN=Minimal', 'respond-async, return=minimal', 'return = minimal; foo=bar',
    'return=minimal, return=representation'
  ]) {
    const { statusCode, headers, body } = await revoke(prefer)
    t.strictSame(
      [statusCode, body, headers['preference-applied'], headers['cache-control'], headers['content-type']],
      [204, '', 'return=minimal', 'no-store', undefined],
      prefer
    )
  }
  for (const prefer of [
    '', 'return=representation', 'return=minimalist', 'x-return=minimal', 'return',
    'return=representation, return=minimal', 'foo; return=minimal'
  ]) {
    const { statusCode, headers, body } = await revoke(prefer)
    t.strictSame([statusCode, body, headers['preference-applied']], [200, '[]', undefined], prefer)
  }
  t.equal((await app.inject(
    { method: 'DELETE', url: `/api/tokens/${'0'.repeat(64)}`, headers: { prefer: 'return=minimal' } }
  )).statusCode, 401)
})

const PREFER = { prefer: 'return=minimal' }

t.test('a hash may be in any letter case', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const mixed = (hash: string): string =>
    hash.replace(/[a-f]/g, (letter, index: number) => index % 2 === 0 ? letter.toUpperCase() : letter)
  for (const write of [(hash: string) => hash.toUpperCase(), mixed]) {
    const { token, ...record } = await issue()
    // Believed from memory before it ends.
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
    const url = `/api/tokens/${write(record.hash)}`
    t.match((await app.inject({ url, headers })).json(), { name: record.name, hash: record.hash })
    t.match(await app.tokens.get(write(record.hash)), { hash: record.hash })
    const answer = await app.inject({ method: 'DELETE', url, headers })
    t.strictSame([answer.statusCode, answer.json()], [200, []])
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)

    const other = await issue()
    t.equal(await app.tokens.revoke(write(other.hash)), true)
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(other.token) })).statusCode, 401)
  }
})

t.test('with an invalid or unknown hash, GET is 404, and DELETE changes nothing and is the list, or 404 with Prefer: return=minimal', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const { hash, name } = await issue()
  for (const odd of [
    '0'.repeat(64), `${hash}0`, hash.slice(1), `g${hash.slice(1)}`, `${hash}%0a`, `%20${hash}`,
    encodeURIComponent(name), '%00', 'ａ'.repeat(64)
  ]) {
    const url = `/api/tokens/${odd}`
    t.match((await app.inject({ url, headers })).json(), { code: 'NOT_FOUND', message: 'No token has this hash' }, odd)
    const answer = await app.inject({ method: 'DELETE', url, headers })
    t.match([answer.statusCode, answer.json()], [200, [{ hash }]], odd)
    const minimal = await app.inject({ method: 'DELETE', url, headers: { ...headers, ...PREFER } })
    t.strictSame(
      [minimal.statusCode, minimal.json()], [404, { code: 'NOT_FOUND', message: 'No token has this hash' }], odd
    )
  }
  const minimal = async (): Promise<number> => (await app.inject(
    { method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, ...PREFER } }
  )).statusCode
  t.strictSame([await minimal(), await minimal()], [204, 404])
})

t.test('an invalid hash in code is an error that does not repeat it, since it may be the token', async t => {
  const { app, issue } = await buildHost(t)
  const { token, hash, name } = await issue()
  const message = 'hash must be the SHA-256 of the token in 64 hexadecimal digits'
  for (const odd of [token, name, `${hash}0`, hash.slice(1), `${hash}\n`, '', undefined, null, 5, [hash]]) {
    await t.rejects(app.tokens.revoke(odd as string), { code: 'INVALID', statusCode: 400, message })
    await t.rejects(app.tokens.get(odd as string), { code: 'INVALID', statusCode: 400, message })
  }
  t.equal(await app.tokens.revoke('0'.repeat(64)), false)
  t.equal(await app.tokens.get('0'.repeat(64)), null)
  t.match(await app.tokens.list(), [{ hash }])
})

const inSeconds = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString()

t.test('the lifetime of a new token is limited by "maxLifetime", to the second; a longer one is a 400 that states the limit', async t => {
  const { app, login } = await buildHost(t, { tokens: { maxLifetime: 3600 } })
  const headers = await login()
  const create = async (name: string, validUntil: string) => await app.inject({
    method: 'POST', url: '/api/tokens', headers, payload: { ...NEW_TOKEN, name, validUntil }
  })
  t.equal((await create('an hour', inSeconds(3600))).statusCode, 200)
  const refused = await create('longer', inSeconds(3605))
  t.equal(refused.statusCode, 400)
  t.match(refused.json(), {
    code: 'INVALID', message: /^validUntil must be at most 3600 seconds ahead, no later than \d{4}-\d\d-\d\dT[\d:.]+Z$/
  })
  t.equal((await create('for ever', '9999-12-31T23:59:59Z')).statusCode, 400)
  await t.rejects(
    app.tokens.issue({ name: 'by code', role: 'viewer', validUntil: inSeconds(3605), requestedBy: 'test' }),
    { code: 'INVALID' }
  )
  t.throws(() => app.tokens.mint({ name: 'minted', role: 'viewer', validUntil: inSeconds(3605) }), { code: 'INVALID' })
  t.strictSame((await app.tokens.list()).map(({ name }) => name), ['an hour'])
})

t.test('existing tokens are not affected by a new "maxLifetime"', async t => {
  const { database, issue } = await buildHost(t)
  const { token } = await issue()
  const { app } = await buildHost(t, { database, tokens: { maxLifetime: 1 } })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test('with tokensMayManageTokens: false, the four routes are 403 for every token, and sessions are not affected', async t => {
  const { app, issue, login } = await buildHost(t, { tokens: { tokensMayManageTokens: false } })
  const { hash, token } = await issue({ role: 'admin' })
  const viewer = await issue({ role: 'viewer' })
  const routes = [
    { method: 'GET', url: '/api/tokens' }, { method: 'POST', url: '/api/tokens', payload: NEW_TOKEN },
    { method: 'GET', url: `/api/tokens/${hash}` }, { method: 'DELETE', url: `/api/tokens/${hash}` }
  ] as const
  const headers = await login()
  for (const route of routes) {
    for (const secret of [token, viewer.token]) {
      const answer = await app.inject({ ...route, headers: { ...headers, ...bearer(secret) } })
      t.match([answer.statusCode, answer.json(), answer.headers['www-authenticate']],
        [403, {
          code: 'NOT_ALLOWED', message: 'Tokens may not manage tokens here: log in'
        }, /error="insufficient_scope"/], `${route.method} ${route.url}`)
    }
  }
  t.equal(
    (await app.inject({ url: '/api/editor', headers: bearer(token) })).statusCode, 200, 'other routes do not mind'
  )
  for (const route of routes) t.equal((await app.inject({ ...route, headers })).statusCode, 200)
})
