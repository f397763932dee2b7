import swagger from '@fastify/swagger'
import Fastify from 'fastify'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { security, securitySchemes } from '../../schemas/index.js'
import { SECRET } from './build-host.js'

/** What @fastify/swagger generates for the plugin in a host that has nothing else, as docs/openapi.json holds it. */
export async function createOpenapi (
  openapi: '3.0.3' | '3.1.0' = '3.1.0', options: Partial<TokensPluginOptions> = {}
): Promise<object> {
  const app = Fastify()
  await app.register(swagger, {
    openapi: {
      openapi,
      info: {
        title: 'Application tokens of the MMC',
        version: '1',
        license: { name: 'MIT', url: 'https://opensource.org/license/mit' }
      },
      servers: [{ url: 'http://localhost:8088', description: 'The demo host' }],
      tags: [{ name: 'tokens', description: 'Application tokens' }],
      components: { securitySchemes },
      security
    }
  })
  // Switched off, it needs no Postgres.
  await app.register(tokensPlugin, {
    postgres: 'postgres://localhost/none', secret: SECRET, enabled: false, ...options
  })
  await app.ready()
  const document = app.swagger()
  await app.close()
  return document
}
