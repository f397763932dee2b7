import { EventEmitter, on, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import type { IssuedToken } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase, type Database } from '../support/database.js'
import { blocksOf } from '../support/docs.js'
import { measure } from '../support/measure.js'
import { until } from '../support/until.js'
import { installHost } from './folder.js'

t.setTimeout(900_000)

const { load, runBlock } = await installHost(t, [
  'fastify@5.12.8', '@fastify/websocket@11.3.7', '@fastify/http-proxy@11.6.3', 'graphql@16.15.0', 'graphql-ws@6.4.2',
  '@apollo/server@5.5.1', '@as-integrations/fastify@3.1.0', '@graphql-tools/schema@10.1.5', 'mercurius@16.10.1',
  '@trpc/server@11.25.2', '@trpc/client@11.25.2', 'ws@8.23.0'
])
interface Plugin { default: FastifyPluginAsync<Record<string, unknown>> }
const { default: Fastify } = await load<{ default: (options: object) => FastifyInstance }>('fastify')
const { default: websocket } = await load<Plugin>('@fastify/websocket')
const { default: tokensPlugin } = await load<Plugin>('fastify-mmc-tokens')
const graphql = await load<{
  buildSchema: (text: string) => { getSubscriptionType: () => { getFields: () => { who: object } } }
}>('graphql')
const blocks = await blocksOf('docs/recipes.md', 'js')
const blockWith = (text: string): string => blocks.find(block => block.includes(text)) ?? ''

/** From the change to the end of an upgraded connection, in milliseconds, with what a busy machine adds. */
const BOUND = 2000

async function startNode (
  t: Test, { url: postgres, schema }: Database, build = async (_app: FastifyInstance): Promise<void> => {}
): Promise<{ app: FastifyInstance, address: string }> {
  const app = Fastify({ forceCloseConnections: true })
  app.server.on('connection', socket => { t.teardown(() => socket.destroy()) })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  await build(app)
  await app.listen({ host: '127.0.0.1', port: 0 })
  await until(() => app.tokens.health().lease === 'held')
  return { app, address: `127.0.0.1:${(app.server.address() as AddressInfo).port}` }
}

interface Open {
  /** What its client has received first. */
  first: unknown
  /** The code with which it closes, or that it has ended otherwise. */
  closed: Promise<unknown>
}

interface Recipe {
  build: (app: FastifyInstance) => Promise<void>
  /** What a client receives first with a token of this name. */
  says?: (name: string) => string
  /** The ways in which a client may present its token, and the code with which the connection closes. */
  ways: Record<string, { open: (address: string, token: string) => Promise<Open>, code: unknown }>
  /** What somebody with an invalid token gets. */
  refused: (address: string, token: string) => Promise<unknown>
}

/** Ends each of its connections from another node, by SQL and by a DELETE, and refuses what has ended. */
async function tryRecipe (
  t: Test, { build, says = name => `token:${name}`, ways, refused }: Recipe
): Promise<void> {
  const database = await createDatabase(t)
  const { address } = await startNode(t, database, build)
  const other = await startNode(t, database)
  const issue = async (name: string): Promise<IssuedToken> => await other.app.tokens.issue({
    name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  })
  const ends: Record<string, (hash: string) => Promise<unknown>> = {
    SQL: async hash => await database.query('DELETE FROM tokens WHERE hash = $1', [hash]),
    'another node': async hash => await other.app.tokens.revoke(hash)
  }
  for (const [way, { open, code }] of Object.entries(ways)) {
    for (const [by, end] of Object.entries(ends)) {
      const name = `${way}, ${by}`
      const [token, bystander] = [await issue(name), await issue(`${name}, kept`)]
      const [{ first, closed }, kept] = [await open(address, token.token), await open(address, bystander.token)]
      t.strictSame([first, kept.first], [says(name), says(`${name}, kept`)], 'it acts as the token')
      await end(token.hash)
      const tooLate = sleep(5 * BOUND, 'open', { ref: false })
      const { result, took } = await measure(async () => await Promise.race([closed, tooLate]))
      t.equal(result, code, name)
      t.ok(took <= BOUND, `closed within ${BOUND} ms`)
      t.comment(`${name}: closed ${Math.round(took)} ms after`)
      t.equal(await Promise.race([kept.closed, 'open']), 'open', 'and no other')
      t.match(await refused(address, token.token), 'refused', 'a token that has ended')
    }
  }
}

interface GraphqlClient {
  on: (event: 'closed', listener: (event: { code: number }) => void) => void
  iterate: (request: { query: string }) => AsyncIterableIterator<{ data: { who: string } }>
  dispose: () => void
}

/** A client of the package graphql-ws that subscribes to who it is. */
async function openSubscription (t: Test, url: string, connectionParams: object): Promise<Open> {
  const { createClient } = await load<{ createClient: (options: object) => GraphqlClient }>('graphql-ws')
  const client = createClient({ url, connectionParams, webSocketImpl: WebSocket, retryAttempts: 0, lazy: true })
  t.teardown(() => { client.dispose() })
  const closed = new Promise<number>(resolve => { client.on('closed', ({ code }) => { resolve(code) }) })
  const results = client.iterate({ query: 'subscription { who }' })
  const { value } = await results.next() as { value: { data: { who: string } } }
  const rest = results.next().catch(() => {})
  return { first: value.data.who, closed: closed.then(async code => { await rest; return code }) }
}

const refusedSubscription = (t: Test, path = '/graphql') => async (address: string, token: string): Promise<unknown> =>
  await openSubscription(t, `ws://${address}${path}`, { token }).then(() => 'accepted', () => 'refused')

const SCHEMA = 'type Query { who: String } type Subscription { who: String }'

/** Says who somebody is, and then nothing until it is closed. */
async function * who (user: Context['user']): AsyncGenerator<{ who: string | undefined }> {
  yield { who: user?.username }
  for await (const event of on(new EventEmitter(), 'never')) yield event as never
}

interface Context { user: { username: string } | null }
const subscribe = (_root: object, _args: object, { user }: Context) => who(user)
const resolvers = {
  Query: { who: (_root: object, _args: object, { user }: Context) => user?.username },
  Subscription: { who: { subscribe } }
}

/** Asks who it is over HTTP. */
async function query (address: string, token: string): Promise<Response> {
  const headers = { ...bearer(token), 'content-type': 'application/json' }
  return await fetch(`http://${address}/graphql`, { method: 'POST', headers, body: '{"query":"{ who }"}' })
}

t.test('Mercurius: subscriptions end with their token, whether it came with the upgrade or in connectionParams', async t => {
  await tryRecipe(t, {
    async build (app) {
      await runBlock(blockWith("'mercurius'"), { app, schema: SCHEMA, resolvers })
    },
    ways: {
      connectionParams: {
        code: 4403, open: async (address, token) => await openSubscription(t, `ws://${address}/graphql`, { token })
      },
      '?token=': {
        code: 1006,
        async open (address, token) {
          const opened = await openSubscription(t, `ws://${address}/graphql?token=${token}`, {})
          t.strictSame(await (await query(address, token)).json(), { data: { who: opened.first } })
          return opened
        }
      }
    },
    refused: refusedSubscription(t)
  })
})

t.test('graphql-ws: a socket whose token came in connectionParams is closed with 4403', async t => {
  await tryRecipe(t, {
    async build (app) {
      await app.register(websocket)
      const schema = graphql.buildSchema(SCHEMA)
      Object.assign(schema.getSubscriptionType().getFields().who, { subscribe })
      await app.register(async child => { await runBlock(blockWith("'graphql-ws"), { app: child, schema }) })
    },
    ways: {
      connectionParams: {
        code: 4403, open: async (address, token) => await openSubscription(t, `ws://${address}/graphql`, { token })
      }
    },
    refused: refusedSubscription(t)
  })
})

t.test('Apollo with the route of graphql-ws: queries and subscriptions have the same user, and end with their token', async t => {
  await tryRecipe(t, {
    async build (app) {
      const recipe = blockWith('makeExecutableSchema') + blockWith("'graphql-ws")
      await runBlock(recipe, { app, typeDefs: SCHEMA, resolvers })
    },
    ways: {
      connectionParams: {
        code: 4403,
        async open (address, token) {
          const opened = await openSubscription(t, `ws://${address}/graphql`, { token })
          t.strictSame(await (await query(address, token)).json(), { data: { who: opened.first } })
          return opened
        }
      }
    },
    async refused (address, token) {
      t.equal((await query(address, token)).status, 401)
      return await refusedSubscription(t)(address, token)
    }
  })
})

interface Trpc {
  initTRPC: { context: () => { create: () => { router: (routes: object) => object, procedure: Procedure } } }
}
interface Procedure {
  query: (resolve: (call: { ctx: { user: { username: string } } }) => unknown) => object
  subscription: Procedure['query']
}
interface TrpcClient {
  createWSClient: (options: object) => { close: () => void, connectionState: object }
  wsLink: (options: object) => object
  createTRPCClient: (options: object) => {
    who: { subscribe: (input: undefined, options: object) => void }
  }
}

t.test('tRPC with useWSS: sockets end with their token, whether it came with the upgrade or in connectionParams', async t => {
  const { initTRPC } = await load<Trpc>('@trpc/server')
  const { createWSClient, wsLink, createTRPCClient } = await load<TrpcClient>('@trpc/client')
  async function open (url: string, connectionParams?: object): Promise<Open> {
    let close = (_code: unknown): void => {}
    const closed = new Promise(resolve => { close = resolve })
    // Sees how its first socket closes; the client would open another one.
    class Socket extends WebSocket {
      constructor (url: string) {
        super(url)
        this.on('error', () => {})
        this.once('close', code => { close(code) })
      }
    }
    const wsClient = createWSClient({ url, connectionParams, WebSocket: Socket, retryDelayMs: () => 1000 })
    t.teardown(() => { wsClient.close() })
    const client = createTRPCClient({ links: [wsLink({ client: wsClient })] })
    const first = await new Promise((resolve, reject) => {
      client.who.subscribe(undefined, { onData: resolve, onError: reject })
      closed.then(reject, reject)
    })
    return { first, closed }
  }
  await tryRecipe(t, {
    async build (app) {
      const { router, procedure } = initTRPC.context().create()
      await app.register(websocket)
      await runBlock(blockWith("'@trpc/server'"), {
        app,
        router: router({
          me: procedure.query(({ ctx }) => ctx.user.username),
          who: procedure.subscription(async function * ({ ctx }) {
            for await (const { who: name } of who(ctx.user)) yield name
          })
        })
      })
    },
    ways: {
      connectionParams: { code: 1008, open: async (address, token) => await open(`ws://${address}/trpc`, { token }) },
      '?token=': {
        code: 1006,
        async open (address, token) {
          const opened = await open(`ws://${address}/trpc?token=${token}`)
          const answer = await fetch(`http://${address}/trpc/me`, { headers: bearer(token) })
          t.strictSame(await answer.json(), { result: { data: opened.first } })
          return opened
        }
      }
    },
    refused: async (address, token) =>
      await open(`ws://${address}/trpc`, { token }).then(() => 'accepted', () => 'refused')
  })
})

t.test('@fastify/http-proxy: a proxied WebSocket ends on both sides, and the upstream never sees the token', async t => {
  const upstream = Fastify({ forceCloseConnections: true })
  t.teardown(() => upstream.close())
  await upstream.register(websocket)
  const seen: unknown[] = []
  const closed: Array<Promise<unknown>> = []
  upstream.addHook('onRequest', async ({ url, headers }) => { seen.push(url, headers.authorization) })
  await upstream.register(async child => {
    child.get('/ws', { websocket: true }, socket => {
      closed.push(once(socket, 'close'))
      socket.send('hello')
    })
    child.get('/plain', async () => 'plain')
  })
  const upstreamAddress = await upstream.listen({ host: '127.0.0.1', port: 0 })

  const open = async (address: string, query: string, headers: Record<string, string>): Promise<Open> => {
    t.equal(await (await fetch(`http://${address}/upstream/plain${query}`, { headers })).text(), 'plain')
    const socket = new WebSocket(`ws://${address}/upstream/ws${query}`, { headers })
    socket.on('error', () => {})
    const [first] = await Promise.race([
      once(socket, 'message'), once(socket, 'close').then(() => { throw new Error('refused') })
    ]) as [Buffer]
    const both = Promise.all([once(socket, 'close'), closed.at(-1)])
    return { first: String(first), closed: both.then(([[code]]) => code as unknown) }
  }
  await tryRecipe(t, {
    async build (app) { await runBlock(blockWith("'@fastify/http-proxy'"), { app, upstream: upstreamAddress }) },
    says: () => 'hello',
    ways: {
      '?token=': { code: 1006, open: async (address, token) => await open(address, `?token=${token}`, {}) },
      'a header': { code: 1006, open: async (address, token) => await open(address, '', bearer(token)) }
    },
    refused: async (address, token) => {
      const socket = new WebSocket(`ws://${address}/upstream/ws?token=${token}`)
      return await once(socket, 'open').then(() => 'accepted', () => 'refused')
    }
  })
  t.strictSame(new Set(seen), new Set(['/ws', '/plain', undefined]))
})
