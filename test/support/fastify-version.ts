import Fastify, * as fastify from 'fastify'

const [, minor = 0] = Fastify().version.split('.').map(Number)

/** Options of the router, where this Fastify looks for them: 5.5 gave them a place of their own. */
export function routing (
  options: NonNullable<fastify.FastifyServerOptions['routerOptions']>
): fastify.FastifyServerOptions {
  return minor < 5 ? options as fastify.FastifyServerOptions : { routerOptions: options }
}

/** No lines of its own about requests, said as this Fastify wants it: later ones deprecate `disableRequestLogging`. */
export function withoutRequestLog (): fastify.FastifyServerOptions {
  return 'LogController' in fastify
    ? { logController: new fastify.LogController({ disableRequestLogging: true }) }
    : { disableRequestLogging: true }
}
