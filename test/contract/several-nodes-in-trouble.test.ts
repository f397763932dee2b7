import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type TestHost, buildHost } from '../support/build-host.js'
import { type Database, createDatabase, createSeparateDatabase } from '../support/database.js'
import { measure } from '../support/measure.js'
import { startNode } from '../support/node-process.js'
import { createNode, lastAccepted, use } from '../support/node.js'
import { startPostgres } from '../support/postgres.js'
import { type Proxy, createProxy } from '../support/proxy.js'
import { until } from '../support/until.js'

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
  t.test(`${fault}: a token revoked meanwhile is never accepted later than 2 s after the answer, and the lease comes back`, { buffered: true }, async t => {
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

t.test('a terminated backend ends the lease, which is acquired again at once; the cache is not carried over', { buffered: true }, async t => {
  const node = await createNode(t, { database: await createSeparateDatabase(t) })
  const { token, hash } = await node.issue()
  t.equal(await use(node, token), 200)
  const [lost, held] = [node.becomes('lost'), node.becomes('held')]
  await node.database.query(
    `ALTER TABLE tokens DISABLE TRIGGER notify_change; DELETE FROM tokens WHERE hash = '${hash}'; ALTER TABLE tokens ENABLE ALWAYS TRIGGER notify_change`
  )
  t.equal(await use(node, token), 200, 'nobody said a word')
  await node.database.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' AND datname = current_database()"
  )
  t.match(await lost, /"level":40/)
  t.match(await held, /"level":30/)
  t.equal(await use(node, token), 401)
})

t.test('a host closes in time where the connections have gone silent, in the middle of something or not', { buffered: true }, async t => {
  for (const isBusy of [true, false]) {
    const node = await createNode(t)
    const { token } = await node.issue()
    if (isBusy) t.equal(await use(node, token), 200)
    node.proxy.set('swallow up')
    const { took } = await measure(async () => { await node.app.close() })
    t.ok(took < 5000, `${took} ms, where Docker waits for 10 s`)
  }
})

/** Another database of the same server. */
async function createElsewhere (t: Test, { url, schema }: Database): Promise<string> {
  const name = `${schema}_elsewhere`
  const client = new pg.Client(url)
  await client.connect()
  await client.query(`CREATE DATABASE ${name}`)
  t.teardown(async () => {
    await client.query(`DROP DATABASE ${name} WITH (FORCE)`)
    await client.end()
  })
  return Object.assign(new URL(url), { pathname: name }).href
}

/** A node whose pool and whose listener go separate ways, and its first line about revocations. */
async function createSplit (
  t: Test, options: Parameters<typeof buildHost>[1]
): Promise<{ node: TestHost, line: Promise<string> }> {
  const log = new EventEmitter()
  const stream = { write (line: string) { if (line.includes('revocation listener')) log.emit('line', line) } }
  const line = once(log, 'line') as Promise<[string]>
  const node = await buildHost(t, { ...options, fastify: { logger: { stream } } })
  await node.app.listen({ port: 0, host: '127.0.0.1' })
  return { node, line: line.then(([text]) => text) }
}

t.test('a `listen` that reaches another database of the same server is an error, never a lease', { buffered: true }, async t => {
  const database = await createDatabase(t)
  const { issue } = await buildHost(t, { database })
  const { node, line } = await createSplit(t, { database, tokens: { listen: await createElsewhere(t, database) } })
  t.match(await line, /"level":40.*same database/)
  const { token } = await issue()
  for (let uses = 0; uses < 20; uses++) {
    t.strictSame([await use(node, token), node.app.tokens.health().lease], [500, 'lost'])
    await sleep(100)
  }
})

for (const where of ['database', 'server']) {
  t.test(`a \`listen\` that reaches another ${where}, where other nodes are at work, is an error, which ends the lease`, { buffered: true }, async t => {
    const database = await createDatabase(t)
    const { issue } = await buildHost(t, { database })
    let elsewhere = ''
    if (where === 'server') {
      const postgres = await startPostgres()
      t.teardown(() => postgres.end())
      elsewhere = postgres.url
    } else {
      elsewhere = await createElsewhere(t, database)
    }
    await createNode(t, { database: { ...database, url: elsewhere } })
    const { node, line } = await createSplit(t, { database, tokens: { listen: elsewhere } })
    t.match(await line, /"level":30/, 'it hears those')
    const { token } = await issue()
    for (let uses = 0; uses < 20; uses++) {
      t.strictSame([await use(node, token), node.app.tokens.health().lease], [500, 'lost'])
      await sleep(100)
    }
  })
}

t.test('a pool that moves to a promoted standby, while the listener stays, ends the lease within two seconds of use', { buffered: true }, async t => {
  const primary = await startPostgres()
  t.teardown(() => primary.end())
  const database: Database = { url: primary.url, schema: 'mmc_tokens', query: async () => [] }
  const proxy = await createProxy(t, primary.url)
  const { node, line } = await createSplit(t, { database, tokens: { postgres: proxy.url, listen: primary.url } })
  await line
  const { token } = await node.issue()
  t.equal(await use(node, token), 200)
  await primary.stop()
  const standby = await startPostgres({ standbyOf: primary })
  t.teardown(() => standby.end())
  await primary.start()
  await until(() => node.app.tokens.health().lease === 'held')
  await until(async () => await use(node, token) === 200)

  const client = new pg.Client(standby.url)
  await client.connect()
  await client.query('SELECT pg_promote()')
  await client.end()
  proxy.lead(standby.url)
  proxy.cut()
  const moved = performance.now()
  let last = 0
  for (let status = 200; status === 200 && last < 5000;) {
    const begun = performance.now() - moved
    status = await use(node, token)
    if (status === 200) last = begun
  }
  t.ok(last < 2000, `last accepted ${last} ms after`)
  t.strictSame([await use(node, token), node.app.tokens.health().lease], [500, 'lost'])
})

t.test('a pool whose sessions have another time zone and another date style is at the same place', async t => {
  const database = await createDatabase(t)
  const pool = new pg.Pool({
    connectionString: database.url, options: '-c TimeZone=Asia/Kolkata -c DateStyle=German,DMY -c lc_time=C'
  })
  t.teardown(() => pool.end())
  const { node, line } = await createSplit(t, { database, tokens: { postgres: pool, listen: database.url } })
  t.match(await line, /"level":30/)
  const { token } = await node.issue()
  t.equal(await use(node, token), 200)
  t.equal(node.app.tokens.health().lease, 'held')
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
    const { rows } = await client.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return rows.map(({ pid }) => pid)
  }
  function stop (pid: number): void {
    process.kill(pid, 'SIGSTOP')
    frozen.add(pid)
  }
  return {
    database: {
      url: postgres.url,
      schema: 'mmc_tokens',
      query: async (text: string, values?: unknown[]) => (
        (await client.query(text, values)).rows as Array<Record<string, unknown>>
      )
    },
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
async function createListeningNode (
  t: Test, { database, pids }: Awaited<ReturnType<typeof createServer>>
): Promise<TestHost & { ear: number }> {
  const host = await buildHost(t, { database })
  await host.app.listen({ port: 0, host: '127.0.0.1' })
  await until(() => host.app.tokens.health().lease === 'held')
  const listening = await database.query(
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'fastify-mmc-tokens listener' ORDER BY backend_start DESC LIMIT 1"
  )
  t.ok((await pids()).includes(listening[0]?.pid as number))
  return { ...host, ear: listening[0]?.pid as number }
}

t.test('a Postgres that is frozen before a node receives a revocation: the token is accepted from memory for 2 s at most, and never when it thaws', { buffered: true }, async t => {
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
  await until(() => node.app.tokens.health().lease === 'held')
  t.strictSame([await use(node, token), await use(node, good.token)], [401, 200])
})

t.test('a revocation that a frozen Postgres does not answer: after the lease, both nodes accept nothing from memory, and the next revocation works', { buffered: true }, async t => {
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
  for (const { app } of nodes) await until(() => app.tokens.health().lease === 'held')
  await nodes[0].app.tokens.revoke(hash)
  const answered = performance.now()
  t.equal(await use(nodes[0], token), 401)
  for (;; await sleep(2)) {
    const begun = performance.now() - answered
    const status = await use(nodes[1], token)
    if (status === 401) break
    if (status === 200 && begun > 2000) return t.fail(`accepted ${begun} ms after the answer`)
  }
})

/**
 * Tokens that a node knows, while Postgres says nothing: in by memory until 2 s after `since` at most; else neither let
 * in nor refused by guess.
 */
async function isBelievedUntilTheLeaseEnds (t: Test, node: TestHost, tokens: string[], since: number): Promise<void> {
  let last = 0
  const statuses = new Set<number>()
  for (; performance.now() - since < 3000; await sleep(2)) {
    const begun = performance.now()
    const answers = await Promise.all(tokens.map(async token => await use(node, token)))
    for (const status of answers) statuses.add(status)
    if (answers.includes(200)) last = begun - since
  }
  t.ok(last < 2000, `last accepted ${last} ms after`)
  statuses.delete(200)
  t.strictSame([...statuses], [500])
}

t.test('a node process that is stopped while a token is revoked refuses it when it continues', { buffered: true }, async t => {
  const { url } = await createSeparateDatabase(t)
  const [other, node] = await Promise.all([startNode(t, url), startNode(t, url)])
  const { token, hash } = await other.issue('stopped')
  for (let uses = 0; uses < 10; uses++) t.equal((await node.use(token)).status, 200)

  node.kill('SIGSTOP')
  await other.revoke(hash)
  // The bound is one of wall time.
  await sleep(2000)
  // They wait at its socket: it meets them before it receives anything.
  const waiting = Array.from({ length: 10 }, async () => (await node.use(token)).status)
  await sleep(100)
  node.kill('SIGCONT')
  for (const status of await Promise.all(waiting)) t.ok(status === 401 || status === 500, `${status}`)
  let status = 500
  while (status === 500) status = (await node.use(token)).status
  t.equal(status, 401)
})

t.test('a node process that is stopped while it looks a token up refuses it if it was revoked meanwhile', { buffered: true }, async t => {
  const { url } = await createSeparateDatabase(t)
  const proxy = await createProxy(t, url)
  const [other, node] = await Promise.all([startNode(t, url), startNode(t, proxy.url)])
  const { token, hash } = await other.issue('stopped')
  proxy.delay(500)
  const using = node.use(token)
  // The row is read by then, and arrives while the process is stopped.
  await sleep(200)
  node.kill('SIGSTOP')
  await other.revoke(hash)
  await sleep(2000)
  proxy.delay(0)
  node.kill('SIGCONT')
  t.not((await using).status, 200)
  let status = 500
  while (status === 500) status = (await node.use(token)).status
  t.equal(status, 401)
})

// At the end of the file, so that those that say "buffered" run beside each other, and all others alone.
t.jobs = 3
