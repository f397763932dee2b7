import type { FastifyRequest } from 'fastify'
import { GuardError, NotAllowedError, UnauthorizedError } from '../errors.js'
import { isActor } from '../tokens/new-token.js'
import { challenge } from './send-error.js'
import type { ApplicationTokens, Log, Token, TokenPrincipal, TokensPluginOptions } from '../types.js'

type User = TokenPrincipal | null | undefined

/** The user who is logged in with the host's session, or `null`; without a promise where the host answers without one. */
export type Session = (request: FastifyRequest) => TokenPrincipal | null | Promise<TokenPrincipal | null>

/** @param ask the host's own way to know; what it answers is checked, since it decides who is an admin */
export function createSession (ask: NonNullable<TokensPluginOptions['session']> = hostUser, log: Log): Session {
  let isWarned = false

  function check (user: User): TokenPrincipal | null {
    if (isPrincipal(user)) return user
    if (user && !isWarned) {
      isWarned = true
      const source = ask === hostUser ? 'request.user (set the option "session")' : 'what the option "session" answers'
      log.warn(`no user, so nobody is logged in: ${source} must be { username, roles }, such as { username: "me", roles: ["admin"] }, or null`)
    }
    return null
  }

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

function isPrincipal (user: unknown): user is TokenPrincipal {
  const { username, roles } = (user ?? {}) as Partial<TokenPrincipal>
  return isActor(username) && Array.isArray(roles)
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

interface GuardParts {
  session: Session
  /** The issuer. */
  realm: string
  /** Those that a token can have. */
  roles: readonly string[]
  log: Log
}

/** Roles that are warned of: a guard may be made for each request. */
const MAX_WARNED = 100

/** Makes guards of the host's own routes. What they throw has all that an error handler needs, Fastify's included. */
export function createRequireRole ({ session, realm, roles: known, log }: GuardParts): ApplicationTokens['requireRole'] {
  const warned = new Set(known)

  return (...given) => {
    const roles = [...new Set(given.flat())]
    // Fastify calls with a request what it is handed in place of a guard.
    if (roles.length === 0 || !roles.every(role => typeof role === 'string' && role !== '')) {
      throw new GuardError('requireRole must be called with one role or more, each a string that is not empty, and what it returns is the guard: preHandler: app.tokens.requireRole("editor")')
    }
    for (const role of roles) {
      if (warned.has(role) || warned.size >= known.length + MAX_WARNED) continue
      warned.add(role)
      log.warn(`requireRole("${role}"): a token can't have this role, only ${known.join(', ')}: correct it, unless people have it`)
    }
    const needed = [...new Set(['admin', ...roles])]
    return async request => {
      const principal = await principalOf(request, session)
      if (principal?.roles.some(role => needed.includes(role)) === true) return
      const error = principal === null ? new UnauthorizedError() : new NotAllowedError(`This takes the role ${needed.join(' or ')}`)
      throw Object.assign(error, { headers: challenge(error.statusCode, hasToken(request), realm) }, principal === null && { data: { session: false } })
    }
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
