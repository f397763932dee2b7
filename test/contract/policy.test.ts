import t from 'tap'
import { NEW_TOKEN } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

const inSeconds = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString()

t.test('a new token may live as long as "maxLifetime" allows, to the second; longer is a 400 that states the limit', async t => {
  const { app, login } = await buildHost(t, { tokens: { maxLifetime: 3600 } })
  const headers = await login()
  const create = async (name: string, validUntil: string) => await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { ...NEW_TOKEN, name, validUntil } })
  t.equal((await create('an hour', inSeconds(3600))).statusCode, 200)
  const refused = await create('longer', inSeconds(3605))
  t.equal(refused.statusCode, 400)
  t.match(refused.json(), { code: 'INVALID', message: /^validUntil must be at most 3600 seconds ahead, that is no later than \d{4}-\d\d-\d\dT[\d:.]+Z$/ })
  t.equal((await create('for ever', '9999-12-31T23:59:59Z')).statusCode, 400)
  await t.rejects(app.tokens.issue({ name: 'by code', role: 'viewer', validUntil: inSeconds(3605), requestedBy: 'test' }), { code: 'INVALID' })
  t.throws(() => app.tokens.sign({ name: 'minted', role: 'viewer', validUntil: inSeconds(3605) }), { code: 'INVALID' })
  t.strictSame((await app.tokens.list()).map(({ name }) => name), ['an hour'])
})

t.test('tokens that are there live on under a new "maxLifetime"', async t => {
  const { database, issue } = await buildHost(t)
  const { token } = await issue()
  const { app } = await buildHost(t, { database, tokens: { maxLifetime: 1 } })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test('where tokens must not manage tokens, each of the four routes is 403 to every token, and a session does what it did', async t => {
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
        [403, { code: 'NOT_ALLOWED', message: 'Tokens must not manage tokens here: log in' }, /error="insufficient_scope"/], `${route.method} ${route.url}`)
    }
  }
  t.equal((await app.inject({ url: '/api/editor', headers: bearer(token) })).statusCode, 200, 'other routes do not mind')
  for (const route of routes) t.equal((await app.inject({ ...route, headers })).statusCode, 200)
})
