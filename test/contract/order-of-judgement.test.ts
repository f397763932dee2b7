import { createHmac } from 'node:crypto'
import type { InjectOptions } from 'fastify'
import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'

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

t.test('disabled → two credentials → not authenticated → not an admin → version → body → operation, on every route', async t => {
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
  const code: Record<number, string> = { 400: 'INVALID', 401: 'UNAUTHORIZED', 403: 'NOT_ALLOWED', 404: 'NOT_FOUND', 406: 'NOT_ACCEPTABLE', 409: 'CONFLICT', 415: 'INVALID' }

  for (const isEnabled of [false, true]) {
    await (isEnabled ? app.tokens.enable() : app.tokens.disable())
    for (const [name, headers, refused, query] of who) {
      for (const accept of [undefined, VERSION_99]) {
        const expect = async (request: InjectOptions, otherwise: number, what: string): Promise<void> => {
          const answer = await app.inject({ ...request, query: { ...query }, headers: { ...request.headers, ...headers, ...accept } })
          const status = isEnabled ? refused ?? (accept === undefined ? otherwise : 406) : 404
          t.equal(answer.statusCode, status, `${name}, ${isEnabled ? 'enabled' : 'disabled'}, ${accept?.accept ?? 'any version'}: ${what}`)
          if (status !== 200) t.equal(answer.json<{ code: string }>().code, code[status])
          if (status === 200 && what === 'POST good') await app.tokens.revoke(answer.json<{ hash: string }>().hash)
        }
        await expect({ url: '/api/tokens' }, 200, 'GET list')
        await expect({ url: `/api/tokens/${hash}` }, 200, 'GET one')
        await expect({ url: '/api/tokens/unknown' }, 404, 'GET unknown')
        await expect({ method: 'DELETE', url: '/api/tokens/unknown' }, 200, 'DELETE')
        for (const [which, status] of Object.entries(body)) {
          await expect({ method: 'POST', url: '/api/tokens', ...bodies[which as keyof typeof bodies] }, status, `POST ${which}`)
        }
      }
    }
  }
})
