import auth from '@fastify/auth'
import type { FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { TokensPluginOptions } from '../../lib/index.js'
import { type BareHost, createBareHost, inOrder, ORDERS, who } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'

/** The session of this host is a header: `x-session: editor` is a user of this name and role. */
function restoreSession (request: FastifyRequest): void {
  const role = request.headers['x-session']
  if (role !== undefined) (request as { user?: unknown }).user = { username: String(role), roles: [role] }
}

async function createAuthHost (
  t: Test, order: typeof ORDERS[number] = 'before the plugin', options: Partial<TokensPluginOptions> = {}
): Promise<BareHost> {
  const host = await createBareHost(t)
  const { app, addTokens } = host
  await inOrder(order, async () => { await app.register(auth) }, async () => await addTokens(options))
  app.addHook(options.hook === 'onRequest' ? 'onRequest' : 'preValidation', async request => {
    if (!request.applicationToken) restoreSession(request)
  })
  return host
}

/** A guard of the host's own. */
async function hasKey (request: FastifyRequest): Promise<void> {
  if (request.headers['x-key'] !== 'right') {
    throw Object.assign(new Error('no key'), {
      statusCode: 418, code: 'NO_KEY'
    })
  }
}

const KEY = { 'x-key': 'right' }
const NOBODY = [401, 'UNAUTHORIZED', 'Bearer realm="cedalo"']

t.test('requireRole as a preHandler accepts any of the roles and every admin, by session and by token; it is 401 without a user and 403 for others', async t => {
  for (const hook of ['preHandler', 'onRequest'] as const) {
    const { app, issue } = await createAuthHost(t, 'before the plugin', { hook })
    app.get('/none', { [hook]: app.tokens.requireRole('admin') }, async request => who(request))
    app.get('/editor', { [hook]: app.tokens.requireRole('editor') }, async request => who(request))
    app.get('/some', { [hook]: [app.tokens.requireRole('viewer', 'editor')] }, async request => who(request))
    const may: Record<string, string[]> = {
      admin: ['/none', '/editor', '/some'], editor: ['/editor', '/some'], viewer: ['/some'], monitoringViewer: []
    }
    for (const [role, urls] of Object.entries(may)) {
      const { token, name } = await issue({ role })
      for (const url of ['/none', '/editor', '/some']) {
        for (const [request, challenge] of [
          [{ headers: { 'x-session': role } }, undefined],
          [{ headers: bearer(token) }, 'Bearer realm="cedalo", error="insufficient_scope"'],
          [{ query: { token } }, 'Bearer realm="cedalo", error="insufficient_scope"']
        ] as const) {
          const answer = await app.inject({ url, ...request })
          if (urls.includes(url)) {
            t.match([answer.statusCode, answer.json()], [
              200, { user: { username: challenge === undefined ? role : `token:${name}`, roles: [role] } }
            ])
          } else {
            t.strictSame(
              [answer.statusCode, answer.json<{ code: string }>().code, answer.headers['www-authenticate']],
              [403, 'NOT_ALLOWED', challenge],
            `${role} ${url}`
            )
          }
        }
      }
    }
    for (const url of ['/none', '/editor', '/some']) {
      const answer = await app.inject({ url, headers: bearer('opaque') })
      t.strictSame(
        [answer.statusCode, answer.json<{ code: string }>().code, answer.headers['www-authenticate']], NOBODY
      )
    }
    const both = await app.inject({
      url: '/editor', headers: { 'x-session': 'admin', ...bearer((await issue()).token) }
    })
    t.equal(both.statusCode, 403, 'the token alone counts')
  }
})

for (const order of ORDERS) {
  t.test(`@fastify/auth ${order}: requireRole works in 'or' and 'and', in nested lists, and with run: 'all'`, async t => {
    const { app, issue } = await createAuthHost(t, order)
    const guard = app.tokens.requireRole('editor')
    app.get('/or', { preHandler: app.auth([guard, hasKey]) }, async request => who(request))
    app.get('/or-all', { preHandler: app.auth([hasKey, guard], { run: 'all' }) }, async request => who(request))
    app.get('/and', { preHandler: app.auth([guard, hasKey], { relation: 'and' }) }, async request => who(request))
    app.get('/and-first', { preHandler: app.auth([hasKey, guard], { relation: 'and' }) }, async request => who(request))
    app.get(
      '/list',
      { preHandler: app.auth([[guard, hasKey], [app.tokens.requireRole('admin')]]) },
      async request => who(request)
    )
    const [admin, editor, viewer] = await Promise.all(['admin', 'editor', 'viewer'].map(async role =>
      bearer((await issue({ role })).token)))
    const expected: Record<string, Array<[headers: object | undefined, statusCode: number]>> = {
      '/or': [
        [admin, 200], [editor, 200], [viewer, 418], [{}, 418], [KEY, 200], [{ ...viewer, ...KEY }, 200],
        [{ 'x-session': 'editor' }, 200], [{ 'x-session': 'viewer' }, 418]
      ],
      '/or-all': [[editor, 200], [KEY, 200], [{ ...viewer, ...KEY }, 200], [viewer, 403], [{}, 401], [
        { 'x-session': 'viewer' }, 403
      ]],
      '/and': [
        [editor, 418], [{ ...editor, ...KEY }, 200], [{ ...admin, ...KEY }, 200], [{ ...viewer, ...KEY }, 403],
        [KEY, 401], [{}, 401], [{ 'x-session': 'editor', ...KEY }, 200]
      ],
      '/and-first': [[editor, 418], [{ ...editor, ...KEY }, 200], [{ ...viewer, ...KEY }, 403], [KEY, 401], [{}, 418]],
      '/list': [[admin, 200], [editor, 403], [{ ...editor, ...KEY }, 200], [{ ...viewer, ...KEY }, 403], [KEY, 401]]
    }
    for (const [url, cases] of Object.entries(expected)) {
      for (const [headers = {}, statusCode] of cases) {
        const answer = await app.inject({ url, headers: { ...headers } })
        t.equal(answer.statusCode, statusCode, `${url} ${JSON.stringify(headers)}`)
        if (statusCode === 401) {
          t.strictSame(
            [401, answer.json<{ code: string }>().code, answer.headers['www-authenticate']], NOBODY
          )
        }
        if (statusCode === 403) t.equal(answer.json<{ code: string }>().code, 'NOT_ALLOWED')
      }
    }
  })
}

t.test("the host's error handler gets what requireRole throws: statusCode, code, message, data and headers", async t => {
  const { app, issue } = await createAuthHost(t)
  app.setErrorHandler(async (error: {
    statusCode: number, code: string, message: string, data?: unknown, headers?: object
  }, _request, reply) => {
    const { statusCode, code, message, data, headers } = error
    return await reply.code(statusCode).send({ host: { code, message, data, headers } })
  })
  app.get('/', { preHandler: app.tokens.requireRole('editor', 'viewer') }, async () => 'in')
  t.strictSame((await app.inject({ url: '/' })).json(), {
    host: {
      code: 'UNAUTHORIZED',
      message: 'Log in, or present a token',
      data: { session: false },
      headers: { 'www-authenticate': 'Bearer realm="cedalo"' }
    }
  })
  const { token } = await issue({ role: 'connectionManager' })
  t.strictSame((await app.inject({ url: '/', headers: bearer(token) })).json(), {
    host: {
      code: 'NOT_ALLOWED',
      message: 'Requires one of these roles: admin, editor, viewer',
      headers: { 'www-authenticate': 'Bearer realm="cedalo", error="insufficient_scope"' }
    }
  })
})

t.test('requireRole still checks sessions while the plugin is disabled', async t => {
  const { app, issue } = await createAuthHost(t)
  app.get('/', { preHandler: app.tokens.requireRole('editor') }, async request => who(request))
  const { token } = await issue({ role: 'admin' })
  await app.tokens.disable()
  t.equal((await app.inject({ url: '/', headers: bearer(token) })).statusCode, 401)
  t.equal((await app.inject({ url: '/', headers: { ...bearer(token), 'x-session': 'editor' } })).statusCode, 200)
  t.equal((await app.inject({ url: '/', headers: { 'x-session': 'viewer' } })).statusCode, 403)
})
