import type { FastifyInstance } from 'fastify'
import { HostError } from '../errors.js'

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
  if (isReadOnly(app, 'user')) {
    throw new HostError('request.user is a decorator with a getter alone, so that a token can not become the user: decorate it with null and assign it, or add a setter')
  }
}

/** Why the four routes could not be added, as far as the host has one of them. */
export function explainRoutes (cause: unknown, prefix: string): unknown {
  if ((cause as { code?: string }).code !== 'FST_ERR_DUPLICATED_ROUTE') return cause
  return new HostError(`the host has a route of its own at ${prefix}/api/tokens, or below: remove it, or move ours with the option "prefix"`, { cause })
}

/** Whether a property of requests can't be assigned. Fastify has no public way to ask. */
function isReadOnly (app: FastifyInstance, property: string): boolean {
  const symbol = Object.getOwnPropertySymbols(app).find(({ description }) => description === 'fastify.Request')
  const constructor = symbol && (app as unknown as Record<symbol, { prototype: object } | undefined>)[symbol]
  const descriptor = constructor && Object.getOwnPropertyDescriptor(constructor.prototype, property)
  return descriptor?.get !== undefined && descriptor.set === undefined
}
