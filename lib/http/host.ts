import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { HostError } from '../errors.js'
import { presentsToken, stateOf } from './request-state.js'

/**
 * Checks that the plugin can work in this host.
 * @throws HostError, which says how to register it instead
 */
export function checkHost (app: FastifyInstance): void {
  // Only the root has a server of its own; a child inherits it.
  if (!Object.hasOwn(app, 'server')) {
    throw new HostError('fastify-mmc-tokens is registered in a child of the host, where its hooks miss other routes: ' +
      'register it at the root, with the option "prefix" for a base path. fastify-cli makes the application a child: ' +
      'export fp(app), of fastify-plugin, or start it with -o and skipOverride: true in its options')
  }
  if (app.hasDecorator('tokens')) {
    throw new HostError('app.tokens exists already: register fastify-mmc-tokens once, and add no decorator "tokens"')
  }
}

/** Explains Fastify's error if the host already has one of the four routes. */
export function explainRoutes (cause: unknown, prefix: string): unknown {
  if ((cause as { code?: string }).code !== 'FST_ERR_DUPLICATED_ROUTE') return cause
  return new HostError(`the host already has a route at or below ${prefix}/api/tokens: ` +
    'remove it, or move those of the plugin with the option "prefix"', { cause })
}

/** Statuses of guards and of redirects to a login page. Not 301 and 308, which add `https:` or a slash. */
const GUARD_STATUSES = new Set([401, 403, 302, 303, 307])

/**
 * Warns once when a guard of the host answers before the token of a request is checked, which its response does not
 * show.
 * @param find finds the credential of a request that never reached the plugin's hook
 */
export function createGuardCheck (
  hook: string, find: (request: FastifyRequest) => void
): (request: FastifyRequest, reply: FastifyReply) => void {
  let isDone = false
  return (request, reply) => {
    if (isDone || !GUARD_STATUSES.has(reply.statusCode) || stateOf(request)?.isDisabled) return
    if (!presentsToken(request)) find(request)
    if (!presentsToken(request) || stateOf(request)?.judged) return
    isDone = true
    request.log.warn(`a guard answered ${reply.statusCode} before the token of the request was checked ` +
      `in the hook "${hook}": ` +
      'register fastify-mmc-tokens with await before guards are added at the root, ' +
      'and set the option "hook" to "onRequest" for guards that run before preHandler')
  }
}
