import t from 'tap'
import type { ApplicationTokens } from '../../lib/index.js'
import { createBareHost, NEW_TOKEN } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

t.test('requireRole takes roles and lists of them; without one it throws when the guard is made', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/list', { preHandler: app.tokens.requireRole(['editor', 'viewer']) }, async () => 'in')
  app.get('/both', { preHandler: app.tokens.requireRole('editor', ['viewer']) }, async () => 'in')
  const [viewer, other] = [await issue(), await issue({ role: 'connectionManager' })]
  for (const url of ['/list', '/both']) {
    t.equal((await app.inject({ url, headers: bearer(viewer.token) })).body, 'in')
    t.match((await app.inject({ url, headers: bearer(other.token) })).json(), { code: 'NOT_ALLOWED', message: 'This takes the role admin or editor or viewer' })
  }
  for (const roles of [[], [[]], [''], [undefined], [null], [5], [['editor', '']], [{}]]) {
    t.throws(() => app.tokens.requireRole(...roles as string[]), { code: 'MMC_TOKENS_GUARD', message: /^requireRole must be called with one role or more/ }, JSON.stringify(roles))
  }
})

t.test('a guard that somebody forgot to call answers 500 at once, and lets nobody in', async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await addTokens()
  app.get('/', { preHandler: app.tokens.requireRole as never }, async () => 'in')
  const { token } = await issue({ role: 'admin' })
  for (const headers of [{}, bearer(token)]) t.equal((await app.inject({ url: '/', headers })).statusCode, 500)
})

t.test('a role that tokens can not have is warned of once, and people who have it come in', async t => {
  const lines: string[] = []
  const { app, addTokens } = await createBareHost(t, { logger: { level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } } } })
  await addTokens({ roles: ['admin', 'robot'] })
  for (const role of ['robot', 'edtor', 'edtor', 'admin']) {
    app.get(`/${lines.length}${role}${Math.random()}`, { preHandler: app.tokens.requireRole(role) }, async () => 'in')
  }
  t.strictSame(lines, ['requireRole("edtor"): a token can\'t have this role, only admin, robot: correct it, unless people have it'])
  app.addHook('onRequest', async request => { Object.assign(request, { user: { username: 'me', roles: ['edtor'] } }) })
  app.get('/', { preHandler: app.tokens.requireRole('edtor') }, async () => 'in')
  t.equal((await app.inject('/')).body, 'in')
  for (let n = 0; n < 200; n++) app.tokens.requireRole(`role ${n}`)
  t.equal(lines.length, 100, 'what is warned of is bounded')
})

t.test('who issues or revokes in code says who they are: anything else is a 400 that names it', async t => {
  const { app, issue } = await buildHost(t)
  const { hash } = await issue()
  const { issue: make, revoke } = app.tokens as { [name in 'issue' | 'revoke']: (...args: unknown[]) => ReturnType<ApplicationTokens[name]> }
  for (const who of [undefined, null, 5, '', ' ', 'a\ud800', 'a\0b']) {
    await t.rejects(make({ ...NEW_TOKEN, requestedBy: who }), { statusCode: 400, code: 'INVALID', message: /^requestedBy must be the name of who/ }, JSON.stringify(who))
    await t.rejects(revoke(hash, { revokedBy: who }), { statusCode: 400, code: 'INVALID', message: /^revokedBy must be the name of who/ }, JSON.stringify(who))
  }
  t.match(await app.tokens.issue({ ...NEW_TOKEN, requestedBy: 'Ægir 🦑' }), { requestedBy: 'Ægir 🦑' })
  t.equal(await app.tokens.revoke(hash, { revokedBy: 'Ægir' }), true)
})

t.test('a session of another shape is nobody, and warned of once; nobody is no warning', async t => {
  for (const [bad, option] of [[{ name: 'me', role: 'admin' }, true], [{ username: 'me', roles: 'admin' }, true], [{ username: 'a\0', roles: ['admin'] }, true], [{ id: 1 }, false]] as const) {
    const lines: string[] = []
    const { app, addTokens } = await createBareHost(t, { logger: { level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } } } })
    let user: unknown = null
    app.addHook('onRequest', async request => { Object.assign(request, { user }) })
    await addTokens(option ? { session: () => user as null } : {})
    for (const nobody of [null, undefined, false]) {
      user = nobody
      t.equal((await app.inject('/api/tokens')).statusCode, 401)
    }
    t.strictSame(lines, [])
    user = bad
    for (let n = 0; n < 2; n++) t.equal((await app.inject('/api/tokens')).statusCode, 401)
    t.equal(lines.length, 1)
    t.match(lines[0], `no user, so nobody is logged in: ${option ? 'what the option "session" answers' : 'request.user (set the option "session")'} must be { username, roles }, such as`)
  }
})

for (const [what, status, location] of [['403', 403], ['a redirect to its login page', 302, '/login'], ['a 303', 303, '/login']] as const) {
  t.test(`a guard that answers ${what} before the token is looked at is hinted at once; a redirect to https is not`, async t => {
    const lines: string[] = []
    const { app, addTokens, issue } = await createBareHost(t, { logger: { level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } } } })
    await addTokens()
    app.addHook('onRequest', async (request, reply) => {
      if (request.url === '/https') return await reply.redirect('https://here/', 301)
      if ((request as { user?: unknown }).user === undefined) {
        if (location !== undefined) reply.header('location', location)
        return await reply.code(status).send()
      }
    })
    app.get('/', async () => 'in')
    const headers = bearer((await issue()).token)
    t.equal((await app.inject({ url: '/https', headers })).statusCode, 301)
    t.equal((await app.inject('/')).statusCode, status)
    t.strictSame(lines, [])
    for (let n = 0; n < 2; n++) t.equal((await app.inject({ url: '/', headers })).statusCode, status)
    t.equal(lines.length, 1)
    t.ok(lines[0]?.startsWith(`a request with a token was answered ${status} before the token was looked at`))
  })
}
