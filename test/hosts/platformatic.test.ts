import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import type { IssuedToken } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createSeparateDatabase, type Database } from '../support/database.js'
import { blocksOf } from '../support/docs.js'
import { until } from '../support/until.js'
import { env, installHost } from './folder.js'

t.setTimeout(900_000)

// Platformatic needs Node.js 22.19. Beside an older one, it runs on that of npm.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
const isSuitable = major > 22 || (major === 22 && minor >= 19)
const nodeOfNpm = `node-${process.platform}-${process.arch}`
const { path } = await installHost(t, [
  '@platformatic/service@3.67.0', 'wattpm@3.67.0', 'fastify-plugin@6.0.1', ...isSuitable ? [] : [`${nodeOfNpm}@24`]
])
const node = isSuitable ? process.execPath : join(path, 'node_modules', nodeOfNpm, 'bin/node')

const blockWith = async (text: string, language: string): Promise<string> =>
  (await blocksOf('docs/recipes.md', language)).find(block => block.includes(text)) ?? ''
const recipe = await blockWith('@platformatic/service', 'json')
const plugin = await blockWith("{ name: 'tokens' }", 'js')

const ROUTES = `export default async app => {
  app.get('/who', async request => request.user)
  app.get('/admin', { preHandler: app.tokens.requireRole('admin') }, async () => 'admin')
  app.get('/issue/:role', async ({ params: { role } }) => await app.tokens.issue({
    name: role, role, validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test'
  }))
}`

/** From the change to the refusal on another node, in milliseconds, with what a busy machine adds. */
const BOUND = 2000

interface Service {
  /** The body of a 200, otherwise the status. */
  ask: (path: string, init?: RequestInit) => Promise<unknown>
  log: () => string
  /** Resolves with the code with which the process ends. */
  stop: () => Promise<number | null>
}

/** A process of `wattpm start` in a folder of its own, with the leases of this many workers held. */
async function startService (
  t: Test, { url }: Database, name: string, files: Record<string, string>, workers = 1
): Promise<Service> {
  const cwd = join(path, name)
  for (const [file, text] of Object.entries({ 'routes/root.js': ROUTES, ...files })) {
    await mkdir(dirname(join(cwd, file)), { recursive: true })
    await writeFile(join(cwd, file), text)
  }
  const child = spawn(node, [join(path, 'node_modules/wattpm/bin/cli.js'), 'start'], {
    cwd,
    env: { ...env, HOST: '127.0.0.1', PORT: '0', DATABASE_URL: url, TOKENS_SECRET: SECRET },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    // The folder of its management API, which it leaves behind.
    await rm(join(tmpdir(), 'platformatic/runtimes', String(child.pid)), { recursive: true, force: true })
  })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => { log += chunk })
  }
  const addressOf = (): string | undefined => /Platformatic is now listening at (http:[^"]+)/.exec(log)?.[1]
  const isReady = (): boolean =>
    addressOf() !== undefined && log.split('"revocation listener connected').length > workers
  await until(() => isReady() || child.exitCode !== null || child.signalCode !== null)
  if (!isReady()) throw new Error(`${name} ended: ${log}`)
  return {
    log: () => log,
    async ask (path, init) {
      const response = await fetch(`${addressOf()}${path}`, init)
      const text = await response.text()
      if (!response.ok) return response.status
      return response.headers.get('content-type')?.includes('json') === true ? JSON.parse(text) : text
    },
    async stop () {
      child.kill('SIGTERM')
      await ended
      return child.exitCode
    }
  }
}

t.test('Platformatic: a token of one node works on the other, on all routes, until it is revoked there', async t => {
  const database = await createSeparateDatabase(t)
  const { components: { securitySchemes }, security } = JSON.parse(await readFile('docs/openapi.json', 'utf8')) as {
    components: { securitySchemes: object }, security: object[]
  }
  const one = await startService(t, database, 'packages', { 'watt.json': recipe })
  const other = await startService(t, database, 'paths', {
    'watt.json': JSON.stringify({
      ...JSON.parse(recipe) as object,
      plugins: { paths: ['./plugins', './routes'] },
      service: { openapi: { components: { securitySchemes }, security } },
      runtime: { workers: 2 }
    }),
    'plugins/tokens.js': plugin
  }, 2)
  t.match(await other.ask('/documentation/json'), {
    components: { securitySchemes }, security, paths: { '/api/tokens': {}, '/api/tokens/{tokenHash}': {}, '/who': {} }
  })

  const admin = await one.ask('/issue/admin') as IssuedToken
  const viewer = await other.ask('/issue/viewer') as IssuedToken
  for (const { ask } of [one, other]) {
    for (const { token, role } of [admin, viewer]) {
      const who = { username: `token:${role}`, roles: [role] }
      t.strictSame(await ask('/who', { headers: bearer(token) }), who)
      t.strictSame(await ask(`/who?token=${token}`), who)
      t.equal(await ask('/admin', { headers: bearer(token) }), role === 'admin' ? 'admin' : 403)
    }
    t.equal(await ask('/admin'), 401)
  }

  const headers = bearer(viewer.token)
  const rest = await other.ask(`/api/tokens/${viewer.hash}`, { method: 'DELETE', headers: bearer(admin.token) })
  t.match(rest, [{ name: 'admin' }])
  const revoked = performance.now()
  await until(async () => await one.ask('/who', { headers }) === 401 || performance.now() - revoked > BOUND)
  t.equal(await one.ask('/who', { headers }), 401)
  t.equal(await one.ask(`/who?token=${viewer.token}`), 401)
  t.match(await one.ask('/who', { headers: bearer(admin.token) }), { username: 'token:admin' }, 'and no other')

  for (const { log, stop } of [one, other]) {
    t.equal(await stop(), 0)
    t.match(log(), '?token=[Redacted]')
    t.notOk([admin, viewer].some(({ token }) => log().includes(token)))
  }
})
