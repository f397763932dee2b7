import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifyReply } from 'fastify'

const FOLDERS = ['page/', '../../node_modules/lit-html/', '../../node_modules/@picocss/pico/css/'].map(path => fileURLToPath(new URL(path, import.meta.url)))
const FILES = ['/page.js', '/views.js', '/time.js', '/page.css', '/icon.svg', '/lit-html.js', '/pico.min.css']

/** The demo's login, its page of tokens and the reference of the API. Comes before the routes that the reference describes. */
export async function addPage (app: FastifyInstance, basePath: string): Promise<void> {
  await app.register(swagger, {
    hideUntagged: true,
    openapi: {
      info: { title: 'Application tokens', version: '1', description: 'The four routes of fastify-mmc-tokens, as this host serves them to admins.' },
      servers: [{ url: `${basePath}/` }],
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' }, session: { type: 'apiKey', in: 'cookie', name: 'mmc' } } },
      security: [{ token: [] }, { session: [] }]
    }
  })
  await app.register(async routes => {
    await routes.register(swaggerUi, { routePrefix: '/api-docs', staticCSP: true, theme: { title: 'Application tokens: the API' } })
    await routes.register(fastifyStatic, { root: FOLDERS, prefix: '/page/', allowedPath: path => FILES.includes(path), index: false, decorateReply: false })
    const isLoggedIn = (request: { session: { get: (key: 'username') => string | undefined } }): boolean => request.session.get('username') !== undefined

    routes.get('/', async (request, reply) => await send(reply, isLoggedIn(request) ? TOKENS : loginPage()))
    routes.get<{ Querystring: { error?: string } }>('/login', async (request, reply) => await send(reply, loginPage(request.query.error !== undefined)))
  }, { prefix: basePath })

  const send = (reply: FastifyReply, body: string): FastifyReply => reply.type('text/html').headers(HEADERS).send(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Tokens · MMC demo host</title>
<base href="${encodeURI(basePath)}/">
<link rel="icon" href="page/icon.svg">
<link rel="stylesheet" href="page/pico.min.css">
<link rel="stylesheet" href="page/page.css">
</head>
${body}
</html>
`)
}

// The page shows secrets: nothing of another origin, nothing inline, no copy kept.
const HEADERS = {
  'cache-control': 'no-store',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
}

const TOKENS = `<body>
<noscript><main class="container"><p>You are logged in. The page of tokens needs JavaScript; <a href="api-docs/">the API</a> does not. <a href="logout">Log out</a></p></main></noscript>
<div id="page"></div>
<dialog id="dialog" aria-labelledby="dialog-title"></dialog>
<script type="module" src="page/page.js"></script>
</body>`

function loginPage (isRefused = false): string {
  return `<body>
<main class="container login">
<article>
<h1>MMC demo host</h1>
${isRefused ? '<p role="alert" class="alert">Wrong user name or password. Try again.</p>' : ''}
<form method="post" action="auth">
<label>User <input name="username" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
</form>
<p><small>The logins stand in the terminal, where <code>npm start</code> printed them.</small></p>
</article>
</main>
</body>`
}
