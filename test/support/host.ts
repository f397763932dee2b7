import formbody from '@fastify/formbody'
import secureSession from '@fastify/secure-session'
import websocket from '@fastify/websocket'
import Fastify, {
  type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions
} from 'fastify'
import tokensPlugin, { type TokenPrincipal, type TokensPluginOptions } from '../../lib/index.js'
import { addMetrics } from './metrics.js'
import { addPage } from './page.js'

declare module '@fastify/secure-session' {
  interface SessionData { username: string }
}

export interface HostOptions {
  fastify?: FastifyServerOptions
  /** What the plugin is registered with. */
  tokens: TokensPluginOptions
  /** 32 bytes; nodes that share it share their sessions. */
  sessionKey: Buffer
  basePath?: string
  /** The login of the admin. */
  admin?: { username: string, password: string }
  /** Serve a description of the four routes at `/api-docs`. Default: false. */
  apiReference?: boolean
  /** What comes before everything else, such as hooks for all of it. */
  prepare?: (app: FastifyInstance) => void
}

/** The smallest honest MMC host: sessions, guards on `request.user`, a few routes, and the plugin. */
export async function createHost ({
  fastify, tokens, sessionKey, basePath = '', admin = {
    username: 'cedalo', password: 'secret'
  }, apiReference = false, prepare = () => {}
}: HostOptions): Promise<FastifyInstance> {
  const users = new Map([
    ['editor', { password: 'secret', roles: ['editor'] }],
    ['viewer', { password: 'secret', roles: ['viewer'] }],
    [admin.username, { password: admin.password, roles: ['admin'] }]
  ])
  const app = Fastify({ frameworkErrors, ...fastify })
  prepare(app)
  app.setNotFoundHandler(async (_request, reply) => refuse(reply, 404, 'Resource not found', 'NOT_FOUND'))
  await app.register(formbody)
  await app.register(websocket)
  await app.register(secureSession, {
    key: sessionKey,
    cookieName: 'mmc',
    expiry: 12 * 60 * 60,
    cookie: { path: `${basePath}/`, httpOnly: true, sameSite: 'lax' }
  })
  app.addHook('preValidation', async request => {
    const username = request.session.get('username')
    const user = username === undefined ? undefined : users.get(username)
    if (username !== undefined && user !== undefined) setUser(request, { username, roles: user.roles })
  })
  if (apiReference) await (await import('./api-reference.js')).addApiReference(app, basePath)
  await app.register(tokensPlugin, { prefix: basePath, ...tokens })

  await app.register(async routes => {
    await addPage(routes, basePath)
    addMetrics(routes)
    routes.post<{
      Body: { username?: string, password?: string } | null, Querystring: { json?: string }
    }>('/auth', async (request, reply) => {
      const { username = '', password } = request.body ?? {}
      const user = users.get(username)
      const isJson = request.query.json === 'true'
      if (user === undefined || user.password !== password) {
        return isJson
          ? refuse(reply, 401, 'Unauthorized')
          : await reply.redirect(
          `${basePath}/login?error=authentication-failed`
          )
      }
      request.session.set('username', username)
      return isJson
        ? { code: 'SUCCESS', message: 'Authorized', successful: true }
        : await reply.redirect(`${basePath}/`)
    })
    routes.get('/logout', async (request, reply) => {
      request.session.delete()
      return await reply.redirect(`${basePath}/login`)
    })

    routes.get('/api/profile', { preHandler: allow() }, async request => userOf(request))
    routes.get(
      '/api/viewer', { preHandler: allow('viewer', 'editor', 'admin') }, async () => ({ message: 'Hello, viewer' })
    )
    routes.get('/api/editor', { preHandler: allow('editor', 'admin') }, async () => ({ message: 'Hello, editor' }))
    routes.get('/ws', { preHandler: allow('viewer', 'editor', 'admin'), websocket: true }, (socket, request) => {
      socket.send(JSON.stringify(userOf(request)))
      socket.on('message', (message: Buffer) => { socket.send(message.toString()) })
    })
  }, { prefix: basePath })
  return app
}

// Fastify's own answer to malformed percent-encoding repeats the whole URL, which may hold a token.
function frameworkErrors ({ statusCode }: FastifyError, _request: FastifyRequest, reply: FastifyReply): void {
  if (statusCode === 414) refuse(reply, 414, 'The URL is too long', 'INVALID')
  else refuse(reply, 400, 'The URL is malformed', 'INVALID')
}

function setUser (request: FastifyRequest, user: TokenPrincipal): void {
  (request as { user?: unknown }).user = user
}

function userOf (request: FastifyRequest): TokenPrincipal | undefined {
  return (request as { user?: TokenPrincipal }).user
}

/** The guard that the MMC has had before there were tokens: any of these roles, or whoever is logged in. */
function allow (...roles: string[]) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply | undefined> => {
    const user = userOf(request)
    if (user === undefined) return refuse(reply, 401, 'Unauthorized')
    if (roles.length > 0 && !user.roles.some(role => roles.includes(role))) {
      return refuse(
        reply, 403, 'Your role may not do this', 'NOT_ALLOWED'
      )
    }
  }
}

function refuse (reply: FastifyReply, status: number, message: string, code = 'UNAUTHORIZED'): FastifyReply {
  return reply.code(status).send({ code, message, ...status === 401 && { data: { session: false } } })
}
