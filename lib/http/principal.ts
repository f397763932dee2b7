import type { FastifyRequest } from 'fastify'
import { HostError } from '../errors.js'
import type { CachedToken } from '../tokens/cache.js'
import { toPrincipal } from './authorize.js'
import { type RequestState, stateOf } from './request-state.js'

/** Makes the token's principal `request.user`, instead of any user of the host. */
export function becomePrincipal (request: FastifyRequest, { token }: CachedToken): void {
  const state = stateOf(request) as RequestState
  const before = userOf(request)
  try {
    setUser(request, toPrincipal(token))
  } catch (cause) {
    throw new HostError('request.user has a getter and no setter, so a token can not become the user: ' +
      'decorate it with null, or add a setter', { cause })
  }
  state.users ??= { before, after: userOf(request) }
}

/** Restores the previous `request.user`, unless a session has replaced the token's principal since. */
export function withdrawPrincipal (request: FastifyRequest): void {
  const state = stateOf(request) as RequestState
  const { users } = state
  if (userOf(request) === users?.after) setUser(request, users?.before)
  request.applicationToken = null
  state.accepted = null
}

function userOf (request: FastifyRequest): unknown {
  return (request as { user?: unknown }).user
}

function setUser (request: FastifyRequest, user: unknown): void {
  (request as { user?: unknown }).user = user
}
