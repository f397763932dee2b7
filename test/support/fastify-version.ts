import Fastify, { type FastifyServerOptions } from 'fastify'

const [, minor = 0] = Fastify().version.split('.').map(Number)

/** Options of the router, where this Fastify looks for them: 5.5 gave them a place of their own. */
export function routing (options: NonNullable<FastifyServerOptions['routerOptions']>): FastifyServerOptions {
  return minor < 5 ? options as FastifyServerOptions : { routerOptions: options }
}
