import type { FastifyRequest } from 'fastify'
import { NotAllowedError, UnauthorizedError } from '../errors.js'
import type { Token, TokenPrincipal, TokensPluginOptions } from '../types.js'

/** The user who is logged in with the host's session, or `null`. */
export type Session = (request: FastifyRequest) => Promise<TokenPrincipal | null>

/** @param ask the host's own way to know; what it answers is checked, since it decides who is an admin */
export function createSession (ask: NonNullable<TokensPluginOptions['session']> = hostUser): Session {
  return async request => {
    const user = await ask(request)
    return isPrincipal(user) ? user : null
  }
}

function hostUser (request: FastifyRequest): TokenPrincipal | null | undefined {
  return (request as { user?: TokenPrincipal | null }).user
}

function isPrincipal (user: unknown): user is TokenPrincipal {
  const { username, roles } = (user ?? {}) as Partial<TokenPrincipal>
  return typeof username === 'string' && username !== '' && Array.isArray(roles)
}

/** Who acts with this token. A token that is named after a person is never taken for that person. */
export function toPrincipal (token: Token): TokenPrincipal {
  return { username: `token:${token.name}`, roles: [token.role] }
}

/**
 * The admin who makes this request: its token alone where it has one, else the session.
 * @throws UnauthorizedError, NotAllowedError
 */
export async function requireAdmin (request: FastifyRequest, session: Session): Promise<TokenPrincipal> {
  const token = request.applicationToken
  const principal = token === null ? await session(request) : toPrincipal(token)
  if (principal === null) throw new UnauthorizedError()
  if (!principal.roles.includes('admin')) throw new NotAllowedError('Only an admin may manage tokens')
  // A browser sends a session's cookie along whoever made it ask, and says so (Fetch Metadata). Nobody makes it send a token.
  if (token === null && request.method !== 'GET' && request.method !== 'HEAD' && request.headers['sec-fetch-site'] === 'cross-site') {
    throw new NotAllowedError('A page of another site must not manage tokens')
  }
  return principal
}
