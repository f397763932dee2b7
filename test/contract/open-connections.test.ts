import { EventEmitter, on, once } from 'node:events'
import { Agent, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { createConnections } from '../../lib/http/connections.js'
import tokensPlugin, { type Authenticated, type IssuedToken } from '../../lib/index.js'
import type { CachedToken } from '../../lib/tokens/cache.js'
import { bearer, issueInOrder, SECRET } from '../support/build-host.js'
import { createDatabase, type Database } from '../support/database.js'
import { createProxy } from '../support/proxy.js'
import { holdTimers } from '../support/timers.js'
import { until } from '../support/until.js'

// They wait more than they work.
t.jobs = 3

interface Node {
  app: FastifyInstance
  address: string
  /** The signals that `/stream`, `/ask` and `/ws` asked for, in order. */
  signals: AbortSignal[]
  /** Resolves when `/slow` is asked for, which waits for `answerSlow`. */
  slowBegun: Promise<unknown>
  answerSlow: () => void
}

/** A host with an endless stream, a plain answer, and a WebSocket with and without a polite close. */
async function startNode (t: Test, { url, schema }: Database, options = {}): Promise<Node> {
  const app = Fastify({ forceCloseConnections: true })
  const signals: AbortSignal[] = []
  const ask = (request: FastifyRequest): AbortSignal | null => {
    const signal = app.tokens.signal(request)
    if (signal !== null) signals.push(signal)
    return signal
  }
  app.server.on('connection', socket => { t.teardown(() => socket.destroy()) })
  await app.register(tokensPlugin, { postgres: url, schema, secret: SECRET, ...options })
  await app.register(websocket)
  app.get('/stream', async (request, reply) => {
    const signal = ask(request)
    const stream = new Readable({ read () {} })
    stream.push('open\n')
    signal?.addEventListener('abort', () => { stream.push(null) })
    return await reply.send(stream)
  })
  app.get('/ask', async request => ask(request) === app.tokens.signal(request))
  app.get('/toggle', async request => {
    await app.tokens.disable()
    await app.tokens.enable()
    return codeOf(ask(request) as AbortSignal)
  })
  app.get('/plain', async () => 'plain')
  app.get('/hijacked', (request, reply) => {
    ask(request)
    reply.hijack()
    reply.raw.end('hijacked')
  })
  const slow = new EventEmitter()
  const slowBegun = once(slow, 'begun')
  app.get('/slow', async () => {
    slow.emit('begun')
    await once(slow, 'answer')
    return 'slow'
  })
  app.get('/ws', { websocket: true }, (socket, request) => {
    const signal = ask(request)
    signal?.addEventListener(
      'abort', () => { if (request.headers['x-polite'] !== undefined) socket.close(1008, 'ended') }
    )
    socket.on('message', message => { socket.send(message.toString()) })
  })
  t.teardown(() => app.close())
  await app.listen({ host: '127.0.0.1', port: 0 })
  const address = `127.0.0.1:${(app.server.address() as AddressInfo).port}`
  return { app, address, signals, slowBegun, answerSlow: () => { slow.emit('answer') } }
}

async function twoNodes (t: Test): Promise<{ one: Node, other: Node, database: Database }> {
  const database = await createDatabase(t)
  return { database, one: await startNode(t, database), other: await startNode(t, database) }
}

const held = async (...nodes: Node[]): Promise<void> => {
  for (const { app } of nodes) await until(() => app.tokens.health().lease === 'held')
}

async function issue ({ app }: Node, token: object = {}): Promise<IssuedToken> {
  return await issueInOrder(app, { name: `token ${Math.random()}`, ...token })
}

/** An open stream of this node, by its first bytes. */
async function stream (
  { address, signals }: Node, token: string
): Promise<{ ended: Promise<unknown>, signal: AbortSignal }> {
  const request = get(`http://${address}/stream`, { headers: bearer(token), agent: false })
  request.on('error', () => {})
  const [response] = await once(request, 'response')
  await once(response, 'data')
  response.resume()
  const ended = once(response, 'end')
  // Of one that is open when the test ends.
  ended.catch(() => {})
  return { ended, signal: signals.at(-1) as AbortSignal }
}

async function connect ({ address }: Node, token: string, headers = {}): Promise<WebSocket> {
  const socket = new WebSocket(`ws://${address}/ws`, { headers: { ...bearer(token), ...headers } })
  socket.on('error', () => {})
  await once(socket, 'open')
  return socket
}

const codeOf = (signal: AbortSignal): unknown => (signal.reason as { code?: string }).code

type End = (node: Node, token: IssuedToken, database: Database) => Promise<unknown>

const ENDS: Record<string, [code: string, end: End]> = {
  'a DELETE on the other node': ['MMC_TOKENS_REVOKED', async ({ app }, { hash }) => await app.tokens.revoke(hash)],
  'a DELETE with SQL': ['MMC_TOKENS_REVOKED', async (_node, { hash }, { query }) =>
    await query('DELETE FROM tokens WHERE hash = $1', [hash])],
  TRUNCATE: ['MMC_TOKENS_REVOKED', async (_node, _token, { query }) => await query('TRUNCATE tokens')],
  'another role': ['MMC_TOKENS_REVOKED', async (_node, { hash }, { query }) =>
    await query("UPDATE tokens SET role = 'editor' WHERE hash = $1", [hash])],
  'another name': ['MMC_TOKENS_REVOKED', async (_node, { hash }, { query }) =>
    await query("UPDATE tokens SET name = 'another' WHERE hash = $1", [hash])],
  'a valid_until that SQL shortened': ['MMC_TOKENS_EXPIRED', async (_node, { hash }, { query }) =>
    await query('UPDATE tokens SET valid_until = now() WHERE hash = $1', [hash])]
}

for (const [what, [code, end]] of Object.entries(ENDS)) {
  t.test(`${what} ends streams by their signal, and WebSockets of the token, and no others`, async t => {
    const { one, other, database } = await twoNodes(t)
    await held(one, other)
    const token = await issue(one)
    const bystander = what === 'TRUNCATE' ? null : await issue(one)
    const open = await stream(other, token.token)
    const socket = await connect(other, token.token)
    const polite = await connect(other, token.token, { 'x-polite': '1' })
    const kept = bystander &&
      { stream: await stream(other, bystander.token), socket: await connect(other, bystander.token) }
    const closed = Promise.all([once(socket, 'close'), once(polite, 'close'), open.ended])
    await end(one, token, database)
    const [[cut], [polited]] = await closed as [[number], [number], unknown]
    t.strictSame([cut, polited], [1006, 1008])
    t.equal(codeOf(open.signal), code)
    t.ok(other.signals.slice(0, 3).every(({ aborted }) => aborted))
    if (kept === null) return
    t.notOk(kept.stream.signal.aborted)
    kept.socket.send('still there')
    t.equal(String((await once(kept.socket, 'message'))[0]), 'still there')
  })
}

t.test('on the node that answers the DELETE the signal has aborted before the answer', async t => {
  const node = await startNode(t, await createDatabase(t))
  for (let n = 0; n < 20; n++) {
    const { token, hash } = await issue(node)
    const { signal, ended } = await stream(node, token)
    await node.app.tokens.revoke(hash)
    t.equal(codeOf(signal), 'MMC_TOKENS_REVOKED')
    await ended
  }
})

t.test('all WebSockets of a token are cut, however many', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token, hash } = await issue(node)
  const sockets = await Promise.all(Array.from({ length: 50 }, async () => await connect(node, token)))
  const closed = Promise.all(sockets.map(async socket => await once(socket, 'close')))
  await node.app.tokens.revoke(hash)
  t.strictSame(new Set((await closed).map(([code]) => code as number)), new Set([1006]))
})

t.test('a token that expires ends what it opened', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token, validUntil } = await issue(node, { validUntil: new Date(Date.now() + 6000).toISOString() })
  const socket = await connect(node, token)
  const { signal, ended } = await stream(node, token)
  await Promise.all([ended, once(socket, 'close')])
  t.ok(Date.now() >= Date.parse(validUntil))
  t.equal(codeOf(signal), 'MMC_TOKENS_EXPIRED')
})

t.test('disable() aborts all signals and cuts all upgraded connections of tokens', async t => {
  const node = await startNode(t, await createDatabase(t))
  const open = [await stream(node, (await issue(node)).token), await stream(node, (await issue(node)).token)]
  const socket = await connect(node, (await issue(node)).token)
  await node.app.tokens.disable()
  t.strictSame(open.map(({ signal }) => codeOf(signal)), ['MMC_TOKENS_DISABLED', 'MMC_TOKENS_DISABLED'])
  await Promise.all([...open.map(async ({ ended }) => await ended), once(socket, 'close')])
})

t.test('a signal that is asked for after disable() has aborted, even if tokens were enabled again', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token } = await issue(node)
  const { tokens } = node.app
  const answer = await tokens.authenticate(token)
  t.equal((await node.app.inject({ url: '/toggle', headers: bearer(token) })).body, 'MMC_TOKENS_DISABLED')
  t.equal(codeOf(tokens.signal(answer as never, new EventEmitter()) as AbortSignal), 'MMC_TOKENS_DISABLED')
})

t.test('a request has one signal, and none without a token', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token } = await issue(node)
  t.equal((await node.app.inject({ url: '/ask', headers: bearer(token) })).body, 'true')
  t.equal((await node.app.inject('/ask')).body, 'true')
  t.equal(node.signals.length, 1)
})

t.test('a keep-alive connection that an ended token used is not cut, and keeps nothing of its requests', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token, hash } = await issue(node)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => { agent.destroy() })
  const sockets = new Set<unknown>()
  async function ask (path: string, headers = {}): Promise<number> {
    const request = get(`http://${node.address}${path}`, { agent, headers })
    const [response] = await once(request, 'response')
    sockets.add(request.socket)
    response.resume()
    await once(response, 'end')
    return response.statusCode
  }
  for (let n = 0; n < 50; n++) await ask('/ask', bearer(token))
  const pending = ask('/slow', bearer(token))
  await node.slowBegun
  await node.app.tokens.revoke(hash)
  await sleep(1200) // longer than an upgraded connection may live
  node.answerSlow()
  t.equal(await pending, 200, 'a request that did not ask for a signal is answered')
  t.equal(await ask('/plain'), 200)
  t.equal(sockets.size, 1)
  t.equal(node.signals.filter(({ aborted }) => aborted).length, 0, 'requests that are over are not told')
})

t.test('requests that are over keep nothing: injected, hijacked and upgraded ones', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token, hash } = await issue(node)
  const headers = bearer(token)
  for (let n = 0; n < 20; n++) {
    await node.app.inject({ url: '/ask', headers })
    t.equal((await node.app.inject({ url: '/hijacked', headers })).body, 'hijacked')
    t.equal(await (await fetch(`http://${node.address}/hijacked`, { headers })).text(), 'hijacked')
    const socket = await connect(node, token)
    socket.close()
    await once(socket, 'close')
  }
  await until(() => node.app.websocketServer.clients.size === 0)
  t.equal(node.signals.length, 80)
  await node.app.tokens.revoke(hash)
  t.equal(node.signals.filter(({ aborted }) => aborted).length, 0)
})

t.test('a signal ends a pipeline, a fetch and an iteration of events, each with its reason', async t => {
  const node = await startNode(t, await createDatabase(t))
  const { token, hash } = await issue(node)
  const accepted = await node.app.tokens.authenticate(token) as Authenticated
  const signal = node.app.tokens.signal(accepted, new EventEmitter()) as AbortSignal
  async function iterate (): Promise<void> {
    for await (const event of on(new EventEmitter(), 'event', { signal })) t.fail(String(event))
  }
  const endless = new Readable({ read () {} })
  const work = Promise.allSettled([
    pipeline(endless, new PassThrough(), { signal }), fetch(`http://${node.address}/slow`, { signal }), iterate()
  ])
  await node.slowBegun
  await node.app.tokens.revoke(hash)
  const reasons = (await work).map(result => (result as { reason: { code: string, cause?: { code: string } } }).reason)
  t.strictSame(reasons.map(({ code, cause }) => cause?.code ?? code), Array(3).fill('MMC_TOKENS_REVOKED'))
  node.answerSlow()
})

t.test('while notifications do not arrive, Postgres is asked every second', async t => {
  const database = await createDatabase(t)
  const one = await startNode(t, database)
  const proxy = await createProxy(t, database.url)
  const behind = await startNode(t, { ...database, url: proxy.url })
  await held(behind)
  const token = await issue(one)
  const { signal, ended } = await stream(behind, token.token)
  proxy.set('swallow notifications')
  await until(() => behind.app.tokens.health().lease === 'lost')
  await one.app.tokens.revoke(token.hash)
  await ended
  t.equal(codeOf(signal), 'MMC_TOKENS_REVOKED')
  t.equal(behind.app.tokens.health().lease, 'lost')
})

t.test('while the listener can not connect, each revocation is found by a question of every second', async t => {
  const database = await createDatabase(t)
  const one = await startNode(t, database)
  const proxy = await createProxy(t, database.url)
  const deaf = await startNode(t, database, { listen: proxy.url })
  await held(deaf)
  const tokens = [await issue(one), await issue(one), await issue(one)]
  const open = [] as Array<Awaited<ReturnType<typeof stream>>>
  for (const { token } of tokens) open.push(await stream(deaf, token))
  proxy.set('refuse')
  proxy.cut()
  await until(() => deaf.app.tokens.health().lease === 'lost')
  // One after another, so that each needs a question of its own.
  for (const [index, { signal, ended }] of open.entries()) {
    await one.app.tokens.revoke(tokens[index]?.hash ?? '')
    await Promise.race([ended, sleep(5000, undefined, { ref: false })])
    t.ok(signal.aborted, 'within seconds')
  }
  t.equal(deaf.app.tokens.health().lease, 'lost')
})

t.test('while the pool is exhausted, changes are looked up on the connection that listens', async t => {
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url, max: 2 })
  t.teardown(() => pool.end())
  const node = await startNode(t, database, { postgres: pool })
  await held(node)
  const { token, hash } = await issue(node)
  const { signal, ended } = await stream(node, token)
  const clients = [await pool.connect(), await pool.connect()]
  t.teardown(() => { for (const client of clients) client.release() })
  const unknown = node.app.tokens.mint({ name: 'unknown', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
  await t.rejects(node.app.tokens.authenticate(unknown.token), { code: 'INTERNAL_ERROR' })
  t.equal((await node.app.tokens.metrics()).authentications.failed, 1)
  await t.rejects(node.app.tokens.revoke(hash), { code: 'MMC_TOKENS_DEADLINE' })
  await turn()
  t.notOk(signal.aborted, 'it was not revoked')
  await database.query("UPDATE tokens SET role = 'editor' WHERE hash = $1", [hash])
  await ended
  t.equal(codeOf(signal), 'MMC_TOKENS_REVOKED')
})

t.test('a token that can not be looked up, since the table is locked, is looked up once it can', async t => {
  const database = await createDatabase(t)
  const node = await startNode(t, database)
  await held(node)
  const { token, hash } = await issue(node)
  const { signal, ended } = await stream(node, token)
  const client = new pg.Client({ connectionString: database.url, options: `-c search_path=${database.schema}` })
  await client.connect()
  t.teardown(() => client.end())
  await client.query('BEGIN; LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE')
  await t.rejects(node.app.tokens.revoke(hash), 'nobody knows whether it was revoked')
  await sleep(1700) // longer than a lookup waits for a lock, and the pause after it
  t.notOk(signal.aborted)
  // Nobody is notified.
  await client.query('ALTER TABLE tokens DISABLE TRIGGER USER; DELETE FROM tokens; COMMIT')
  await ended
  t.equal(codeOf(signal), 'MMC_TOKENS_REVOKED')
})

/** An accepted token, as the hooks hand it to `createConnections`. */
function cachedToken (hash: string): CachedToken {
  const times = { validUntil: '2999-01-01T00:00:00.000Z', issueDate: '2026-01-01T00:00:00.000Z' }
  const token = { ...times, name: 'a', hash, role: 'viewer', requestedBy: 'b', lastUsed: times.issueDate }
  return { token, expiresAt: Infinity, claimExpiresAt: Infinity, httpDate: '', lastUsed: 0 }
}

t.test('a lookup that fails, while changes are received, is repeated until it succeeds', async t => {
  // A real one fails under a lease only for as long as a lock lasts.
  let lookups = 0
  const connections = createConnections({
    isCurrent: () => true,
    isTrusted: () => true,
    async findAll () {
      if (++lookups < 3) throw new Error('locked')
      return []
    }
  })
  const cached = cachedToken('h')
  const signal = connections.signal(cached, new EventEmitter())
  connections.forget('h')
  // The plugin's timers keep no process alive.
  const alive = setInterval(() => {}, 1000)
  await until(() => signal.aborted)
  clearInterval(alive)
  t.equal(lookups, 3)
  t.equal(codeOf(signal), 'MMC_TOKENS_REVOKED')
})

// Alone: the clock and the timers are those of all tests.
t.test('a token that expires because the clock is set ends within a second, also while changes are received', { buffered: false }, async t => {
  const pass = holdTimers(t, 'setInterval')
  const connections = createConnections({
    isCurrent: () => true, isTrusted: () => true, findAll: async () => []
  })
  const now = Date.now.bind(Date)
  const signal = connections.signal({ ...cachedToken('h'), expiresAt: now() + 3_600_000 }, new EventEmitter())
  t.intercept(Date, 'now', { value: () => now() + 3_600_000 })
  t.notOk(signal.aborted)
  pass(1000)
  t.equal(codeOf(signal), 'MMC_TOKENS_EXPIRED')
})

t.test('a change in the turn in which a lookup ends is looked up at once', async t => {
  const lookups: string[][] = []
  const connections = createConnections({
    isCurrent: () => true,
    isTrusted: () => true,
    async findAll (hashes) {
      lookups.push(hashes)
      return []
    }
  })
  t.teardown(() => { connections.close() })
  const [first, second] = ['a', 'b'].map(hash => connections.signal(cachedToken(hash), new EventEmitter()))
  first?.addEventListener('abort', () => { queueMicrotask(() => { connections.forget('b') }) })
  connections.forget('a')
  for (let count = 0; count < 5; count++) await turn()
  t.strictSame(lookups, [['a'], ['b']])
  t.equal(second?.aborted, true)
})

t.test('a flood of notifications that all tokens may have changed does not hold up a node with open connections', async t => {
  const lookups: number[] = []
  const connections = createConnections({
    isCurrent: () => true,
    isTrusted: () => true,
    async findAll (hashes) {
      lookups.push(hashes.length)
      return hashes.map(hash => cachedToken(hash).token)
    }
  })
  t.teardown(() => { connections.close() })
  for (let n = 0; n < 5000; n++) connections.signal(cachedToken(String(n)), new EventEmitter())
  const before = process.cpuUsage()
  for (let n = 0; n < 50_000; n++) connections.clear()
  const { user } = process.cpuUsage(before)
  t.ok(user < 1_000_000, 'one by one, the connections would take many seconds')
  await until(() => lookups.length > 0)
  t.strictSame(lookups, [5000])
})

t.test('a role that changes ends what was opened before, also if it asks for its signal later, and nothing that was opened after', async t => {
  const database = await createDatabase(t)
  const node = await startNode(t, database)
  await held(node)
  const { token, hash } = await issue(node, { role: 'editor' })
  const { query } = database
  const [before, late] = [await node.app.tokens.authenticate(token), await node.app.tokens.authenticate(token)]
  const first = node.app.tokens.signal(before as Authenticated, new EventEmitter())
  await query("UPDATE tokens SET role = 'viewer' WHERE hash = $1", [hash])
  await until(() => first?.aborted === true)
  const after = await node.app.tokens.authenticate(token)
  t.equal(after?.token.role, 'viewer')
  const second = node.app.tokens.signal(after as Authenticated, new EventEmitter())
  const third = node.app.tokens.signal(late as Authenticated, new EventEmitter())
  await until(() => third?.aborted === true)
  t.strictSame([codeOf(first as AbortSignal), codeOf(third as AbortSignal)], ['MMC_TOKENS_REVOKED', 'MMC_TOKENS_REVOKED'])
  t.equal(second?.aborted, false)
})

t.test('an answer that is older than a change ends what was opened before the change, and nothing that was opened after', async t => {
  const asked = new EventEmitter()
  const connections = createConnections({
    isCurrent: () => true,
    isTrusted: () => true,
    findAll: async () => await new Promise(resolve => {
      asked.emit('asked', (role: string) => { resolve([{ ...cachedToken('h').token, role }]) })
    })
  })
  t.teardown(() => { connections.close() })
  const open = (role: string): AbortSignal => {
    const cached = cachedToken('h')
    return connections.signal({ ...cached, token: { ...cached.token, role } }, new EventEmitter())
  }
  /** Resolves when the row is looked up after a change, with what answers that. */
  const change = async (): Promise<(role: string) => void> => {
    const asking = once(asked, 'asked')
    connections.forget('h')
    const [answer] = await asking as [(role: string) => void]
    return answer
  }
  const [old, before] = [open('admin'), open('viewer')]
  const answer = await change()
  const after = open('editor')
  const changing = change()
  answer('viewer')
  const answerLater = await changing
  t.strictSame([old.aborted, before.aborted, after.aborted], [true, false, false])
  answerLater('editor')
  await until(() => before.aborted)
  t.equal(after.aborted, false)
})

t.test('an expiry that SQL shortens and restores ends nothing', async t => {
  const database = await createDatabase(t)
  const node = await startNode(t, database)
  await held(node)
  const { token, hash, validUntil } = await issue(node)
  const { query } = database
  const { signal } = await stream(node, token)
  const set = async (time: string): Promise<void> => {
    await query('UPDATE tokens SET valid_until = $2 WHERE hash = $1', [hash, time])
    await until(async () => (await node.app.tokens.authenticate(token))?.token.validUntil === time)
    await sleep(500) // much longer than its connections take to be looked up
  }
  await set(new Date(Math.ceil(Date.now() / 1000) * 1000 + 2000).toISOString())
  await set(validUntil)
  await sleep(3000) // longer than the shortened time
  t.equal(signal.aborted, false)
})

t.test('while changes are not received, Postgres is queried every second; while it is down, all stay open', async t => {
  const database = await createDatabase(t)
  const one = await startNode(t, database)
  const proxy = await createProxy(t, database.url)
  const behind = await startNode(t, { ...database, url: proxy.url })
  await held(behind)
  const [kept, token] = [await issue(one), await issue(one)]
  const open = [await stream(behind, kept.token), await stream(behind, token.token)] as const
  const socket = await connect(behind, token.token)
  proxy.set('refuse')
  proxy.cut()
  await until(() => behind.app.tokens.health().lease === 'lost')
  await one.app.tokens.revoke(token.hash)
  await sleep(1500) // longer than the pause between two questions
  t.strictSame(open.map(({ signal }) => signal.aborted), [false, false], 'nobody knows')
  proxy.set('none')
  await Promise.all([open[1].ended, once(socket, 'close')])
  t.equal(codeOf(open[1].signal), 'MMC_TOKENS_REVOKED')
  t.notOk(open[0].signal.aborted)
})

t.test('authenticate: the rules of a request for a token that came otherwise, with a signal', async t => {
  const events: Array<{ type: string, reason?: string, address: string | null, requestId: string | null }> = []
  const node = await startNode(t, await createDatabase(t), {
    onEvent: (event: typeof events[number]) => { events.push(event) }
  })
  const { tokens } = node.app
  const { token, hash, name } = await issue(node)
  const answer = await tokens.authenticate(token)
  t.match(answer, { user: { username: `token:${name}`, roles: ['viewer'] }, token: { hash, name } })
  t.not((await tokens.get(hash))?.lastUsed, (await tokens.get(hash))?.issueDate, 'it counts as a use')
  for (const other of ['', 'opaque', 'a.b.c', 5 as never]) t.equal(await tokens.authenticate(other), null)
  t.equal(await tokens.authenticate(`${token.slice(0, -4)}AAAA`, { address: '192.0.2.1', requestId: 'r1' }), null)
  t.match(events.filter(({ type }) => type === 'authentication.rejected'), [
    { reason: /signature/, address: '192.0.2.1', requestId: 'r1' }
  ])
  t.match((await tokens.metrics()).authentications, { accepted: 1, invalid: 1 })

  t.throws(() => tokens.signal(answer as never), { code: 'MMC_TOKENS_SIGNAL' })
  const [open, over] = [new EventEmitter(), new EventEmitter()]
  const signals = [tokens.signal(answer as never, open), tokens.signal(answer as never, over)] as AbortSignal[]
  over.emit('close')
  await tokens.revoke(hash)
  t.strictSame(signals.map(signal => signal.aborted), [true, false])
  const closed = Object.assign(new EventEmitter(), { closed: true })
  t.equal(tokens.signal(answer as never, closed)?.aborted, false, 'it would never be released')
  t.equal(closed.listenerCount('close'), 0)
  const unreachable = new WebSocket('ws://127.0.0.1:1').on('error', () => {})
  await new Promise(resolve => unreachable.once('close', resolve))
  tokens.signal(answer as never, unreachable)
  t.equal(unreachable.listenerCount('close'), 0, 'a WebSocket has no property "closed"')
  t.equal(open.listenerCount('close') + over.listenerCount('close'), 0)
  t.equal(await tokens.authenticate(token), null)
  const pending = tokens.authenticate((await issue(node)).token)
  await tokens.disable()
  t.equal(await pending, null, 'disabled while it was looked up')
  t.equal(await tokens.authenticate(token), null)
  t.equal(codeOf(tokens.signal(answer as never, new EventEmitter()) as AbortSignal), 'MMC_TOKENS_DISABLED')
})

t.test('TRUNCATE aborts the signals of all tokens; one that closed while it was looked up is left alone', async t => {
  const database = await createDatabase(t)
  const node = await startNode(t, database)
  await held(node)
  const { tokens } = node.app
  const opened = await Promise.all(Array.from({ length: 50 }, async () => {
    const result = await tokens.authenticate((await issue(node)).token)
    const closable = new EventEmitter()
    return { result, closable, signal: tokens.signal(result as never, closable) as AbortSignal }
  }))
  await database.query('TRUNCATE tokens')
  await Promise.all(opened.map(async ({ signal }) => { if (!signal.aborted) await once(signal, 'abort') }))
  // What the cache has no longer is looked up at once.
  const late = opened.map(({ result }) => {
    const closable = new EventEmitter()
    return { closable, signal: tokens.signal(result as never, closable) as AbortSignal }
  })
  const closing = late.slice(25)
  late[0]?.signal.addEventListener('abort', () => { for (const { closable } of closing) closable.emit('close') })
  await Promise.all(late.slice(0, 25).map(async ({ signal }) => { if (!signal.aborted) await once(signal, 'abort') }))
  await turn()
  t.strictSame(new Set(closing.map(({ signal }) => signal.aborted)), new Set([false]))
})
