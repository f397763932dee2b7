// A contender in a process of its own: `hit-server.js <name> <connection string> <URL of the plugin>`.
import { createHmac, hash, randomBytes, randomUUID } from 'node:crypto'
import jwt from '@fastify/jwt'
import Fastify, { type FastifyInstance, type FastifyPluginAsync, type FastifyRequest } from 'fastify'
import type tokensPlugin from '../../lib/index.js'
import type { Token } from '../../lib/index.js'
import { hello, SECRET } from './contender.js'
import { createClient } from './wire.js'

interface Served { app: FastifyInstance, authorizations?: string[], path?: string, status?: number }

const [name = '', postgres = '', plugin = ''] = process.argv.slice(2)

const CLAIMS = { role: 'viewer', iat: 1_700_000_000, exp: 4_070_908_800, iss: 'cedalo' }
/** Different forged tokens. */
const FORGED = 1000
const OTHER_KEYS = 63

/** All that a token has, signed by somebody else. */
function forge (): string {
  const parts = [{ alg: 'HS256', typ: 'JWT' }, { ...CLAIMS, jti: randomUUID() }]
  const signed = parts.map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${signed}.${createHmac('sha256', randomBytes(32)).update(signed).digest('base64url')}`
}

const bare = async (): Promise<Served> => ({ app: Fastify() })

/** Three hooks that do nothing. */
async function hooks (): Promise<Served> {
  const app = Fastify()
  app.addHook('onRequest', (_request, _reply, done) => { done() })
  app.addHook('preHandler', (_request, _reply, done) => { done() })
  app.addHook('onSend', (_request, _reply, payload, done) => { done(null, payload) })
  return { app }
}

/**
 * The least that a hit can do, in three hooks: find, judge, and set headers of the response. By query, the token is
 * removed from query and URL, and the response gets two headers.
 */
async function floor (isQuery: boolean): Promise<Served> {
  type Found = FastifyRequest & { found: string | null }
  const app = Fastify()
  const token = forge()
  const record = { user: { username: 'token:bench', roles: ['viewer'] }, token: { name: 'bench' } as Token }
  const records = new Map([[hash('sha256', token, 'hex'), record]])
  for (const property of ['found', 'user', 'applicationToken']) app.decorateRequest(property, null)
  app.addHook('onRequest', (request, _reply, done) => {
    const { raw } = request
    if (isQuery) {
      (request as Found).found = (request.query as { token: string }).token
      request.query = {}
      raw.url = raw.url?.slice(0, raw.url.indexOf('?'))
    } else {
      (request as Found).found = raw.headers.authorization?.slice(7) ?? null
    }
    done()
  })
  app.addHook('preHandler', (request, reply, done) => {
    const { found } = request as Found
    const record = found === null ? undefined : records.get(hash('sha256', found, 'hex'))
    if (record === undefined) {
      reply.code(401).send({ message: 'no' })
      return
    }
    request.user = record.user
    request.applicationToken = record.token
    done()
  })
  app.addHook('onSend', (_request, reply, payload, done) => {
    if (isQuery) reply.header('cache-control', 'no-store').header('referrer-policy', 'no-referrer')
    done(null, payload)
  })
  return { app, ...isQuery ? { path: `/hello?token=${token}` } : { authorizations: [token] } }
}

async function ours (): Promise<{ app: FastifyInstance, token: string, hash: string }> {
  const { default: register } = await import(plugin) as { default: typeof tokensPlugin }
  const app = Fastify()
  await app.register(register, { postgres, schema: `bench_${randomBytes(4).toString('hex')}`, secret: SECRET })
  const validUntil = '2999-01-01T00:00:00Z'
  const { token, hash } = await app.tokens.issue({ name: 'bench', role: 'viewer', validUntil, requestedBy: 'bench' })
  return { app, token, hash }
}

async function bearerAuth (others: number): Promise<Served> {
  const name: string = '@fastify/bearer-auth'
  const { default: register } = await import(name) as { default: FastifyPluginAsync<{ keys: string[] }> }
  const app = Fastify()
  const token = forge()
  await app.register(register, { keys: [...Array.from({ length: others }, forge), token] })
  return { app, authorizations: [token] }
}

async function fastifyJwt (cache: boolean): Promise<Served> {
  const app = Fastify()
  await app.register(jwt, { secret: SECRET, verify: { algorithms: ['HS256'], allowedIss: 'cedalo', cache } })
  app.addHook('onRequest', async request => { await request.jwtVerify() })
  return { app, authorizations: [app.jwt.sign(CLAIMS)] }
}

const contenders: Record<string, () => Promise<Served>> = {
  bare,
  'bare again': bare,
  hooks,
  floor: async () => await floor(false),
  'floor, query': async () => await floor(true),
  async 'ours, header' () {
    const { app, token } = await ours()
    return { app, authorizations: [token] }
  },
  async 'ours, query' () {
    const { app, token } = await ours()
    return { app, path: `/hello?token=${token}` }
  },
  async 'ours, no credential' () {
    const { app } = await ours()
    return { app }
  },
  async 'ours, forged' () {
    const { app } = await ours()
    return { app, authorizations: Array.from({ length: FORGED }, forge), status: 401 }
  },
  async 'ours, revoked' () {
    const { app, token, hash } = await ours()
    await app.tokens.revoke(hash)
    return { app, authorizations: [token], status: 401 }
  },
  '@fastify/bearer-auth, 1 key': async () => await bearerAuth(0),
  '@fastify/bearer-auth, 64 keys': async () => await bearerAuth(OTHER_KEYS),
  '@fastify/jwt, no cache': async () => await fastifyJwt(false),
  '@fastify/jwt, cache': async () => await fastifyJwt(true)
}

const create = contenders[name]
if (create === undefined) {
  // Asked for the names.
  process.send?.(Object.keys(contenders))
} else {
  const { app, authorizations = [null], path = '/hello', status = 200 } = await create()
  app.get('/hello', hello)
  await app.ready()
  const requests = authorizations.map(token => Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${token === null ? '' : `Authorization: Bearer ${token}\r\n`}\r\n`
  ))
  const send = createClient(app.server, requests, status)

  process.on('disconnect', () => { process.exit() })
  process.on('message', (requests: number) => {
    // Of the plugin that connections.ts changes.
    Object.assign(globalThis, { isOff: requests < 0 })
    const count = Math.abs(requests)
    const before = process.cpuUsage()
    send(count).then(() => {
      const { user, system } = process.cpuUsage(before)
      process.send?.((user + system) / count)
    }, (error: unknown) => {
      console.error(error)
      process.exit(1)
    })
  })
  process.send?.('ready')
}
