import { createHash, createHmac, hkdfSync } from 'node:crypto'
import t from 'tap'
import { bearer, buildHost, SECRET } from '../support/build-host.js'

const json = (part = ''): unknown => JSON.parse(Buffer.from(part, 'base64url').toString())

t.test('the secret is a JWT: the constant header, five claims in order, HMAC-SHA256 with the derived key', async t => {
  const { issue } = await buildHost(t)
  const { token, hash, role, validUntil, issueDate } = await issue({ role: 'editor', validUntil: '2099-06-08T10:54:53.900Z' })
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
  t.not(signature, createHmac('sha256', SECRET).update(`${header}.${payload}`).digest('base64url'), 'not the secret itself, which a host may use, too')
  t.equal(hash, createHash('sha256').update(token).digest('hex'))
})

t.test('two tokens made at the same instant with the same role and expiry differ', async t => {
  t.intercept(Date, 'now', { value: () => Date.UTC(2026, 10, 24, 12, 0, 0, 500) })
  const { issue } = await buildHost(t)
  const [one, two] = await Promise.all([issue(), issue()])
  t.equal(one.issueDate, two.issueDate)
  t.not(one.token, two.token)
  t.not(one.hash, two.hash)
})

t.test('the secret is in the answer that creates it and nowhere else', async t => {
  const lines: string[] = []
  const stream = { write (line: string) { lines.push(line) } }
  const { app, database, login } = await buildHost(t, { fastify: { logger: { level: 'trace', stream } } })
  const headers = await login()
  const { token, hash } = (await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name: 'a', role: 'admin', validUntil: '2999-01-01T00:00:00Z' } })).json<{ token: string, hash: string }>()

  await app.inject({ url: '/api/viewer', headers: bearer(token) })
  for (const url of ['/api/profile', '/nothing/here', '/api/viewer/%00']) await app.inject({ url: `${url}?tok%65n=${token}&a=1` })
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
