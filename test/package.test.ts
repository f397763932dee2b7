import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import pg from 'pg'
import t from 'tap'
import { databaseUrl } from './host/database.js'
import { SECRET } from './host/build-host.js'

const run = promisify(execFile)

interface Lock { packages: Record<string, { version: string, dev?: boolean, resolved?: string }> }

const readLock = async (): Promise<Lock['packages']> => (JSON.parse(await readFile('package-lock.json', 'utf8')) as Lock).packages

t.test("the README's host, built and run as it stands, lets a program in", async t => {
  t.plan(3)
  await run('npm', ['run', 'build'])
  const readme = await readFile('README.md', 'utf8')
  const code = /```js\n([^]*?)```/.exec(readme)?.[1] ?? ''
  await mkdir('.data', { recursive: true })
  const folder = await mkdtemp('.data/readme-')
  const database = folder.replace('.data/', '').replace('-', '_').toLowerCase()
  const client = new pg.Client(await databaseUrl())
  await client.connect()
  await client.query(`CREATE DATABASE ${database}`)
  t.teardown(async () => {
    await client.query(`DROP DATABASE ${database} WITH (FORCE)`)
    await client.end()
    await rm(folder, { recursive: true })
  })

  await writeFile(`${folder}/host.mjs`, code)
  const url = new URL(await databaseUrl())
  url.pathname = database
  const host = spawn(process.execPath, [`${folder}/host.mjs`], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: String(url), TOKENS_SECRET: SECRET, PORT: '0' } })
  t.teardown(async () => {
    const ended = once(host, 'exit')
    host.kill()
    await ended
  })
  for await (const line of createInterface(host.stdout)) {
    const [, token, address] = /^curl -H 'authorization: Bearer ([^']*)' (.*)$/.exec(line) ?? []
    if (address === undefined) continue
    const answer = await fetch(address, { headers: { authorization: `Bearer ${token}` } })
    t.match(await answer.json(), { hello: /^token:example /, roles: ['viewer'], token: /^example / })
    t.equal((await fetch(address)).status, 401)
    t.equal((await fetch(address, { headers: { authorization: `Bearer ${token?.slice(0, -9)}` } })).status, 401)
    break
  }
})

t.test('the lock file names no address, and no version below the floors', async t => {
  const floors = { fastify: '5.12.1', 'fast-jwt': '6.3.6', pg: '8.21.0', 'find-my-way': '9.7.0' }
  const packages = await readLock()
  t.strictSame(Object.entries(packages).filter(([, { resolved }]) => resolved?.includes('://')), [])
  const isAtLeast = (version: string, floor: string): boolean => version.localeCompare(floor, 'en', { numeric: true }) >= 0
  for (const [name, floor] of [...Object.entries(floors), ['ajv', '8.18.0'] as const]) {
    const copies = Object.entries(packages).filter(([path]) => path.endsWith(`node_modules/${name}`) && !path.includes('eslint'))
    t.not(copies.length, 0, name)
    for (const [path, { version }] of copies) t.ok(isAtLeast(version, floor), `${path} ${version} ≥ ${floor}`)
  }
})

t.test('what users get installs without the demo and the tests, and holds its declarations', async t => {
  const { stdout } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'])
  const [{ files }] = JSON.parse(stdout) as [{ files: Array<{ path: string }> }]
  const paths = files.map(({ path }) => path)
  t.ok(paths.includes('dist/lib/index.js') && paths.includes('dist/lib/index.d.ts') && paths.includes('LICENSE'))
  t.strictSame(paths.filter(path => !/^(dist\/(lib|schemas)\/|LICENSE$|README\.md$|package\.json$)/.test(path)), [])
})
