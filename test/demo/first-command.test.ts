import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createSeparateDatabase } from '../support/database.js'
import { argumentsFor } from '../support/program.js'
import { sweep } from '../support/sweep.js'

const DATA = fileURLToPath(new URL('../../.data/', import.meta.url))
const COMMAND = [process.execPath, ...argumentsFor('test/support/start.ts')] as const
const READY = 'Press Ctrl-C to stop.'

async function listen (): Promise<{ server: Server, port: number }> {
  const server = createServer().listen(0, 'localhost')
  await once(server, 'listening')
  return { server, port: (server.address() as AddressInfo).port }
}

async function freePort (): Promise<number> {
  const { server, port } = await listen()
  await once(server.close(), 'close')
  return port
}

/** Runs the command of `npm start`; `until` waits for what it writes, `ended` has its exit code. */
function start (t: Test, environment: NodeJS.ProcessEnv, [file, ...args]: readonly [string, ...string[]] = COMMAND) {
  const child = spawn(file, args, {
    detached: true, env: { ...process.env, DATABASE_URL: undefined, TOKENS_ENABLED: undefined, ...environment }
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on(
      'data', (chunk: string) => { output += chunk }
    )
  }
  const ended = once(child, 'close').then(([code]) => code as number | null)
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) process.kill(-(child.pid as number), 'SIGTERM')
    await ended
  })
  return {
    child,
    ended,
    output: () => output,
    async until (text: string) {
      while (!output.includes(text)) {
        if (child.exitCode !== null) throw new Error(`it ended: ${output}`)
        await Promise.race([once(child.stdout, 'data'), once(child.stderr, 'data'), ended])
      }
      return output
    }
  }
}

t.test('a port in use is reported in one sentence, and nothing is left behind', async t => {
  const { server, port } = await listen()
  t.teardown(() => server.close())
  // Where a server unpacks itself. Its data folder says nothing: the demo of another test may make that meanwhile.
  const TMPDIR = await mkdtemp(join(tmpdir(), 'test-'))
  t.teardown(() => rm(TMPDIR, { recursive: true }))
  await chmod(TMPDIR, 0o1777)
  for (const [CEDALO_MC_PROXY_PORT, sentence] of [
    [String(port), `Port ${port} is in use. Choose another: CEDALO_MC_PROXY_PORT=8089 npm start`],
    ['99999', /^Could not listen on CEDALO_MC_PROXY_PORT=99999: [^\n]+$/],
    ['http', /^Could not listen on CEDALO_MC_PROXY_PORT=http: [^\n]+$/]
  ] as const) {
    const { ended, output } = start(t, { CEDALO_MC_PROXY_PORT, TMPDIR })
    t.equal(await ended, 1)
    const [first, ...said] = output().trimEnd().split('\n')
    t.equal(first, `Starting the demo host on port ${CEDALO_MC_PROXY_PORT} …`)
    t.match(said[0] ?? '', sentence)
    t.equal(said.length, 1, output())
  }
  t.strictSame((await readdir(TMPDIR)).filter(name => name.startsWith('mmc-tokens-')), [])
})

t.test('the first line is printed before anything is loaded', async t => {
  // The very command, which compiles.
  const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: { start: string } }
  const { child, output } = start(t, { CEDALO_MC_PROXY_PORT: String(await freePort()) }, [
    'sh', '-c', `exec ${scripts.start}`
  ])
  await once(child.stdout, 'data')
  t.match(
    output(), /^Starting the demo host on port \d+ …\n(Starting an embedded Postgres, with its data in \.data\/ …\n)?$/
  )
})

t.test('with TOKENS_ENABLED=false it starts without connecting to Postgres; otherwise an unreachable one is reported in one sentence', async t => {
  const CEDALO_MC_PROXY_PORT = String(await freePort())
  const DATABASE_URL = 'postgres://me:hidden@127.0.0.1:1/mmc'
  const refused = start(t, { CEDALO_MC_PROXY_PORT, DATABASE_URL })
  t.equal(await refused.ended, 1)
  t.match(
    refused.output(),
    /…\nPostgres at 127\.0\.0\.1:1, database "mmc" can't be used: connect ECONNREFUSED 127\.0\.0\.1:1\n$/
  )

  const { server, port } = await listen()
  t.teardown(() => server.close())
  const knocks: unknown[] = []
  server.on('connection', socket => {
    knocks.push(socket)
    socket.destroy()
  })
  for (const DATABASE_URL of [undefined, `postgres://me:hidden@localhost:${port}/mmc`]) {
    await t.test(DATABASE_URL ?? 'none is named', async t => await worksSwitchedOff(t, DATABASE_URL))
  }
  t.strictSame(knocks, [])
})

async function worksSwitchedOff (t: Test, DATABASE_URL: string | undefined): Promise<void> {
  const CEDALO_MC_PROXY_PORT = String(await freePort())
  const said = await start(t, { CEDALO_MC_PROXY_PORT, DATABASE_URL, TOKENS_ENABLED: 'false' }).until(READY)
  t.match(said, /…\nTokens are disabled: starting without Postgres, so sessions are valid on this node only\.\n/)
  t.notMatch(said, 'hidden')
  const address = `http://localhost:${CEDALO_MC_PROXY_PORT}`
  const login = await fetch(`${address}/auth?json=true`, {
    method: 'POST', body: new URLSearchParams({ username: 'cedalo', password: 'secret' })
  })
  const headers = { cookie: login.headers.getSetCookie()[0]?.split(';')[0] ?? '' }
  t.equal((await fetch(`${address}/api/profile`, { headers })).status, 200, 'sessions work')
  t.equal((await fetch(`${address}/api/tokens`, { headers })).status, 404)
}

t.test('the next start removes what a kill -9 left behind, and nothing else', async t => {
  await mkdir(DATA, { recursive: true })
  const parent = await mkdtemp(join(DATA, 'sweep-'))
  t.teardown(() => rm(parent, { recursive: true }))
  const gone = spawnSync(process.execPath, ['-e', '']).pid
  const folders = {
    [`${gone}-empty`]: '',
    [`${gone}-crashed`]: `${gone}\n`,
    [`${gone}-runs`]: `${process.pid}\n`,
    [`${process.pid}-mine`]: '',
    'demo-1': `${gone}\n`,
    [`x${gone}-`]: ''
  }
  for (const [name, server] of Object.entries(folders)) {
    await mkdir(join(parent, name, 'base'), { recursive: true })
    if (server !== '') await writeFile(join(parent, name, 'postmaster.pid'), server)
  }
  await sweep(parent, /^(\d+)-/)
  t.strictSame((await readdir(parent)).sort(), [`${gone}-runs`, `${process.pid}-mine`, 'demo-1', `x${gone}-`].sort())

  await mkdir(join(DATA, `${gone}-left`))
  // Compose sets what is missing to an empty string.
  await start(t, { CEDALO_MC_PROXY_PORT: String(await freePort()), DATABASE_URL: '' }).until(READY)
  t.notOk((await readdir(DATA)).includes(`${gone}-left`))
})

t.test('on a terminal the log is readable, with one line per request, and the commands to paste come last; otherwise it is JSON', async t => {
  const { url: DATABASE_URL } = await createSeparateDatabase(t)
  const ask = async (port: string): Promise<void> => { await fetch(`http://localhost:${port}/api/profile?token=a.b.c`) }
  const piped = { CEDALO_MC_PROXY_PORT: String(await freePort()), DATABASE_URL }
  const json = start(t, piped)
  await json.until(READY)
  await ask(piped.CEDALO_MC_PROXY_PORT)
  t.match(await json.until('request completed'), /^\{"level":30,.*"msg":"incoming request"\}$/m)

  if (spawnSync('sh', ['-c', 'command -v script']).status !== 0) {
    return t.comment(
      'NOT RUN: this machine has no script(1) to make a terminal'
    )
  }
  const CEDALO_MC_PROXY_PORT = String(await freePort())
  const terminal = start(t, { CEDALO_MC_PROXY_PORT, DATABASE_URL }, [
    'script', '-qefc', COMMAND.map(word => `'${word}'`).join(' '), '/dev/null'
  ])
  const before = await terminal.until(READY)
  t.notMatch(before, '"level"')
  t.match(
    before,
    /INFO.*Server listening at[^]*# Log in and create a token[^]*Press Enter to show these commands again\. Press Ctrl-C to stop\.\s*$/
  )
  await ask(CEDALO_MC_PROXY_PORT)
  const asked = (await terminal.until('→ 401')).slice(before.length)
  t.match(asked, /GET \/api\/profile\?token=\[Redacted\] → 401 in \d+ ms/)
  t.equal(asked.split('\n').filter(line => line.includes('/api/profile')).length, 1, asked)
  terminal.child.stdin.write('\n')
  while (terminal.output().split(READY).length < 3) await once(terminal.child.stdout, 'data')
  t.pass('and again on Enter')
})
