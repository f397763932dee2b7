import { readFile } from 'node:fs/promises'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'
import { security, securitySchemes } from '../../schemas/index.js'

// Of Swagger UI's own light colours these are too pale to be read by everybody (WCAG 1.4.3).
const CONTRAST = ([
  ['.info a, .info .url', 'color: #0060b0'],
  ['.info .title small.version-stamp', 'background: #4b7000'],
  ['.opblock.opblock-get .opblock-summary-method, .btn.execute', 'background: #1565c0; border-color: #1565c0'],
  ['.opblock.opblock-post .opblock-summary-method', 'background: #1a7a4a'],
  ['.opblock.opblock-delete .opblock-summary-method', 'background: #c62828'],
  ['.btn.authorize', 'color: #1a7a4a; border-color: #1a7a4a'],
  ['.btn.cancel', 'color: #c62828; border-color: #c62828'],
  ['.renderedMarkdown code', 'color: #6a0dbf'],
  ['.parameter__in', 'color: #555'],
  ['.response-control-media-type__accept-message', 'color: #005c00'],
  ['.download-contents', 'background: #555b6e']
] as const).map(([selectors, style]) =>
  `${selectors.split(', ').map(selector => `html:not(.dark-mode) .swagger-ui ${selector}`).join(', ')} { ${style} }`).join('\n')

// Swagger UI lets long texts scroll in boxes that no keyboard reaches (WCAG 2.1.1); how long a text is depends on the
// font. In full, wrapped.
const WHOLE = `
.swagger-ui .highlight-code > .microlight, .swagger-ui .responses-inner .curl { max-height: none; overflow: visible !important; }
.swagger-ui .model-example .model-container, .swagger-ui .model-box { overflow: visible; }`

/** The header of the token page, and what its frame lacks. */
const script = (basePath: string): string => `
import(${JSON.stringify(`${basePath}/page/reference.js`)})
document.documentElement.classList.toggle('dark-mode', matchMedia('(prefers-color-scheme: dark)').matches)
document.head.insertAdjacentHTML('beforeend', '<meta name="viewport" content="width=device-width, initial-scale=1">')`

/** A page to read about and try the four routes. Register it before them. */
export async function addApiReference (app: FastifyInstance, basePath: string): Promise<void> {
  await app.register(swagger, {
    hideUntagged: true,
    openapi: {
      info: {
        title: 'Application tokens',
        version: '1',
        description: `The routes of fastify-mmc-tokens, for admins. To try them out here, log in on [the token page](${basePath}/).`
      },
      components: { securitySchemes: { session: { type: 'apiKey', in: 'cookie', name: 'mmc' }, ...securitySchemes } },
      security: [{ session: [] }, ...security]
    },
    // As the README calls it.
    transformObject: documents => JSON.parse(
      JSON.stringify('openapiObject' in documents && documents.openapiObject).replaceAll('tokenHash', 'hash')
    ) as object
  })
  const header = await readFile(new URL('page/header.css', import.meta.url), 'utf8')
  await app.register(swaggerUi, {
    routePrefix: `${basePath}/api-docs`,
    logLevel: 'warn',
    theme: {
      title: 'API reference · MMC demo host',
      css: [{ filename: 'contrast.css', content: CONTRAST + WHOLE + header }],
      js: [{ filename: 'page.js', content: script(basePath) }]
    },
    uiConfig: { layout: 'BaseLayout' },
    staticCSP: true,
    transformStaticCSP: () => "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
      "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
  })
}
