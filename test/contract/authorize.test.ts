import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { challenge, createRequireRole, requireAdmin as requireAdminOrToken, type Session, toPrincipal } from '../../lib/http/authorize.js'
import type { Log, Token, TokenPrincipal } from '../../lib/types.js'

const token = (role: string): Token => ({ name: 'a', hash: '', validUntil: '', role, requestedBy: '', issueDate: '', lastUsed: '' })
const requireAdmin = async (asked: FastifyRequest, session: Session) => await requireAdminOrToken(asked, session, true)
const log = { warn () {} } as unknown as Log
const user = (...roles: string[]): TokenPrincipal => ({ username: 'me', roles })

interface Asked { method?: string, site?: string, token?: Token | null }

function request ({ method = 'GET', site, token = null }: Asked = {}): FastifyRequest {
  return { method, headers: { 'sec-fetch-site': site }, applicationToken: token } as unknown as FastifyRequest
}

t.test('an admin is who has that role, among others too; a token counts alone', async t => {
  t.strictSame(await requireAdmin(request(), () => user('viewer', 'admin')), user('viewer', 'admin'))
  t.strictSame(await requireAdmin(request({ token: token('admin') }), () => user('viewer')), { username: 'token:a', roles: ['admin'] })
  await t.rejects(requireAdmin(request(), () => null), { code: 'UNAUTHORIZED' })
  for (const [asked, session] of [[{}, user('viewer', 'editor')], [{}, user()], [{ token: token('viewer') }, user('admin')]] as const) {
    await t.rejects(requireAdmin(request(asked), () => session), { code: 'NOT_ALLOWED', message: 'Only an admin may manage tokens' })
  }
  await t.rejects(requireAdmin({ ...request(), applicationToken: undefined } as unknown as FastifyRequest, () => null), { code: 'UNAUTHORIZED' })
})

t.test('where tokens must not manage tokens none does, an admin with a session does', async t => {
  for (const role of ['admin', 'viewer']) {
    await t.rejects(requireAdminOrToken(request({ token: token(role) }), () => user('admin'), false), { code: 'NOT_ALLOWED', message: 'Tokens must not manage tokens here: log in' })
  }
  t.strictSame(await requireAdminOrToken(request(), () => user('admin'), false), user('admin'))
})

t.test('a page of another site can not act with a session, and can look; a token nobody sends along unasked', async t => {
  for (const [method, site, isAllowed] of [['POST', 'cross-site', false], ['DELETE', 'cross-site', false], ['GET', 'cross-site', true], ['HEAD', 'cross-site', true],
    ['POST', 'same-site', true], ['POST', 'same-origin', true], ['POST', 'none', true], ['DELETE', undefined, true]] as const) {
    const asking = requireAdmin(request({ method, ...site !== undefined && { site } }), () => user('admin'))
    if (isAllowed) t.match(await asking, user('admin'), `${method} ${site}`)
    else await t.rejects(asking, { code: 'NOT_ALLOWED', message: 'A page of another site must not manage tokens' })
  }
  t.match(await requireAdmin(request({ method: 'POST', site: 'cross-site', token: token('admin') }), () => null), toPrincipal(token('admin')))
})

t.test('requireRole lets in who has one of the roles, or is an admin, and says to others what it takes', async t => {
  const guard = (session: TokenPrincipal | null, ...roles: string[]) => async (asked: Asked = {}) => { await createRequireRole({ session: () => session, realm: 'here', roles: [], log })(...roles)(request(asked)) }
  for (const session of [user('editor'), user('viewer', 'editor'), user('editor', 'viewer'), user('admin')]) await t.resolves(guard(session, 'editor', 'other')())
  await t.resolves(guard(null, 'editor')({ token: token('editor') }))
  const refusal = async (asking: Promise<void>): Promise<unknown> => await asking.then(() => null, (error: Error) => {
    const { name, message, ...others } = error
    return { ...others, message }
  })
  t.strictSame(await refusal(guard(null, 'editor')()), {
    code: 'UNAUTHORIZED', statusCode: 401, message: 'Log in, or present a token', headers: { 'www-authenticate': 'Bearer realm="here"' }, data: { session: false }
  })
  for (const session of [user('viewer'), user()]) {
    t.strictSame(await refusal(guard(session, 'editor', 'other')()), { code: 'NOT_ALLOWED', statusCode: 403, message: 'This takes the role admin or editor or other', headers: {} })
  }
  t.strictSame(await refusal(guard(user('admin'), 'admin')({ token: token('viewer') })), {
    code: 'NOT_ALLOWED', statusCode: 403, message: 'This takes the role admin', headers: { 'www-authenticate': 'Bearer realm="here", error="insufficient_scope"' }
  })
})

t.test('a 401 carries a challenge, a 403 to a token too', async t => {
  t.strictSame([[401, false], [401, true], [403, false], [403, true], [404, true], [200, false]].map(([code, isToken]) => challenge(code as number, isToken as boolean, 'r')), [
    { 'www-authenticate': 'Bearer realm="r"' },
    { 'www-authenticate': 'Bearer realm="r", error="invalid_token"' },
    {},
    { 'www-authenticate': 'Bearer realm="r", error="insufficient_scope"' },
    {},
    {}
  ])
})
