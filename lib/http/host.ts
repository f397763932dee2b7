import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { HostError } from '../errors.js'
import { presentsToken, stateOf } from './request-state.js'

/**
 * Checks that the plugin can do its work in this host.
 * @throws HostError, which says how to register it instead
 */
export function checkHost (app: FastifyInstance): void {
  // Only the root has a server of its own; a child inherits it.
  if (!Object.hasOwn(app, 'server')) {
    throw new HostError('fastify-mmc-tokens is registered in a child of the host, where its hook would miss all other routes: register it at the root, with the option "prefix" for a base path. fastify-cli makes the application such a child: export fp(app), of fastify-plugin, or start it with -o and skipOverride: true in its options')
  }
  if (app.hasDecorator('tokens')) {
    throw new HostError('app.tokens is there already: register fastify-mmc-tokens once, and have no decorator "tokens" of your own')
  }
}

/** Why the four routes could not be added, as far as the host has one of them. */
export function explainRoutes (cause: unknown, prefix: string): unknown {
  if ((cause as { code?: string }).code !== 'FST_ERR_DUPLICATED_ROUTE') return cause
  return new HostError(`the host has a route of its own at ${prefix}/api/tokens, or below: remove it, or move ours with the option "prefix"`, { cause })
}

/** What guards answer, a redirect to the login page included. 301 and 308 lead to `https:` or a slash, with or without the token. */
const GUARD_STATUSES = new Set([401, 403, 302, 303, 307])

/**
 * Warns once when a guard of the host answers before the token of a request is judged, which its response does not show.
 * @param find looks for a credential, which a guard may have kept the plugin from
 */
export function createGuardCheck (hook: string, find: (request: FastifyRequest) => void): (request: FastifyRequest, reply: FastifyReply) => void {
  let isDone = false
  return (request, reply) => {
    if (isDone || !GUARD_STATUSES.has(reply.statusCode)) return
    if (!presentsToken(request)) find(request)
    if (!presentsToken(request) || stateOf(request)?.isJudged) return
    isDone = true
    request.log.warn(`a guard answered ${reply.statusCode} before the token of the request was checked in the hook "${hook}": register fastify-mmc-tokens with await before guards are added at the root, and set the option "hook" to "onRequest" for guards that run before preHandler`)
  }
}
