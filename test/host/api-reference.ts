import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import { security, securitySchemes } from '../../schemas/index.js'

/** A page that describes the four routes, and tries them out. Comes before the routes that it describes. */
export async function addApiReference (app: FastifyInstance, basePath: string): Promise<void> {
  await app.register(swagger, {
    hideUntagged: true,
    openapi: {
      info: {
        title: 'Application tokens',
        version: '1',
        description: `What [the page of tokens](${basePath}/) speaks: the routes of fastify-mmc-tokens, for admins. Who is logged in there can try them out here.`
      },
      servers: [{ url: basePath || '/' }],
      components: { securitySchemes: { session: { type: 'apiKey', in: 'cookie', name: 'mmc' }, ...securitySchemes } },
      security: [{ session: [] }, ...security]
    }
  })
  await app.register(swaggerUi, {
    routePrefix: `${basePath}/api-docs`,
    logLevel: 'warn',
    theme: {
      title: 'API reference · MMC demo host',
      js: [{ filename: 'dark.js', content: "document.documentElement.classList.toggle('dark-mode', matchMedia('(prefers-color-scheme: dark)').matches)" }]
    },
    uiConfig: { layout: 'BaseLayout' },
    staticCSP: true,
    transformStaticCSP: () => "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
      "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
  })
}
