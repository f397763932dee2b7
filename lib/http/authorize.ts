import type { FastifyRequest } from 'fastify'
import { NotAllowedError, UnauthorizedError } from '../errors.js'
import type { Guard, Token, TokenPrincipal, TokensPluginOptions } from '../types.js'

type User = TokenPrincipal | null | undefined

/** The user who is logged in with the host's session, or `null`; without a promise where the host answers without one. */
export type Session = (request: FastifyRequest) => TokenPrincipal | null | Promise<TokenPrincipal | null>

/** @param ask the host's own way to know; what it answers is checked, since it decides who is an admin */
export function createSession (ask: NonNullable<TokensPluginOptions['session']> = hostUser): Session {
  return request => {
    const user = ask(request)
    return isThenable(user) ? Promise.resolve(user).then(check) : check(user)
  }
}

function hostUser (request: FastifyRequest): User {
  return (request as { user?: TokenPrincipal | null }).user
}

function isThenable (user: User | Promise<User>): user is Promise<User> {
  return typeof (user as Partial<Promise<User>> | null | undefined)?.then === 'function'
}

function check (user: User): TokenPrincipal | null {
  return isPrincipal(user) ? user : null
}

function isPrincipal (user: unknown): user is TokenPrincipal {
  const { username, roles } = (user ?? {}) as Partial<TokenPrincipal>
  return typeof username === 'string' && username !== '' && Array.isArray(roles)
}

/** Who acts with this token. A token that is named after a person is never taken for that person. */
export function toPrincipal (token: Token): TokenPrincipal {
  return { username: `token:${token.name}`, roles: [token.role] }
}

// In a child of the host that was there before us it is undefined until our hook runs.
function hasToken (request: FastifyRequest): request is FastifyRequest & { applicationToken: Token } {
  return Boolean(request.applicationToken)
}

/** The token that the request was made with alone, where there is one, else the session. */
async function principalOf (request: FastifyRequest, session: Session): Promise<TokenPrincipal | null> {
  return hasToken(request) ? toPrincipal(request.applicationToken) : await session(request)
}

/**
 * The header of every 401, and of a 403 to a token (RFC 6750 §3).
 * @param isToken whether the request presents a credential of ours
 */
export function challenge (statusCode: number, isToken: boolean, realm: string): { 'www-authenticate'?: string } {
  if (statusCode === 401) return { 'www-authenticate': `Bearer realm="${realm}"${isToken ? ', error="invalid_token"' : ''}` }
  if (statusCode === 403 && isToken) return { 'www-authenticate': `Bearer realm="${realm}", error="insufficient_scope"` }
  return {}
}

/** Makes guards of the host's own routes. What they throw has all that an error handler needs, Fastify's included. */
export function createRequireRole (session: Session, realm: string): (...roles: string[]) => Guard {
  return (...roles) => async request => {
    const principal = await principalOf(request, session)
    if (principal?.roles.some(role => role === 'admin' || roles.includes(role)) === true) return
    const error = principal === null ? new UnauthorizedError() : new NotAllowedError(`This takes the role ${['admin', ...roles].join(' or ')}`)
    throw Object.assign(error, { headers: challenge(error.statusCode, hasToken(request), realm) }, principal === null && { data: { session: false } })
  }
}

/**
 * The admin who makes this request.
 * @param mayBeToken whether a token will do
 * @throws UnauthorizedError, NotAllowedError
 */
export async function requireAdmin (request: FastifyRequest, session: Session, mayBeToken: boolean): Promise<TokenPrincipal> {
  const principal = await principalOf(request, session)
  if (principal === null) throw new UnauthorizedError()
  if (!mayBeToken && hasToken(request)) throw new NotAllowedError('Tokens must not manage tokens here: log in')
  if (!principal.roles.includes('admin')) throw new NotAllowedError('Only an admin may manage tokens')
  // A browser sends a session's cookie along whoever made it ask, and says so (Fetch Metadata). Nobody makes it send a token.
  if (!hasToken(request) && request.method !== 'GET' && request.method !== 'HEAD' && request.headers['sec-fetch-site'] === 'cross-site') {
    throw new NotAllowedError('A page of another site must not manage tokens')
  }
  return principal
}
