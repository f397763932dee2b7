import { hash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import t from 'tap'
import type { IssuedToken, Token } from '../../lib/index.js'
import { CreateTokenSchema, IssuedTokenSchema, TokenSchema, TokensSchema } from '../../schemas/index.js'
import { buildHost } from '../support/build-host.js'
import { blocksOf } from '../support/docs.js'

type Body = Record<string, unknown>
interface Described { example?: unknown, schema: { properties?: Record<string, { examples: string[] }>, examples?: unknown[] } }
interface Operation {
  requestBody: { content: Record<string, Described> }
  responses: Record<string, { content: Record<string, Described> }>
  parameters: Array<{ name: string, example?: string }>
}

const [ISSUED, TOKEN] = [IssuedTokenSchema.examples[0] as IssuedToken, TokenSchema.examples[0] as Token]
const { paths } = JSON.parse(await readFile('docs/openapi.json', 'utf8')) as { paths: Record<string, Record<string, Operation>> }
const operation = (path: string, method: string): Operation => paths[path]?.[method] as Operation
const answerOf = (path: string, method: string): unknown => operation(path, method).responses['200']?.content['application/json']?.example

/** An object's examples, and those with each example of a property in its place. */
function examplesOf ({ examples = [], properties = {} }: Described['schema']): Body[] {
  const whole = examples as Body[]
  const each = Object.entries(properties).flatMap(([name, { examples }]) => examples.map(example => ({ [name]: example })))
  return [...whole, ...each.map(change => ({ ...whole[0], ...change }))]
}

t.test('every example of a new token is accepted, of the schemas as of the OpenAPI document, and answered as its example says', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const { schema, example } = operation('/api/tokens', 'post').requestBody.content['application/json'] as Described
  const bodies = [...examplesOf(CreateTokenSchema as Described['schema']), ...examplesOf({ ...schema, examples: [example] })]
  t.equal(bodies.length, 10)
  for (const payload of bodies) {
    const answer = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    const { name, role, validUntil, requestedBy, hash } = ISSUED
    t.match(answer.json(), { name, role, validUntil, requestedBy }, JSON.stringify(payload))
    await app.tokens.revoke(answer.json<IssuedToken>().hash)
    t.not(answer.json<IssuedToken>().hash, hash)
  }
})

t.test('the examples of the answers tell of one token, whose secret says the same and hashes to its hash', async t => {
  const { token, ...record } = ISSUED
  const [header, payload] = token.split('.', 2).map(part => JSON.parse(Buffer.from(part, 'base64url').toString()) as Body)
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

t.test('where the token of the examples exists, the other routes answer as their examples say', async t => {
  const { app, database, login } = await buildHost(t)
  const { name, hash, role, requestedBy, issueDate, validUntil, lastUsed } = TOKEN
  await database.query(`INSERT INTO tokens (name, hash, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7)`, [name, hash, role, requestedBy, issueDate, validUntil, lastUsed])
  const headers = await login()
  for (const [path, method] of [['/api/tokens', 'get'], ['/api/tokens/{tokenHash}', 'get'], ['/api/tokens/{tokenHash}', 'delete']] as const) {
    const asked = operation(path, method).parameters.find(({ name }) => name === 'tokenHash')?.example ?? ''
    const answer = await app.inject({ method, url: path.replace('{tokenHash}', asked), headers })
    t.strictSame(answer.json(), answerOf(path, method), `${method} ${path}`)
  }
})

t.test('the time that a refusal recommends is accepted', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const body = { name: 'recommended', role: 'viewer', validUntil: 'tomorrow' }
  const post = async (payload: Body) => await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
  const list = async (unusedSince: string) => await app.inject({ url: '/api/tokens', query: { unusedSince }, headers })
  const recommended = (message: string): string => / such as ([^\s:]+:\d\d:\d\dZ)/.exec(message)?.[1] ?? ''
  t.equal((await post({ ...body, validUntil: recommended((await post(body)).json<{ message: string }>().message) })).statusCode, 200)
  t.equal((await list(recommended((await list('yesterday')).json<{ message: string }>().message))).statusCode, 200)
})
