import { EventEmitter, once } from 'node:events'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Revocations, createRevocations } from '../../lib/store/revocations.js'
import { type TestHost, bearer, buildHost } from '../support/build-host.js'
import { createDatabase, createSeparateDatabase, databaseUrl } from '../support/database.js'
import { type NodeProcess, startNode } from '../support/node-process.js'
import { startPostgres } from '../support/postgres.js'
import { type Proxy, createProxy } from '../support/proxy.js'
import { holdTimers } from '../support/timers.js'

t.test('a token made on one node works on all; one revoked on any, or deleted with SQL, is refused by all', async t => {
  const one = await buildHost(t)
  const nodes = [one, await buildHost(t, { database: one.database }), await buildHost(t, { database: one.database })]
  const statuses = async (token: string): Promise<number[]> =>
    await Promise.all(nodes.map(async ({ app }) => (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode))

  for (const [index, { app, issue }] of nodes.entries()) {
    const { token, hash } = await issue({ name: `made on ${index}` })
    t.strictSame(await statuses(token), [200, 200, 200])
    const headers = await one.login()
    const revoking = nodes[(index + 1) % 3] ?? one
    t.equal((await revoking.app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })).statusCode, 200)
    t.equal((await revoking.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401, 'at once where it was revoked')
    await refusedByAll(token)
    t.equal(await app.tokens.get(hash), null)
  }
  const { token, hash } = await one.issue({ name: 'by SQL' })
  t.strictSame(await statuses(token), [200, 200, 200])
  await one.database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  await refusedByAll(token)

  async function refusedByAll (token: string): Promise<void> {
    const answered = performance.now()
    for (;;) {
      const begun = performance.now() - answered
      const now = await statuses(token)
      if (now.every(status => status === 401)) return
      // A 500 is what a busy Postgres costs.
      if (now.includes(200) && begun > 2000) throw new Error(`accepted ${begun} ms after the answer`)
    }
  }
})

t.test('switching tokens off is a switch of one process', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { database: one.database })
  const { token } = await one.issue()
  await one.app.tokens.disable()
  t.equal((await one.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
  t.equal((await two.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test('of three node processes, the one that answers the DELETE refuses the token at once, the others never later than 2 s after', async t => {
  const { url } = await createSeparateDatabase(t)
  const nodes = await Promise.all(Array.from({ length: 3 }, async () => await startNode(t, url)))

  // A light load beside it, all the while.
  const good = await (nodes[0] as NodeProcess).issue('good')
  const over = new AbortController()
  const load = Promise.all(nodes.map(async node => {
    const statuses = new Set<number>()
    while (!over.signal.aborted) {
      statuses.add((await node.use(good.token)).status)
      await sleep(5)
    }
    return statuses
  }))

  let slowest = 0
  for (let round = 0; round < 30 && slowest < 2000; round++) {
    const [revoking, ...others] = [...nodes.slice(round % 3), ...nodes.slice(0, round % 3)] as [NodeProcess, NodeProcess, NodeProcess]
    const { token, hash } = await revoking.issue(`round ${round}`)
    // Twice, so that it is known everywhere.
    for (const node of [...nodes, ...nodes]) if ((await node.use(token)).status !== 200) t.fail('a live token is accepted')
    await revoking.revoke(hash)
    const answered = performance.now()
    const [there, ...elsewhere] = await Promise.all([
      revoking.use(token),
      ...others.map(async node => {
        let last = 0
        for (;;) {
          const { status, begun } = await node.use(token)
          if (status === 401 || begun - answered > 3000) return last
          if (status === 200) last = begun - answered
        }
      })
    ])
    t.equal(there.status, 401)
    slowest = Math.max(slowest, ...elsewhere)
  }
  t.ok(slowest < 2000, `last accepted ${slowest} ms after the answer`)
  t.comment(`last accepted ${slowest.toFixed(1)} ms after the answer`)

  over.abort()
  for (const statuses of await load) t.notOk(statuses.has(401) || statuses.has(403), 'and a good token is never refused')
})

interface Node extends TestHost {
  proxy: Proxy
  /** Resolves with the log line when the lease is held, or lost, from now on. */
  becomes: (lease: 'held' | 'lost') => Promise<string>
}

/** A node behind a proxy of its own, its lease held. */
async function createNode (t: Test, options: Parameters<typeof buildHost>[1] = {}): Promise<Node> {
  const database = options.database ?? await createDatabase(t)
  const proxy = await createProxy(t, database.url)
  const log = new EventEmitter()
  const stream = {
    write (line: string) {
      if (line.includes('does not hear of revocations')) log.emit('lost', line)
      else if (line.includes('hears of revocations')) log.emit('held', line)
    }
  }
  const becomes = async (lease: string): Promise<string> => (await once(log, lease) as [string])[0]
  const held = becomes('held')
  const host = await buildHost(t, { ...options, database, tokens: { postgres: proxy.url, ...options.tokens }, fastify: { logger: { stream } } })
  // A host that listens stays; our timers and idle connections are no reason to.
  await host.app.listen({ port: 0, host: '127.0.0.1' })
  await held
  t.strictSame(host.app.tokens.health(), { enabled: true, lease: 'held' })
  return { ...host, proxy, becomes }
}

/** One request, in a turn of the event loop of its own, as from a socket. */
async function use ({ app }: TestHost, token: string): Promise<number> {
  await turn()
  return (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode
}

/** Statuses until the token is refused: nobody may be let in by it later than 2 s from now. */
async function lastAccepted (node: TestHost, token: string): Promise<number> {
  const answered = performance.now()
  let last = 0
  while (performance.now() - answered < 3000) {
    const begun = performance.now()
    const status = await use(node, token)
    if (status === 401) break
    if (status === 200) last = begun - answered
  }
  return last
}

/** A node, and how many queries it makes while it does something, its lease held all the while; on a machine too busy for that, or for what it says itself, again. */
async function createCounting (t: Test): Promise<{ node: Node, count: (work: () => Promise<boolean | void>) => Promise<number> }> {
  const database = await createDatabase(t)
  const pool = new pg.Pool({ connectionString: database.url })
  t.teardown(() => pool.end())
  let queries = 0
  pool.on('connect', client => {
    const query = client.query.bind(client) as (query: { text: string }) => Promise<never>
    Object.assign(client, {
      query: async (asked: { text: string }) => {
        // Heartbeats, and what is asked of the outbox in the background.
        if (!/pg_notify|\.events/.test(asked.text)) queries++
        return await query(asked)
      }
    })
  })
  const node = await createNode(t, { database, tokens: { postgres: pool } })
  const isHeld = (): boolean => node.app.tokens.health().lease === 'held'
  return {
    node,
    async count (work) {
      for (let tries = 0; tries < 5; tries++) {
        while (!isHeld()) await turn()
        queries = 0
        let wasHeld = true
        let isDone: boolean | void
        const watch = setInterval(() => { wasHeld &&= isHeld() }, 1)
        try {
          isDone = await work()
        } finally {
          clearInterval(watch)
        }
        if (isDone !== false && wasHeld && isHeld()) return queries
      }
      throw new Error('the lease was never held for long enough')
    }
  }
}

t.test('while the lease is held, a known token costs no query, and a thousand requests at once with one that nobody knows cost one', async t => {
  const { node, count } = await createCounting(t)
  let token = ''
  t.equal(await count(async () => {
    ({ token } = await node.issue({ name: `unknown ${Math.random()}` }))
    const statuses = new Set(await Promise.all(Array.from({ length: 1000 }, async () => await use(node, token))))
    // Postgres may take more than its second where all else does, too.
    return statuses.size === 1 && statuses.has(200)
  }), 2, 'one that makes it, one that looks it up')
  t.equal(await count(async () => { for (let n = 0; n < 100; n++) await use(node, token) }), 0)
  const forged = `${token.slice(0, -10)}AAAAAAAAAA`
  t.equal(await count(async () => { for (let n = 0; n < 100; n++) t.equal(await use(node, forged), 401) }), 0, 'a forgery never reaches Postgres')
})

t.test('a revoked token that is hammered costs one query a second at most', async t => {
  const { node, count } = await createCounting(t)
  const { token, hash } = await node.issue()
  await use(node, token)
  await node.database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  while (await use(node, token) !== 401);
  const queries = await count(async () => {
    const started = performance.now()
    while (performance.now() - started < 1500) t.equal(await use(node, token), 401)
  })
  t.ok(queries <= 2, `${queries} queries`)
})

t.test('what changes elsewhere is heard of: revoked, changed, deleted with SQL, truncated', async t => {
  const one = await createNode(t)
  const two = await createNode(t, { database: one.database })
  const changes: Record<string, (hash: string) => Promise<unknown>> = {
    revoked: async hash => await two.app.tokens.revoke(hash),
    'made to end': async hash => await one.database.query("UPDATE tokens SET valid_until = now() - interval '1 s' WHERE hash = $1", [hash]),
    'deleted with SQL': async hash => await one.database.query('DELETE FROM tokens WHERE hash = $1', [hash]),
    truncated: async () => await one.database.query('TRUNCATE tokens')
  }
  for (const [what, change] of Object.entries(changes)) {
    const { token, hash } = await one.issue({ name: what })
    t.equal(await use(one, token), 200)
    await change(hash)
    const last = await lastAccepted(one, token)
    // Without being told, it would believe what it knows for a minute.
    t.ok(last < 1500, `${what}: last accepted ${last} ms after`)
  }
  const { token, hash } = await one.issue({ name: 'to be renamed' })
  await use(one, token)
  await one.database.query("UPDATE tokens SET role = 'editor' WHERE hash = $1", [hash])
  while ((await one.app.inject({ url: '/api/editor', headers: bearer(token) })).statusCode !== 200) await turn()
  t.pass('a new role is in force')
})

const FAULTS: Record<string, (proxy: Proxy) => void> = {
  'the connection swallows what is sent to Postgres': proxy => { proxy.set('swallow up') },
  'the connection swallows what Postgres sends': proxy => { proxy.set('swallow down') },
  'notifications are swallowed, and nothing else': proxy => { proxy.set('swallow notifications') },
  'connections are cut and refused': proxy => {
    proxy.set('refuse')
    proxy.cut()
  }
}
for (const [fault, strike] of Object.entries(FAULTS)) {
  t.test(`${fault}: a token revoked meanwhile is never accepted later than 2 s after the answer, and the lease comes back`, async t => {
    const other = await buildHost(t)
    const node = await createNode(t, { database: other.database })
    const { token, hash } = await other.issue({ name: 'revoked' })
    const good = await other.issue({ name: 'good' })
    t.equal(await use(node, token), 200)
    const lost = node.becomes('lost')
    strike(node.proxy)
    await other.app.tokens.revoke(hash)
    const last = await lastAccepted(node, token)
    t.ok(last < 2000, `last accepted ${last} ms after`)
    await lost
    t.equal(node.app.tokens.health().lease, 'lost')
    const held = node.becomes('held')
    node.proxy.set('none')
    node.proxy.cut()
    await held
    t.equal(await use(node, good.token), 200)
    t.equal(await use(node, token), 401)
  })
}

t.test('a backend that is ended costs the lease, which is back at once; what is believed is not carried over', async t => {
  const node = await createNode(t)
  const { token, hash } = await node.issue()
  t.equal(await use(node, token), 200)
  const [lost, held] = [node.becomes('lost'), node.becomes('held')]
  await node.database.query(`ALTER TABLE tokens DISABLE TRIGGER notify_change; DELETE FROM tokens WHERE hash = '${hash}'; ALTER TABLE tokens ENABLE ALWAYS TRIGGER notify_change`)
  t.equal(await use(node, token), 200, 'nobody said a word')
  await node.database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' AND datname = current_database() AND query LIKE '%LISTEN%'")
  t.match(await lost, /"level":40/)
  t.match(await held, /"level":30/)
  t.equal(await use(node, token), 401)
})

t.test('a host closes in time where the connections have gone silent, in the middle of something or not', async t => {
  for (const isBusy of [true, false]) {
    const node = await createNode(t)
    const { token } = await node.issue()
    if (isBusy) t.equal(await use(node, token), 200)
    node.proxy.set('swallow up')
    const started = performance.now()
    await node.app.close()
    t.ok(performance.now() - started < 9000, `${performance.now() - started} ms, where Docker waits for 10 s`)
  }
})

t.test('a `listen` that reaches another database proves nothing: the lease is never held, and a revoked token is refused at once', async t => {
  const database = await createDatabase(t)
  const { issue } = await buildHost(t, { database })
  const elsewhere = `${database.schema}_elsewhere`
  const client = new pg.Client(database.url)
  await client.connect()
  await client.query(`CREATE DATABASE ${elsewhere}`)
  t.teardown(async () => {
    await client.query(`DROP DATABASE ${elsewhere} WITH (FORCE)`)
    await client.end()
  })
  const url = new URL(database.url)
  url.pathname = elsewhere
  const log = new EventEmitter()
  const stream = { write (line: string) { if (line.includes('hear of revocations')) log.emit('line', line) } }
  const lost = once(log, 'line') as Promise<[string]>
  const node = await buildHost(t, { database, tokens: { listen: String(url) }, fastify: { logger: { stream } } })
  await node.app.listen({ port: 0, host: '127.0.0.1' })
  t.match((await lost)[0], /"level":40.*same database/)
  t.equal(node.app.tokens.health().lease, 'lost')
  const { token, hash } = await issue()
  t.equal(await use(node, token), 200)
  await node.database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  t.equal(await use(node, token), 401)
})

/** A server of its own, which can be stopped in the middle of everything and goes on where it was. */
async function createServer (t: Test) {
  const postgres = await startPostgres()
  const client = new pg.Client(postgres.url)
  await client.connect()
  const frozen = new Set<number>()
  // Each once: what goes on may end at once, and its id mean nothing then.
  function thaw (): void {
    for (const pid of frozen) process.kill(pid, 'SIGCONT')
    frozen.clear()
  }
  t.teardown(async () => {
    thaw()
    await client.end()
    await postgres.end()
  })
  const pids = async (): Promise<number[]> => {
    const { rows } = await client.query<{ pid: number }>("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    return rows.map(({ pid }) => pid)
  }
  function stop (pid: number): void {
    process.kill(pid, 'SIGSTOP')
    frozen.add(pid)
  }
  return {
    database: { url: postgres.url, schema: 'mmc_tokens', query: async (text: string, values?: unknown[]) => (await client.query(text, values)).rows as Array<Record<string, unknown>> },
    pids,
    stop,
    thaw,
    /** The server first, so that no backend comes later. */
    async freeze () {
      stop(await postgres.pid())
      for (const pid of await pids()) stop(pid)
    }
  }
}

/** A node that listens and holds its lease, and the backend through which it hears. */
async function createListeningNode (t: Test, { database, pids }: Awaited<ReturnType<typeof createServer>>): Promise<TestHost & { ear: number }> {
  const host = await buildHost(t, { database })
  await host.app.listen({ port: 0, host: '127.0.0.1' })
  while (host.app.tokens.health().lease !== 'held') await turn()
  const listening = await database.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' ORDER BY backend_start DESC LIMIT 1")
  t.ok((await pids()).includes(listening[0]?.pid as number))
  return { ...host, ear: listening[0]?.pid as number }
}

t.test('a Postgres that is frozen before a node hears of a revocation: the token is accepted from memory for 2 s at most, and never when it thaws', async t => {
  const server = await createServer(t)
  const [other, node] = [await createListeningNode(t, server), await createListeningNode(t, server)]
  const { token, hash } = await other.issue()
  const good = await other.issue()
  for (const known of [token, good.token]) t.equal(await use(node, known), 200)

  // What the node hears with goes first.
  server.stop(node.ear)
  t.equal(await other.app.tokens.revoke(hash), true)
  const answered = performance.now()
  await server.freeze()
  const there = use(other, token)
  await isBelievedUntilTheLeaseEnds(t, node, [token, good.token], answered)
  t.not(await there, 200, 'where it was revoked it is dead at once')

  server.thaw()
  t.not(await use(node, token), 200, 'its very first answer')
  while (node.app.tokens.health().lease !== 'held') await turn()
  t.strictSame([await use(node, token), await use(node, good.token)], [401, 200])
})

t.test('a revocation that a frozen Postgres does not answer: both nodes believe nothing when the lease has ended, and the next one counts', async t => {
  const server = await createServer(t)
  const nodes = [await createListeningNode(t, server), await createListeningNode(t, server)] as const
  const { token, hash } = await nodes[0].issue()
  for (const node of nodes) t.equal(await use(node, token), 200)

  await server.freeze()
  const frozen = performance.now()
  const revoking = t.rejects(nodes[0].app.tokens.revoke(hash), { code: 'MMC_TOKENS_DEADLINE' })
  await Promise.all(nodes.map(async node => { await isBelievedUntilTheLeaseEnds(t, node, [token], frozen) }))
  await revoking
  server.thaw()
  for (const { app } of nodes) while (app.tokens.health().lease !== 'held') await turn()
  await nodes[0].app.tokens.revoke(hash)
  const answered = performance.now()
  t.equal(await use(nodes[0], token), 401)
  for (;;) {
    const begun = performance.now() - answered
    const status = await use(nodes[1], token)
    if (status === 401) break
    if (status === 200 && begun > 2000) return t.fail(`accepted ${begun} ms after the answer`)
  }
})

/** Tokens that a node knows, while Postgres says nothing: in by memory until 2 s after `since` at most; else neither let in nor refused by guess. */
async function isBelievedUntilTheLeaseEnds (t: Test, node: TestHost, tokens: string[], since: number): Promise<void> {
  let last = 0
  const statuses = new Set<number>()
  while (performance.now() - since < 3000) {
    const begun = performance.now()
    const answers = await Promise.all(tokens.map(async token => await use(node, token)))
    for (const status of answers) statuses.add(status)
    if (answers.includes(200)) last = begun - since
  }
  t.ok(last < 2000, `last accepted ${last} ms after`)
  statuses.delete(200)
  t.strictSame([...statuses], [500])
}

t.test('a node process that is stopped while a token is revoked lets nobody in by it when it goes on', async t => {
  const { url } = await createSeparateDatabase(t)
  const [other, node] = await Promise.all([startNode(t, url), startNode(t, url)])
  const { token, hash } = await other.issue('stopped')
  for (let uses = 0; uses < 10; uses++) t.equal((await node.use(token)).status, 200)

  node.kill('SIGSTOP')
  await other.revoke(hash)
  // The bound is one of wall time.
  await sleep(2000)
  // They wait at its socket: it meets them before it hears of anything.
  const waiting = Array.from({ length: 10 }, async () => (await node.use(token)).status)
  await sleep(100)
  node.kill('SIGCONT')
  for (const status of await Promise.all(waiting)) t.ok(status === 401 || status === 500, `${status}`)
  let status = 500
  while (status === 500) status = (await node.use(token)).status
  t.equal(status, 401)
})

interface Listening {
  revocations: Revocations
  /** The clock, in milliseconds. Moved alone, it passes as in a process that sleeps. */
  clock: { now: number }
  /** Lets time pass, on the clock and for timers. */
  pass: (milliseconds: number) => void
  /** What the plugin sent, by channel and payload. */
  beats: Array<{ channel: string, payload: string }>
  /** Those that the listener made, and those that ended. */
  clients: pg.Client[]
  ended: Set<pg.Client>
  heard: string[]
  lines: string[]
  /** Why the lease was lost. */
  reasons: string[]
  /** Resolves when so many heartbeats were sent. */
  beat: (count: number) => Promise<void>
  /** A notification, as from Postgres. */
  notify: (channel: string, payload?: string) => void
  /** A heartbeat that is back. */
  prove: (index: number) => void
}

interface Faults {
  /** What becomes of a heartbeat. */
  send?: () => Promise<void>
  /** What becomes of a statement on the connection that listens. */
  ask?: (answer: () => Promise<unknown>) => Promise<unknown>
}

/** A listener on a real connection, its heartbeats, its clock and its timers in our hands. */
async function createListening (t: Test, { send = async () => {}, ask = async answer => await answer() }: Faults = {}): Promise<Listening> {
  const clock = { now: 10_000 }
  const [beats, clients, heard, lines, reasons]: [Listening['beats'], pg.Client[], string[], string[], string[]] = [[], [], [], [], []]
  const ended = new Set<pg.Client>()
  let wanted = 0
  let tell = (): void => {}
  class Client extends pg.Client {
    constructor (config?: string | pg.ClientConfig) {
      super(config)
      clients.push(this)
      this.on('end', () => { ended.add(this) })
      const query = this.query.bind(this) as (text: string) => Promise<unknown>
      Object.assign(this, { query: async (text: string) => await ask(async () => await query(text)) })
    }
  }
  t.intercept(performance, 'now', { value: () => clock.now })
  const tick = holdTimers(t, 'setTimeout')
  const listener = { clear () { heard.push('clear') }, forget (hash: string) { heard.push(`forget ${hash}`) }, ended () { heard.push('ended') } }
  const neighbours = { channel: 'neighbours', greet () { heard.push('greet') }, hear (payload: string) { heard.push(`hear ${payload}`) } }
  const log = { info: (line: string) => { lines.push(`info ${line}`) }, warn ({ err }: { err: Error }, line: string) { lines.push(`warn ${line}`); reasons.push(err.message) }, error () {} }
  const revocations = createRevocations({ config: { connectionString: await databaseUrl() }, place: 'here' }, async (channel, payload) => {
    beats.push({ channel, payload })
    if (beats.length >= wanted) tell()
    await send()
  }, listener, neighbours, log as never, Client)
  // A connection that closes keeps no process.
  const stay = setInterval(() => {}, 1000)
  t.teardown(async () => {
    await revocations.close()
    clearInterval(stay)
  })
  const notify = (channel: string, payload?: string): void => { clients.at(-1)?.emit('notification', { channel, payload }) }
  return {
    revocations,
    clock,
    pass (milliseconds) {
      for (let passed = 0; passed < milliseconds; passed++) {
        clock.now++
        tick(1)
      }
    },
    beats,
    clients,
    ended,
    heard,
    lines,
    reasons,
    beat: count => new Promise(resolve => {
      wanted = count
      tell = resolve
      if (beats.length >= count) resolve()
    }),
    notify,
    prove: index => { const { channel, payload } = beats[index] as Listening['beats'][number]; notify(channel, payload) }
  }
}

t.test('a heartbeat that is back holds the lease for two seconds from when it was sent, whichever came back last', async t => {
  const { revocations, clock, pass, lines, heard, beat, prove, notify, beats } = await createListening(t)
  t.equal(revocations.isTrusted(), false)
  revocations.start()
  await beat(1)
  t.strictSame(heard, ['clear'], 'nobody heard of what changed before')
  t.equal(revocations.isTrusted(), false, 'sent is not back')
  notify(beats[0]?.channel ?? '', 'of another')
  t.equal(revocations.isTrusted(), false, 'not ours')
  pass(499)
  t.equal(beats.length, 1)
  pass(1)
  t.equal(beats.length, 2, 'twice a second')
  pass(100)
  prove(1)
  t.equal(revocations.isTrusted(), true)
  prove(0)
  clock.now = 10_000 + 500 + 1999
  t.equal(revocations.isTrusted(), true)
  clock.now++
  t.equal(revocations.isTrusted(), false)
  prove(0)
  prove(1)
  t.equal(revocations.isTrusted(), false, 'a heartbeat proves once')
  t.strictSame([lines, heard], [['info hears of revocations from Postgres at here'], ['clear', 'greet', 'ended']], 'said once')
})

t.test('it hears of each token, of all at once, and of its neighbours; what has no payload is not all', async t => {
  const { revocations, heard, beat, notify } = await createListening(t)
  revocations.start()
  await beat(1)
  heard.length = 0
  notify('mmc_tokens', 'a')
  notify('mmc_tokens', '*')
  notify('neighbours', 'b')
  notify('mmc_tokens')
  t.strictSame(heard, ['forget a', 'clear', 'hear b', 'forget '])
})

t.test('a heartbeat that is not back after a second costs the lease, and the connection; one that just came back does not', async t => {
  const { revocations, pass, clients, lines, beats, beat, prove } = await createListening(t)
  revocations.start()
  await beat(1)
  pass(999)
  prove(1)
  pass(1)
  t.strictSame([revocations.isTrusted(), beats.length], [true, 3], 'a second is not yet too late')
  prove(0)
  prove(2)
  // The one at 1500 never comes back; the next looks are at 2500, which is not too late, and at 3000.
  pass(1000)
  prove(4)
  pass(999)
  prove(5)
  t.strictSame([revocations.isTrusted(), clients.length], [true, 1])
  pass(1)
  t.equal(revocations.isTrusted(), false)
  t.match(lines.at(-1), /^warn does not hear of revocations from Postgres at here/)
  t.strictSame([clients.length, beats.length], [1, 6])
  pass(1000)
  await beat(7)
  t.equal(clients.length, 2)
  pass(1000)
  t.strictSame([clients.length, beats.length], [2, 9], 'what waited on the first is forgotten')
})

t.test('however the client says that it ended, the lease is lost at once, and once', async t => {
  for (const [reason, say] of [['broken', (client: pg.Client) => client.emit('error', new Error('broken'))], ['the connection ended', (client: pg.Client) => client.emit('end')]] as const) {
    await t.test(reason, async t => {
      const { revocations, pass, clients, lines, reasons, beats, beat, prove } = await createListening(t)
      revocations.start()
      await beat(1)
      prove(0)
      const [client] = clients as [pg.Client]
      t.equal(revocations.isTrusted(), true)
      say(client)
      t.equal(revocations.isTrusted(), false)
      say(client)
      t.strictSame([lines.length, reasons], [2, [reason]])
      pass(1000)
      t.strictSame([beats.length, clients.length], [1, 2], 'no more heartbeats on it')
      await beat(2)
      prove(1)
      t.equal(revocations.isTrusted(), true)
      say(client)
      t.equal(revocations.isTrusted(), true, 'an old client says nothing of the new one')
    })
  }
})

t.test('it tries again ever more slowly, up to a second, says so once, and begins anew after success', async t => {
  let isDown = true
  const { revocations, pass, clients, lines, beat, prove } = await createListening(t, { async send () { if (isDown) throw new Error('no') } })
  t.intercept(Math, 'random', { value: () => 0.5 })
  const pauseIs = async (pause: number): Promise<void> => {
    await turn()
    const before = clients.length
    pass(pause - 1)
    t.equal(clients.length, before)
    pass(1)
    t.equal(clients.length, before + 1, `${pause} ms`)
  }
  revocations.start()
  for (const [before, pause] of [75, 150, 300, 600, 750, 750].entries()) {
    await beat(before + 1)
    await pauseIs(pause)
  }
  t.equal(lines.length, 1)
  isDown = false
  await beat(7)
  prove(6)
  isDown = true
  pass(500)
  await pauseIs(75)
  t.match(lines, [/^warn does/, /^info hears/, /^warn does/])
})

t.test('it starts once, also while it waits to try again, and after it was closed it is silent', async t => {
  let isDown = false
  const { revocations, pass, clients, beats, beat, prove } = await createListening(t, { async send () { if (isDown) throw new Error('no') } })
  revocations.start()
  revocations.start()
  await beat(1)
  t.equal(clients.length, 1)
  isDown = true
  pass(500)
  await turn()
  revocations.start()
  t.equal(clients.length, 1)
  isDown = false
  pass(1000)
  await beat(3)
  prove(2)
  t.equal(revocations.isTrusted(), true)
  const closing = revocations.close()
  t.equal(revocations.isTrusted(), false)
  await closing
  pass(5000)
  await turn()
  t.strictSame([clients.length, beats.length], [2, 3])
})

t.test('closed while it waits to try again, it does not', async t => {
  const { revocations, pass, clients, beat } = await createListening(t, { async send () { throw new Error('no') } })
  revocations.start()
  await beat(1)
  await turn()
  await revocations.close()
  pass(5000)
  t.equal(clients.length, 1)
})

t.test('a connection that can not listen is given up and closed, and another is tried', async t => {
  let isDeaf = true
  const { revocations, pass, clients, ended, reasons, beat } = await createListening(t, {
    async ask (answer) {
      if (isDeaf) throw new Error('no LISTEN')
      return await answer()
    }
  })
  revocations.start()
  while (ended.size === 0) await turn()
  t.strictSame([reasons, clients.length], [['no LISTEN'], 1])
  isDeaf = false
  pass(1000)
  await beat(1)
  t.equal(clients.length, 2)
})

t.test('closed while it begins to listen, it sends nothing', async t => {
  let closing: Promise<void> | undefined
  const { revocations, pass, beats, clients, ended } = await createListening(t, {
    async ask (answer) {
      const rows = await answer()
      closing = revocations.close()
      return rows
    }
  })
  revocations.start()
  while (ended.size === 0) await turn()
  await closing
  pass(5000)
  t.strictSame([beats.length, clients.length], [0, 1])
})

t.test('its connection is closed with it', async t => {
  const { revocations, clients, ended, beat } = await createListening(t)
  revocations.start()
  await beat(1)
  await revocations.close()
  t.strictSame([...ended], clients)
})
