import cookie from '@fastify/cookie'
import passportModule from '@fastify/passport'
import secureSession from '@fastify/secure-session'
import session from '@fastify/session'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { TokenPrincipal, TokensPluginOptions } from '../../lib/index.js'
import { createBareHost, FORGED, inOrder, NEW_TOKEN, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'

const { Authenticator, Strategy } = passportModule
const KEY = Buffer.alloc(32, 7)

/** A session of either package. */
interface Session { get: (key: string) => unknown, set: (key: string, value: unknown) => void }

function sessionOf (request: FastifyRequest): Session {
  return request.session as unknown as Session
}

interface Host {
  /** Adds the package and POST /login?as=<role>. */
  addSessions: (app: FastifyInstance) => Promise<void>
  options: Partial<TokensPluginOptions>
}

async function login (app: FastifyInstance): Promise<void> {
  app.post<{ Querystring: { as: string } }>('/login', async request => {
    sessionOf(request).set('user', { username: request.query.as, roles: [request.query.as] })
    return 'welcome'
  })
}

const askSession: Partial<TokensPluginOptions> = {
  session: request =>
    sessionOf(request).get('user') as TokenPrincipal | undefined
}

const HOSTS: Record<string, Host> = {
  '@fastify/cookie and @fastify/session': {
    async addSessions (app) {
      await app.register(cookie)
      await app.register(session, {
        secret: 'a secret of the host, long enough: 0123456789', cookie: { secure: false }
      })
      await login(app)
    },
    options: askSession
  },
  '@fastify/secure-session': {
    async addSessions (app) {
      await app.register(secureSession, { key: KEY })
      await login(app)
    },
    options: askSession
  },
  '@fastify/passport on @fastify/secure-session': {
    async addSessions (app) {
      const passport = new Authenticator()
      passport.use('test', new class extends Strategy {
        override authenticate (request: FastifyRequest): void {
          const { as } = request.query as { as: string }
          this.success({ username: as, roles: [as] })
        }
      }('test'))
      passport.registerUserSerializer(async user => user)
      passport.registerUserDeserializer(async user => user)
      await app.register(secureSession, { key: KEY })
      await app.register(passport.initialize())
      await app.register(passport.secureSession())
      app.post('/login', { preValidation: passport.authenticate('test') }, async () => 'welcome')
      app.get('/guarded', {
        preHandler: async (request, reply) => {
          if (!request.isAuthenticated()) return await reply.code(401).send('log in')
        }
      }, async request => who(request))
    },
    options: {}
  }
}

async function cookiesOf (t: Test, app: FastifyInstance, role: string): Promise<{ cookie: string }> {
  const answer = await app.inject({ method: 'POST', url: `/login?as=${role}` })
  t.equal(answer.statusCode, 200)
  return { cookie: answer.cookies.map(({ name, value }) => `${name}=${encodeURIComponent(value)}`).join('; ') }
}

for (const [what, { addSessions, options }] of Object.entries(HOSTS)) {
  for (const order of ORDERS) {
    t.test(`${what}, ${order}: an admin manages tokens with the session, a viewer does not`, async t => {
      const { app, addTokens } = await createBareHost(t)
      await inOrder(order, async () => await addSessions(app), async () => await addTokens(options))
      const [admin, viewer] = [await cookiesOf(t, app, 'admin'), await cookiesOf(t, app, 'viewer')]
      const url = '/api/tokens'

      const created = await app.inject({ method: 'POST', url, headers: admin, payload: NEW_TOKEN })
      t.equal(created.statusCode, 200)
      const { token, ...record } = created.json<{ token: string, hash: string }>()
      t.match(record, { name: 'new', requestedBy: 'admin' })
      t.strictSame((await app.inject({ url, headers: admin })).json(), [record])
      t.strictSame((await app.inject({ url: `${url}/${record.hash}`, headers: admin })).json(), record)
      t.equal((await app.inject({ method: 'POST', url, headers: viewer, payload: NEW_TOKEN })).statusCode, 403)
      t.equal(
        (await app.inject({ url, headers: { ...admin, ...bearer(token) } })).statusCode, 403, 'the token alone counts'
      )
      t.strictSame((await app.inject({ method: 'DELETE', url: `${url}/${record.hash}`, headers: admin })).json(), [])
    })

    t.test(`${what}, ${order}: broken JSON is 400 for an admin, 403 for a viewer, 401 without a session`, async t => {
      const { app, addTokens } = await createBareHost(t)
      await inOrder(order, async () => await addSessions(app), async () => await addTokens(options))
      for (const [headers, status, code] of [
        [await cookiesOf(t, app, 'admin'), 400, 'INVALID'], [
          await cookiesOf(t, app, 'viewer'), 403, 'NOT_ALLOWED'
        ], [{}, 401, 'UNAUTHORIZED'], [{ cookie: 'session=x; sessionId=x' }, 401, 'UNAUTHORIZED']
      ] as const) {
        const answer = await app.inject({
          method: 'POST',
          url: '/api/tokens',
          headers: { ...headers, 'content-type': 'application/json' },
          payload: '{"name":'
        })
        t.match([answer.statusCode, answer.json()], [status, { code }])
      }
    })

    t.test(`${what}, ${order}: a 401 has data.session, on the plugin's routes and on the host's`, async t => {
      const { app, addTokens } = await createBareHost(t)
      await inOrder(order, async () => await addSessions(app), async () => await addTokens(options))
      app.get('/', async request => who(request))
      for (const [headers, session] of [[await cookiesOf(t, app, 'viewer'), true], [{}, false]] as const) {
        for (const url of ['/', '/api/tokens', '/nothing']) {
          for (const request of [
            { headers: { ...headers, ...bearer(FORGED) } }, { headers, query: { token: FORGED } }
          ]) {
            const answer = await app.inject({ url, ...request })
            t.strictSame([answer.statusCode, answer.json()], [
              401, { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session } }
            ])
          }
        }
      }
      t.strictSame((await app.inject({ url: '/api/tokens' })).json(), {
        code: 'UNAUTHORIZED', message: 'Log in, or present a token', data: { session: false }
      })
    })
  }
}

t.test('@fastify/passport: isAuthenticated() accepts a token, and a token beside a session is the user', async t => {
  for (const order of ORDERS) {
    const { app, addTokens, issue } = await createBareHost(t)
    const { addSessions } = HOSTS['@fastify/passport on @fastify/secure-session'] as Host
    await inOrder(order, async () => await addSessions(app), async () => await addTokens())
    const cookies = await cookiesOf(t, app, 'admin')
    const { token } = await issue()
    t.strictSame((await app.inject({ url: '/guarded', headers: cookies })).json(), {
      user: { username: 'admin', roles: ['admin'] }, token: null
    })
    for (const headers of [{}, cookies]) {
      t.strictSame((await app.inject({ url: '/guarded', headers: { ...headers, ...bearer(token) } })).json(), {
        user: { username: 'token:t1', roles: ['viewer'] }, token: 't1'
      })
    }
    t.equal((await app.inject({ url: '/guarded' })).statusCode, 401)
  }
})

t.test("with hook: onRequest, a session that is restored later does not replace the token's user", async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await (HOSTS['@fastify/passport on @fastify/secure-session'] as Host).addSessions(app)
  await addTokens({ hook: 'onRequest' })
  const headers = { ...await cookiesOf(t, app, 'admin'), ...bearer((await issue()).token) }
  t.equal((await app.inject({ url: '/api/tokens', headers })).statusCode, 403)
  t.strictSame((await app.inject({ url: '/guarded', headers })).json(), {
    user: { username: 'token:t1', roles: ['viewer'] }, token: 't1'
  })
})
