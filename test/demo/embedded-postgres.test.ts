import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { bearer } from '../support/build-host.js'
import { DATA, MEMORY, type Postgres, startPostgres } from '../support/postgres.js'
import { argumentsFor } from '../support/program.js'
import { until } from '../support/until.js'

t.test('two servers run side by side in separate folders in .data/, and keepAs keeps the data for the next start', async t => {
  const keepAs = nameFor(t)
  const servers = await Promise.all([start(t, { keepAs }), start(t, { keepAs })])
  t.same(await foldersOf(keepAs), [1, 2].map(n => join(DATA, `${keepAs}-${n}`)))
  for (const { url } of servers) await ask(url, 'CREATE TABLE kept AS SELECT 42 AS answer')
  for (const server of servers) {
    await server.end()
    t.notOk(existsSync(runtimeOf(server)))
  }
  const again = await start(t, { keepAs })
  t.same(await ask(again.url, 'SELECT answer FROM kept'), [{ answer: 42 }])
  t.same(await foldersOf(keepAs), [1, 2].map(n => join(DATA, `${keepAs}-${n}`)))
})

t.test('data survive a crash of Postgres, and it restarts while clients keep connecting', async t => {
  const postgres = await start(t)
  await ask(postgres.url, 'CREATE TABLE kept AS SELECT generate_series(1, 200000) AS n')
  const pid = await postgres.pid()
  await postgres.stop('SIGQUIT')
  t.notOk(isRunning(pid))
  await t.rejects(ask(postgres.url, 'SELECT'))

  const knocking = new AbortController()
  const knocked = knock(postgres.url, knocking)
  await postgres.start()
  knocking.abort()
  t.ok((await knocked).has('57P03'), 'one came too early: cannot_connect_now')
  t.same(await ask(postgres.url, 'SELECT count(*)::int FROM kept'), [{ count: 200000 }])
  t.not(await postgres.pid(), pid)

  await postgres.stop()
  await postgres.end()
  t.notOk(existsSync(runtimeOf(postgres)), 'one that was stopped leaves nothing either')
})

t.test('a temporary server needs only sh, cp, chown and rm on the PATH, and end() leaves nothing behind', async t => {
  const { PATH } = process.env
  t.teardown(() => { process.env.PATH = PATH })
  const tools = await temporaryFolder(t)
  for (const tool of ['sh', 'cp', 'chown', 'rm']) {
    await symlink(spawnSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).stdout.trim(), join(tools, tool))
  }
  process.env.PATH = tools
  const postgres = await start(t)
  t.match(await ask(postgres.url, 'SHOW server_version'), [{ server_version: /^18\./ }])
  const pid = await postgres.pid()
  t.ok(isRunning(pid))
  t.ok(existsSync(runtimeOf(postgres)))
  t.equal((await foldersOf(`${process.pid}-`)).length, 1)
  await postgres.end()
  t.notOk(isRunning(pid))
  t.notOk(existsSync(runtimeOf(postgres)))
  t.same(await foldersOf(`${process.pid}-`), [])
})

t.test('a temporary server and its data are removed when the program ends or is killed without end()', async t => {
  const program = `
    import { startPostgres } from ${JSON.stringify(new URL('../support/postgres.ts', import.meta.url))}
    await startPostgres()
    console.log('started')
    process.stdin.resume()`
  const temporary = await temporaryFolder(t)
  await Promise.all(([undefined, 'SIGKILL'] as const).map(async signal => {
    const child = await startChild(
      t, temporary, ['--import', 'tsx', '--input-type=module', '--eval', program], 'started'
    )
    const server = await child.findServer(`${child.pid}-`)
    t.same(await child.end(signal), signal === undefined ? [0, null] : [null, signal])
    await isGone(server)
    t.pass(`nothing runs on after ${signal ?? 'its last line'}`)
    // The next server to start anywhere removes the empty folder of a dead process.
    const left = await readdir(server.folder).catch((error: NodeJS.ErrnoException) => error.code)
    t.ok(left === 'ENOENT' || left?.length === 0, 'the data are gone')
    await rm(server.folder, { recursive: true, force: true })
  }))
})

t.test('npm start stops its Postgres however it ends, and still has its tokens after a restart', async t => {
  const name = nameFor(t)
  const temporary = await temporaryFolder(t)
  // By folder: the demo of another test may use the first one meanwhile.
  const tokens = new Map<string, { token: string, hash: string }>()
  let restarts = 0
  for (const signal of ['SIGKILL', 'SIGINT', 'SIGTERM'] as const) {
    const demo = await startDemo(t, temporary)
    const server = await demo.findServer('demo-')
    const before = tokens.get(server.folder)
    if (before !== undefined) restarts++
    const token = before ?? await createToken(demo.address, name)
    tokens.set(server.folder, token)
    const headers = bearer(token.token)
    const profile = await fetch(`${demo.address}/api/profile`, { headers })
    t.same(await profile.json(), { username: `token:${name}`, roles: ['admin'] })
    // These are the data of whoever works here.
    if (signal === 'SIGTERM') await fetch(`${demo.address}/api/tokens/${token.hash}`, { method: 'DELETE', headers })
    t.same(await demo.end(signal), signal === 'SIGKILL' ? [null, signal] : [0, null])
    await isGone(server)
    t.pass(`no Postgres after ${signal}`)
  }
  t.ok(restarts > 0)
})

/** A server, until the test ends. */
async function start (t: Test, options?: Parameters<typeof startPostgres>[0]): Promise<Postgres> {
  const postgres = await startPostgres(options)
  t.teardown(() => postgres.end())
  return postgres
}

/** A name for data of its own, removed when the test ends. */
function nameFor (t: Test): string {
  const name = `test-${randomBytes(6).toString('hex')}`
  t.teardown(async () => {
    for (const folder of await foldersOf(`${name}-`)) await rm(folder, { recursive: true })
  })
  return name
}

/** The data of servers whose name begins so. Those of temporary ones are in memory where there is room. */
async function foldersOf (prefix: string): Promise<string[]> {
  const found = await Promise.all([[DATA, prefix], [MEMORY, `mmc-tokens-${prefix}`]].map(async ([parent = '', start = '']) =>
    (await readdir(parent).catch(() => [])).filter(name => name.startsWith(start)).map(name => join(parent, name))))
  return found.flat().sort()
}

function runtimeOf ({ url }: Postgres): string {
  return dirname(new URL(url).searchParams.get('host') ?? '')
}

function isRunning (pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function ask (url: string, statement: string): Promise<unknown[]> {
  const client = new pg.Client(url)
  // A server that goes away says so twice.
  client.on('error', () => {})
  await client.connect()
  return (await client.query<Record<string, unknown>>(statement).finally(() => client.end())).rows
}

/** Connects again and again; the codes of the refusals. */
async function knock (url: string, { signal }: { signal: AbortSignal }): Promise<Set<string>> {
  const codes = new Set<string>()
  while (!signal.aborted) await ask(url, 'SELECT').catch((error: { code: string }) => codes.add(error.code))
  return codes
}

interface Server { pid: number, folder: string, runtime: string }

/** Watches a server of another process until it and its runtime folder are gone. */
async function isGone ({ pid, runtime }: Server): Promise<void> {
  await until(() => !isRunning(pid) && !existsSync(runtime))
}

/** A folder for all users, as `/tmp` is: root runs Postgres as another one. */
async function temporaryFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'test-'))
  t.teardown(() => rm(folder, { recursive: true }))
  await chmod(folder, 0o1777)
  return folder
}

/** A Node.js process that starts a server, once it has said `ready`; with a process group, as a terminal gives it. */
async function startChild (
  t: Test, temporary: string, args: string[], ready: string, environment: NodeJS.ProcessEnv = {}
) {
  const child = spawn(process.execPath, args, {
    detached: true, env: { ...process.env, TMPDIR: temporary, DATABASE_URL: undefined, ...environment }
  })
  const { pid = NaN } = child
  const closed = once(child, 'close')
  t.teardown(() => end('SIGKILL'))
  let output = ''
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        output += chunk
        if (output.includes(ready)) resolve()
      })
    }
    child.once('close', () => { reject(new Error(output)) })
  })

  /** Ends it as Ctrl-C does, all processes of the group at once; without a signal its input ends. */
  async function end (signal?: NodeJS.Signals): Promise<unknown[]> {
    if (signal === undefined) child.stdin.end()
    else if (child.exitCode === null && child.signalCode === null) process.kill(-pid, signal)
    return await closed
  }

  /** The server that it started, in a folder of `.data/` that begins with `prefix`. */
  async function findServer (prefix: string): Promise<Server> {
    for (const folder of await foldersOf(prefix)) {
      const [server, , , , socket = ''] = (await readFile(
        join(folder, 'postmaster.pid'), 'utf8'
      ).catch(() => '')).split('\n')
      if (socket.startsWith(temporary)) return { pid: Number(server), folder, runtime: dirname(socket) }
    }
    throw new Error(`no server runs in a folder ${prefix}*`)
  }

  return { pid, output: () => output, end, findServer }
}

/** `npm start` on a free port. */
async function startDemo (t: Test, temporary: string) {
  const reserved = createServer().listen(0, 'localhost')
  await once(reserved, 'listening')
  const { port } = reserved.address() as AddressInfo
  await once(reserved.close(), 'close')
  const demo = await startChild(t, temporary, argumentsFor('test/support/start.ts'), 'Press Ctrl-C to stop.', {
    CEDALO_MC_PROXY_PORT: String(port)
  })
  return { ...demo, address: /is listening at (\S+)\//.exec(demo.output())?.[1] ?? '' }
}

async function createToken (address: string, name: string) {
  const login = await fetch(`${address}/auth?json=true`, {
    method: 'POST', body: new URLSearchParams({ username: 'cedalo', password: 'secret' })
  })
  const response = await fetch(`${address}/api/tokens`, {
    method: 'POST',
    headers: { cookie: login.headers.getSetCookie()[0]?.split(';')[0] ?? '', 'content-type': 'application/json' },
    body: JSON.stringify({ name, role: 'admin', validUntil: new Date(Date.now() + 60 * 60 * 1000).toISOString() })
  })
  return await response.json() as { token: string, hash: string }
}
