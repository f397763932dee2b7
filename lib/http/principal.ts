import type { FastifyRequest } from 'fastify'
import { HostError } from '../errors.js'
import type { CachedToken } from '../tokens/cache.js'
import { hostUser, toPrincipal } from './authorize.js'
import { type RequestState, stateOf } from './request-state.js'

interface WithUser { user?: unknown }

/** Makes the token's principal `request.user`, instead of any user of the host. */
export function becomePrincipal (request: FastifyRequest, { token }: CachedToken): void {
  const state = stateOf(request) as RequestState
  const before = hostUser(request)
  try {
    (request as WithUser).user = toPrincipal(token)
  } catch (cause) {
    throw new HostError("request.user has a getter and no setter, so a token can't become the user: " +
      'decorate it with null, or add a setter', { cause })
  }
  state.users ??= { before, after: hostUser(request) }
}

/** Restores the previous `request.user`, unless a session has replaced the token's principal since. */
export function withdrawPrincipal (request: FastifyRequest): void {
  const state = stateOf(request) as RequestState
  const { users } = state
  if (hostUser(request) === users?.after) (request as WithUser).user = users?.before
  request.applicationToken = null
  state.accepted = null
}
