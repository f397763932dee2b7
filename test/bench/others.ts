import { createSecretKey, hash, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import jwt from '@fastify/jwt'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'
import pg from 'pg'
import { type Contender, type CreateContender, hello, LISTEN, SECRET, type Setting } from './contender.js'

/** A module of a package that only this folder has; its types are not there where it is not. */
async function load<T> (name: string): Promise<T> {
  return await import(name) as T
}

const CLAIMS = { role: 'viewer', jti: 'bench', iss: 'cedalo' }

function contender (app: FastifyInstance, token: string): Contender {
  app.get('/hello', hello)
  return {
    listen: async () => await app.listen(LISTEN),
    sent: [{ path: '/hello', authorization: `Bearer ${token}` }],
    status: 200
  }
}

export const bare: CreateContender = async () => {
  const started = performance.now()
  const app = Fastify()
  app.get('/hello', hello)
  await app.ready()
  const readyIn = performance.now() - started
  return { listen: async () => await app.listen(LISTEN), sent: [{ path: '/hello' }], status: 200, readyIn }
}

async function signed (): Promise<{ app: FastifyInstance, token: string }> {
  const app = Fastify()
  await app.register(jwt, {
    secret: SECRET,
    sign: { algorithm: 'HS256', expiresIn: '1d' },
    verify: { algorithms: ['HS256'], allowedIss: 'cedalo' }
  })
  return { app, token: app.jwt.sign(CLAIMS) }
}

/** What a hit can't do without: a digest and a look into a map. */
export const floor: CreateContender = async () => {
  const app = Fastify()
  const { token } = await signed()
  const records = new Map([[hash('sha256', token, 'hex'), { username: 'token:bench', roles: ['viewer'] }]])
  app.decorateRequest('user')
  app.addHook('onRequest', (request, reply, done) => {
    const record = records.get(hash('sha256', request.headers.authorization?.slice(7) ?? '', 'hex'))
    if (record === undefined) {
      reply.code(401).send({ message: 'no' })
      return
    }
    request.user = record
    done()
  })
  return contender(app, token)
}

export const fastifyJwt: CreateContender = async () => {
  const { app, token } = await signed()
  app.addHook('onRequest', async request => { await request.jwtVerify() })
  return contender(app, token)
}

export const bearerAuth: CreateContender = async () => {
  const { default: plugin } = await load<{ default: FastifyPluginAsync<{ keys: string[] }> }>('@fastify/bearer-auth')
  const app = Fastify()
  const { token } = await signed()
  await app.register(plugin, { keys: [token] })
  return contender(app, token)
}

const FIND = 'SELECT name, role, valid_until FROM bench_tokens WHERE jti = $1'
const TOUCH = 'UPDATE bench_tokens SET last_used = now() WHERE jti = $1'

/** A pool, with a table of 10,000 tokens for all who look one up at each request. */
async function createTable ({ postgres }: Setting): Promise<pg.Pool> {
  const pool = new pg.Pool({ connectionString: postgres })
  await pool.query(`
    BEGIN; SELECT pg_advisory_xact_lock(1);
    CREATE TABLE IF NOT EXISTS bench_tokens (jti text PRIMARY KEY, name text, role text, valid_until timestamptz, last_used timestamptz);
    INSERT INTO bench_tokens SELECT jti, jti, 'viewer', now() + interval '1 year', now()
      FROM (SELECT 'bench' AS jti UNION SELECT n::text FROM generate_series(1, 9999) AS n) AS new ON CONFLICT DO NOTHING;
    COMMIT`)
  return pool
}

function jwtAndQueries (alsoTouch: boolean): CreateContender {
  return async setting => {
    const pool = await createTable(setting)
    const { app, token } = await signed()
    app.addHook('onRequest', async (request, reply) => {
      const { jti } = await request.jwtVerify<typeof CLAIMS>()
      const { rows } = await pool.query({ name: 'find', text: FIND, values: [jti] })
      if (rows.length === 0) return reply.code(401).send({ message: 'no' })
      if (alsoTouch) await pool.query({ name: 'touch', text: TOUCH, values: [jti] })
    })
    return contender(app, token)
  }
}

export const jwtAndSelect = jwtAndQueries(false)
export const jwtAndUpdate = jwtAndQueries(true)

interface Auth {
  api: {
    signUpEmail: (
      input: { body: { email: string, password: string, name: string } }
    ) => Promise<{ user: { id: string } }>
    createApiKey: (input: { body: { userId: string, name: string } }) => Promise<{ key: string }>
    verifyApiKey: (input: { body: { key: string } }) => Promise<{ valid: boolean }>
  }
}

export const betterAuth: CreateContender = async ({ postgres, schema }) => {
  const { betterAuth } = await load<{ betterAuth: (options: object) => Auth }>('better-auth')
  const { apiKey } = await load<{ apiKey: (options: object) => object }>('@better-auth/api-key')
  const { getMigrations } = await load<{
    getMigrations: (options: object) => Promise<{ runMigrations: () => Promise<void> }>
  }>('better-auth/db/migration')
  const database = new pg.Pool({ connectionString: postgres, options: `-c search_path=${schema}` })
  await database.query(`CREATE SCHEMA IF NOT EXISTS ${schema}`)
  const options = {
    database,
    secret: SECRET,
    baseURL: 'http://localhost',
    telemetry: { enabled: false },
    emailAndPassword: { enabled: true },
    // A key is allowed ten requests a day unless told otherwise.
    plugins: [apiKey({ rateLimit: { enabled: false } })]
  }
  await (await getMigrations(options)).runMigrations()
  const auth = betterAuth(options)
  const { user } = await auth.api.signUpEmail({
    body: { email: 'bench@example.com', password: 'not a secret', name: 'bench' }
  })
  const { key } = await auth.api.createApiKey({ body: { userId: user.id, name: 'bench' } })
  const app = Fastify()
  app.addHook('onRequest', async (request, reply) => {
    const { valid } = await auth.api.verifyApiKey({ body: { key: request.headers.authorization?.slice(7) ?? '' } })
    if (!valid) return reply.code(401).send({ message: 'no' })
  })
  return contender(app, key)
}

interface Answer { status: (code: number) => Answer, json: (body: object) => void }
type Handler = (request: { headers: { authorization?: string } }, response: Answer, next: () => void) => unknown
type Express = () => RequestListener & {
  use: (handler: Handler) => void, get: (path: string, handler: Handler) => void
}
interface JsonWebToken {
  sign: (claims: object, key: KeyObject, options: object) => string
  verify: (token: string, key: KeyObject, options: object) => typeof CLAIMS
}

export const express: CreateContender = async setting => {
  const { default: express } = await load<{ default: Express }>('express')
  const { default: { sign, verify } } = await load<{ default: JsonWebToken }>('jsonwebtoken')
  const pool = await createTable(setting)
  // A string would be tried as a public key at each request, which costs a multiple of all the rest.
  const key = createSecretKey(Buffer.from(SECRET))
  const app = express()
  app.use(async (request, response, next) => {
    const { jti } = verify(request.headers.authorization?.slice(7) ?? '', key, {
      algorithms: ['HS256'], issuer: 'cedalo'
    })
    const { rows } = await pool.query({ name: 'find', text: FIND, values: [jti] })
    if (rows.length === 0) response.status(401).json({ message: 'no' })
    else next()
  })
  app.get('/hello', (_request, response) => { response.json({ hello: 'world' }) })
  const token = sign(CLAIMS, key, { algorithm: 'HS256', expiresIn: '1d' })
  return {
    async listen () {
      const server = createServer(app).listen(LISTEN.port, LISTEN.host)
      await once(server, 'listening')
      return `http://${LISTEN.host}:${(server.address() as AddressInfo).port}`
    },
    sent: [{ path: '/hello', authorization: `Bearer ${token}` }],
    status: 200
  }
}
