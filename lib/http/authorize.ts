import type { FastifyRequest } from 'fastify'
import { GuardError, NotAllowedError, UnauthorizedError } from '../errors.js'
import { isActor } from '../tokens/new-token.js'
import { createChallenge } from './send-error.js'
import type { ApplicationTokens, Log, Token, TokenPrincipal, TokensPluginOptions } from '../types.js'

type User = TokenPrincipal | null | undefined

/** The user of the host's session, or `null`; a promise only where the host returns one. */
export type Session = (request: FastifyRequest) => TokenPrincipal | null | Promise<TokenPrincipal | null>

/** @param ask the host's function; its result is checked, since it decides who is an admin */
export function createSession (ask: NonNullable<TokensPluginOptions['session']> = hostUser, log: Log): Session {
  let isWarned = false

  function check (user: User): TokenPrincipal | null {
    if (isPrincipal(user)) return user
    if (user && !isWarned) {
      isWarned = true
      const source = ask === hostUser ? 'request.user (set the option "session")' : 'the result of the option "session"'
      log.warn(`invalid user, treated as not logged in: ${source} must be null or { username, roles }, ` +
        'such as { username: "me", roles: ["admin"] }')
    }
    return null
  }

  return request => {
    const user = ask(request)
    return isThenable(user) ? Promise.resolve(user).then(check) : check(user)
  }
}

/** The user that the host has set, not yet checked. */
export function hostUser (request: FastifyRequest): User {
  return (request as { user?: TokenPrincipal | null }).user
}

function isThenable (user: User | Promise<User>): user is Promise<User> {
  return typeof (user as Partial<Promise<User>> | null | undefined)?.then === 'function'
}

function isPrincipal (user: unknown): user is TokenPrincipal {
  const { username, roles } = (user ?? {}) as Partial<TokenPrincipal>
  return isActor(username) && Array.isArray(roles)
}

/** The principal of a token. A token named after a person is never taken for that person. */
export function toPrincipal (token: Token): TokenPrincipal {
  return { username: `token:${token.name}`, roles: [token.role] }
}

// Requests of a child that was created before the plugin was registered lack the decorator.
function hasToken (request: FastifyRequest): request is FastifyRequest & { applicationToken: Token } {
  return Boolean(request.applicationToken)
}

/** The token's principal, if the request has a token; otherwise the session's. */
async function principalOf (request: FastifyRequest, session: Session): Promise<TokenPrincipal | null> {
  return hasToken(request) ? toPrincipal(request.applicationToken) : await session(request)
}

interface GuardParts {
  session: Session
  realm: string
  /** The roles that tokens can have. */
  roles: readonly string[]
  log: Log
}

/** The maximum number of warnings about roles: a host may create a guard for each request. */
const MAX_WARNED = 100

/** Makes guards for the host's routes. Their errors carry what any error handler needs, Fastify's included. */
export function createRequireRole (parts: GuardParts): ApplicationTokens['requireRole'] {
  const { session, realm, roles: known, log } = parts
  const warned = new Set(known)
  const challenge = createChallenge(realm)

  return (...given) => {
    const roles = [...new Set(given.flat())]
    // Fastify passes a request if `requireRole` itself is used as the guard.
    if (roles.length === 0 || !roles.every(role => typeof role === 'string' && role !== '')) {
      throw new GuardError('requireRole must be called with one or more roles, each a string, and returns the guard: ' +
        'preHandler: app.tokens.requireRole("editor")')
    }
    for (const role of roles) {
      if (warned.has(role) || warned.size >= known.length + MAX_WARNED) continue
      warned.add(role)
      log.warn(`requireRole("${role}"): tokens can't have this role, only ${known.join(', ')}; ` +
        'correct it, unless users have it')
    }
    const needed = [...new Set(['admin', ...roles])]
    return async given => {
      const request = given as FastifyRequest
      const principal = await principalOf(request, session)
      if (principal?.roles.some(role => needed.includes(role)) === true) return
      const missing = `Requires one of these roles: ${needed.join(', ')}`
      const error = principal === null ? new UnauthorizedError() : new NotAllowedError(missing)
      const headers = { ...challenge(error.statusCode, hasToken(request)) }
      throw Object.assign(error, { headers }, principal === null && { data: { session: false } })
    }
  }
}

/**
 * The admin who makes this request.
 * @param mayBeToken whether a token is accepted
 * @throws UnauthorizedError, NotAllowedError
 */
export async function requireAdmin (
  request: FastifyRequest, session: Session, mayBeToken: boolean
): Promise<TokenPrincipal> {
  const principal = await principalOf(request, session)
  if (principal === null) throw new UnauthorizedError()
  if (!mayBeToken && hasToken(request)) throw new NotAllowedError('Tokens may not manage tokens here: log in')
  if (!principal.roles.includes('admin')) throw new NotAllowedError('Only an admin may manage tokens')
  // A browser sends the session cookie with cross-site requests, and marks them (Fetch Metadata). It adds no token by
  // itself.
  const isCrossSite = request.headers['sec-fetch-site'] === 'cross-site'
  if (isCrossSite && !hasToken(request) && request.method !== 'GET' && request.method !== 'HEAD') {
    throw new NotAllowedError('Cross-site requests may not manage tokens')
  }
  return principal
}
