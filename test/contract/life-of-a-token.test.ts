import { createHash } from 'node:crypto'
import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'

t.test('a person makes a token, a program uses it, the person revokes it, the program is refused', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()

  const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name: 'ci', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } })
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
