import { readFile } from 'node:fs/promises'
import type { FastifyInstance, FastifyReply } from 'fastify'

const LIBRARIES = { 'lit-html.js': 'lit-html/lit-html.js', 'pico.min.css': '@picocss/pico/css/pico.min.css' }
const FILES = new Map([
  ...[
    'create.js', 'dialogs.js', 'header.css', 'header.js', 'host.js', 'icon.svg', 'list.css', 'list.js',
    'login-again.js', 'login.js', 'modal.js', 'page.css', 'page.js', 'reference.js', 'roles.js', 'time.js', 'views.js'
  ].map(name => [name, new URL(`page/${name}`, import.meta.url)] as const),
  ...Object.entries(LIBRARIES).map(
    ([name, path]) => [name, new URL(`../../node_modules/${path}`, import.meta.url)] as const
  )
])
const TYPES: Record<string, string> = { js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' }

/** The demo's login and token pages, static files without a build. */
export async function addPage (app: FastifyInstance, basePath: string): Promise<void> {
  app.get('/', async (request, reply) =>
    send(reply, request.session.get('username') === undefined ? loginPage() : TOKENS))
  app.get<{ Querystring: { error?: string } }>('/login', async (request, reply) =>
    send(reply, loginPage(request.query.error)))
  app.get<{ Params: { name: string } }>('/page/:name', { logLevel: 'warn' }, async (request, reply) => {
    const { name } = request.params
    const file = FILES.get(name)
    if (file === undefined) return reply.callNotFound()
    return await reply.headers(HEADERS).type(
      `${TYPES[name.slice(name.lastIndexOf('.') + 1)]}; charset=utf-8`
    ).send(await readFile(file))
  })

  const send = (reply: FastifyReply, body: string): FastifyReply => reply.type('text/html; charset=utf-8').headers(HEADERS).send(`<!doctype html>
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
<link rel="stylesheet" href="page/list.css">
<link rel="stylesheet" href="page/header.css">
</head>
${body}
</html>
`)
}

// The page shows secrets: no other origin, nothing inline, no caching.
const HEADERS = {
  'cache-control': 'no-store',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
}

const TOKENS = `<body>
<noscript><main class="container"><p>You are logged in. This page needs JavaScript; <a href="api-docs/">the API</a> does not. <a href="logout">Log out</a></p></main></noscript>
<div id="page"></div>
<dialog id="dialog" aria-labelledby="dialog-title"></dialog>
<dialog id="login" aria-labelledby="login-title"></dialog>
<script type="module" src="page/page.js"></script>
</body>`

/** Why the login page is shown, by the MMC's word for it in the address. */
const REASONS = new Map([
  ['authentication-failed', 'Wrong user name or password. Try again.'],
  ['session-expired', 'Your session has ended. Log in again.']
])

function loginPage (error = ''): string {
  const reason = REASONS.get(error)
  return `<body>
<main class="container login">
<article>
<h1>MMC demo host</h1>
${reason === undefined ? '' : `<p role="alert" class="alert">${reason}</p>`}
<form method="post" action="auth">
<label>User <input name="username" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
</form>
<p><small><code>npm start</code> printed the logins in the terminal.</small></p>
</article>
</main>
<script type="module" src="page/login.js"></script>
</body>`
}
