import { createHash, createHmac, hash, hkdfSync } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import t from 'tap'
import type { IssuedToken, Token } from '../../lib/index.js'
import { CreateTokenSchema, IssuedTokenSchema, TokenSchema, TokensSchema } from '../../schemas/index.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { blocksOf } from '../support/docs.js'

const json = (part = ''): unknown => JSON.parse(Buffer.from(part, 'base64url').toString())

t.test('the secret is a JWT with a constant header, five claims in order, signed with HMAC-SHA256 and the derived key', async t => {
  const { issue } = await buildHost(t)
  const { token, hash, role, validUntil, issueDate } = await issue({
    role: 'editor', validUntil: '2099-06-08T10:54:53.900Z'
  })
  const [header, payload, signature] = token.split('.')

  t.equal(Buffer.from(header ?? '', 'base64url').toString(), '{"alg":"HS256","typ":"JWT"}')
  const claims = json(payload) as { role: string, iat: number, exp: number, iss: string, jti: string }
  t.same(Object.keys(claims), ['role', 'iat', 'exp', 'iss', 'jti'])
  t.equal(claims.role, role)
  t.equal(claims.iss, 'cedalo')
  t.equal(claims.iat, Math.floor(Date.parse(issueDate) / 1000))
  t.equal(new Date(claims.exp * 1000).toISOString(), validUntil)
  t.match(claims.jti, /^[0-9a-f-]{36}$/)

  const key = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
  t.equal(signature, createHmac('sha256', key).update(`${header}.${payload}`).digest('base64url'))
  t.not(
    signature,
    createHmac('sha256', SECRET).update(`${header}.${payload}`).digest('base64url'),
    'not the secret itself, which a host may use, too'
  )
  t.equal(hash, createHash('sha256').update(token).digest('hex'))
})

t.test('two tokens created at the same instant with the same role and expiry differ', async t => {
  t.intercept(Date, 'now', { value: () => Date.UTC(2026, 10, 24, 12, 0, 0, 500) })
  const { issue } = await buildHost(t)
  const [one, two] = await Promise.all([issue(), issue()])
  t.equal(one.issueDate, two.issueDate)
  t.not(one.token, two.token)
  t.not(one.hash, two.hash)
})

t.test('the secret is only in the response that creates it', async t => {
  const lines: string[] = []
  const stream = { write (line: string) { lines.push(line) } }
  const { app, database, login } = await buildHost(t, { fastify: { logger: { level: 'trace', stream } } })
  const headers = await login()
  const { token, hash } = (await app.inject({
    method: 'POST',
    url: '/api/tokens',
    headers,
    payload: {
      name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z'
    }
  })).json<{ token: string, hash: string }>()

  await app.inject({ url: '/api/viewer', headers: bearer(token) })
  for (const url of ['/api/profile', '/nothing/here', '/api/viewer/%00']) {
    await app.inject({
      url: `${url}?tok%65n=${token}&a=1`
    })
  }
  const answers = [
    await app.inject({ url: '/api/tokens', headers }),
    await app.inject({ url: `/api/tokens/${hash}`, headers: bearer(token) }),
    await app.inject({ url: '/nothing/here', query: { token } }),
    await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
  ]
  const [, payload = '', signature = ''] = token.split('.')
  for (const text of [...lines, ...answers.map(answer => answer.payload)]) {
    t.notOk(text.includes(payload) || text.includes(signature), text)
  }
  t.ok(lines.some(line => line.includes('/nothing/here?tok%65n=[Redacted]&a=1')), 'the rest of the URL is still logged')

  const rows = await database.query('SELECT token::text AS row FROM tokens AS token')
  t.notOk(JSON.stringify(rows).includes(signature))
})

t.test('a user creates a token, a program uses it, the user revokes it, and the program is refused', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()

  const created = await app.inject({
    method: 'POST',
    url: '/api/tokens',
    headers,
    payload: { name: 'ci', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  })
  t.equal(created.statusCode, 200)
  const { token, ...record } = created.json<{ token: string, hash: string, issueDate: string, lastUsed: string }>()
  t.equal(record.hash, createHash('sha256').update(token).digest('hex'))

  t.same((await app.inject({ url: '/api/viewer', headers: bearer(token) })).json(), { message: 'Hello, viewer' })
  t.same((await app.inject({ url: `/api/profile?token=${token}` })).json(), { username: 'token:ci', roles: ['viewer'] })
  t.equal((await app.inject({ url: '/api/editor', headers: bearer(token) })).statusCode, 403, 'no more than its role')

  const deleted = await app.inject({ method: 'DELETE', url: `/api/tokens/${record.hash}`, headers })
  t.equal(deleted.statusCode, 200)
  t.same(deleted.json(), [])
  for (const request of [{ url: '/api/viewer', headers: bearer(token) }, { url: `/api/viewer?token=${token}` }]) {
    const refused = await app.inject(request)
    t.equal(refused.statusCode, 401)
    t.same(refused.json(), { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } })
    t.equal(refused.headers['www-authenticate'], 'Bearer realm="cedalo", error="invalid_token"')
  }
})

type Body = Record<string, unknown>
interface Described {
  example?: unknown,
  schema: {
    properties?: Record<string, { examples: string[] }>, examples?: unknown[]
  }
}
interface Operation {
  requestBody: { content: Record<string, Described> }
  responses: Record<string, { content: Record<string, Described> }>
  parameters: Array<{ name: string, example?: string }>
}

const [ISSUED, TOKEN] = [IssuedTokenSchema.examples[0] as IssuedToken, TokenSchema.examples[0] as Token]
const { paths } = JSON.parse(
  await readFile('docs/openapi.json', 'utf8')
) as { paths: Record<string, Record<string, Operation>> }
const operation = (path: string, method: string): Operation => paths[path]?.[method] as Operation
const answerOf = (path: string, method: string): unknown =>
  operation(path, method).responses['200']?.content['application/json']?.example

/** An object's examples, and those with each example of a property in its place. */
function examplesOf ({ examples = [], properties = {} }: Described['schema']): Body[] {
  const whole = examples as Body[]
  const each = Object.entries(properties).flatMap(([name, { examples }]) =>
    examples.map(example => ({ [name]: example })))
  return [...whole, ...each.map(change => ({ ...whole[0], ...change }))]
}

t.test('every example of a new token, in the schemas and in the OpenAPI document, is accepted and gets the example response', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const { schema, example } = operation('/api/tokens', 'post').requestBody.content['application/json'] as Described
  const bodies = [
    ...examplesOf(CreateTokenSchema as Described['schema']), ...examplesOf({ ...schema, examples: [example] })
  ]
  t.equal(bodies.length, 10)
  for (const payload of bodies) {
    const answer = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    const { name, role, validUntil, requestedBy, hash } = ISSUED
    t.match(answer.json(), { name, role, validUntil, requestedBy }, JSON.stringify(payload))
    await app.tokens.revoke(answer.json<IssuedToken>().hash)
    t.not(answer.json<IssuedToken>().hash, hash)
  }
})

t.test('the example responses describe one token, whose secret matches its record and hash', async t => {
  const { token, ...record } = ISSUED
  const [header, payload] = token.split('.', 2).map(part =>
    JSON.parse(Buffer.from(part, 'base64url').toString()) as Body)
  t.strictSame(header, { alg: 'HS256', typ: 'JWT' })
  const [iat, exp] = [record.issueDate, record.validUntil].map(time => Math.floor(Date.parse(time) / 1000))
  t.match(payload, { role: record.role, iat, exp, iss: 'cedalo', jti: /^[0-9a-f-]{36}$/ })
  t.equal(hash('sha256', token, 'hex'), record.hash)
  t.strictSame([TOKEN, TokensSchema.examples], [record, [[record]]])
  t.equal(record.lastUsed, record.issueDate)
  t.strictSame(answerOf('/api/tokens', 'post'), ISSUED)
  const documented = JSON.parse((await blocksOf('docs/http-api.md', 'json'))[0] ?? '') as IssuedToken
  t.strictSame({ ...documented, token }, ISSUED, 'docs/http-api.md')
  t.ok(token.startsWith(documented.token.slice(0, -1)))
})

t.test('if the example token exists, the other routes return their examples', async t => {
  const { app, database, login } = await buildHost(t)
  const { name, hash, role, requestedBy, issueDate, validUntil, lastUsed } = TOKEN
  await database.query(`INSERT INTO tokens (name, hash, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7)`, [name, hash, role, requestedBy, issueDate, validUntil, lastUsed])
  const headers = await login()
  for (const [path, method] of [
    ['/api/tokens', 'get'], ['/api/tokens/{tokenHash}', 'get'], ['/api/tokens/{tokenHash}', 'delete']
  ] as const) {
    const asked = operation(path, method).parameters.find(({ name }) => name === 'tokenHash')?.example ?? ''
    const answer = await app.inject({ method, url: path.replace('{tokenHash}', asked), headers })
    t.strictSame(answer.json(), answerOf(path, method), `${method} ${path}`)
  }
})

t.test('the time that an error recommends is accepted', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const body = { name: 'recommended', role: 'viewer', validUntil: 'tomorrow' }
  const post = async (payload: Body) => await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
  const list = async (unusedSince: string) => await app.inject({ url: '/api/tokens', query: { unusedSince }, headers })
  const recommended = (message: string): string => / such as ([^\s:]+:\d\d:\d\dZ)/.exec(message)?.[1] ?? ''
  t.equal((await post(
    { ...body, validUntil: recommended((await post(body)).json<{ message: string }>().message) }
  )).statusCode, 200)
  t.equal((await list(recommended((await list('yesterday')).json<{ message: string }>().message))).statusCode, 200)
})
