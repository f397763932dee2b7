import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import Fastify from 'fastify'
import { publint } from 'publint'
import t, { type Test } from 'tap'
import ts from 'typescript'
import tokensPlugin from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { blocksOf, findDeadLinks } from '../support/docs.js'

const run = promisify(execFile)
// npm says now and then that there is a later one.
const env = { ...process.env, NODE_OPTIONS: '', npm_config_update_notifier: 'false' }

interface Lock {
  packages: Record<string, {
    version: string, resolved?: string, dependencies?: object, optionalDependencies?: object
  }>
}

const readLock = async (path: string): Promise<Lock['packages']> => (JSON.parse(await readFile(path, 'utf8')) as Lock).packages

/** Passes where the program finds nothing wrong, else shows what it printed. */
async function checkWith (t: Test, name: string, ...args: string[]): Promise<void> {
  const failure = await run(resolve('node_modules/.bin', name), args, { cwd: consumer, env }).then(
    () => '', (error: { stdout: string, message: string }) => error.stdout || error.message
  )
  t.equal(failure, '', name)
}

// Outside of this repository, or what the package fails to ask for would be found in our node_modules.
async function makeFolder (): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'mmc-tokens-'))
  t.teardown(() => rm(folder, { recursive: true }))
  return folder
}

// One tarball and one install serve all tests, on a machine that may be busy.
t.setTimeout(600_000)
const consumer = await makeFolder()
const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', consumer], { env })
const [{ filename, files }] = JSON.parse(
  stdout.slice(stdout.search(/^\[$/m))
) as [{ filename: string, files: Array<{ path: string }> }]
await install()

async function install (): Promise<void> {
  const locked = new Map<string, Set<string>>()
  for (const [path, { version }] of Object.entries(await readLock('package-lock.json'))) {
    const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
    locked.set(name, (locked.get(name) ?? new Set()).add(version))
  }
  const needed = [
    'fastify', '@fastify/jwt', '@fastify/passport', '@fastify/secure-session', '@types/node', '@types/passport',
    '@types/pg'
  ]
  await cp('test/consumer', consumer, { recursive: true })
  await writeFile(join(consumer, 'package.json'), JSON.stringify({
    dependencies: {
      'fastify-mmc-tokens': `file:${filename}`,
      ...Object.fromEntries(needed.map(name => [name, [...locked.get(name) ?? []][0]]))
    },
    // What others publish meanwhile must not decide whether these tests pass.
    overrides: Object.fromEntries(
      [...locked].filter(([name, { size }]) => name !== '' && size === 1).map(([name, [version]]) => [name, version])
    )
  }))
  await run(
    'npm',
    ['install', '--prefix', consumer, '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts'],
    { cwd: consumer, env }
  )
}

for (const [page, language, file] of [
  ['README.md', 'js', 'host.mjs'], ['docs/host-integration.md', 'cjs', 'host.cjs']
] as const) {
  t.test(`the example of ${page} as ${file}, run with the installed package, accepts a token`, { buffered: true }, async t => {
    const { url } = await createSeparateDatabase(t)
    const [code = ''] = await blocksOf(page, language)
    await writeFile(join(consumer, file), code)
    const host = spawn(process.execPath, [file], {
      cwd: consumer,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...env, DATABASE_URL: url, TOKENS_SECRET: SECRET, PORT: '0' }
    })
    const ended = once(host, 'exit')
    t.teardown(async () => {
      host.kill()
      await ended
    })
    let [address, curl] = ['', '']
    for await (const line of createInterface(host.stdout)) {
      address ||= /Server listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1] ?? ''
      // pino writes asynchronously: what it logged before may come after this.
      curl ||= /^curl -H 'authorization: Bearer ([^']*)' .*\/hello$/.exec(line)?.[1] ?? ''
      if (address !== '' && (curl !== '' || !code.includes('curl'))) break
    }
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(tokensPlugin, { postgres: url, secret: SECRET })
    const { token } = await app.tokens.issue({
      name: 'ci', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x'
    })
    const ask = async (secret: string): Promise<Response> =>
      await fetch(`${address}/hello`, { headers: { authorization: `Bearer ${secret}` } })
    t.strictSame(await (await ask(token)).json(), { hello: 'ci', role: 'viewer' })
    if (code.includes('curl')) t.match(await (await ask(curl)).json(), { hello: /^until /, role: 'viewer' })
    t.equal((await fetch(`${address}/hello`)).status, 401)
    t.equal((await ask(token.slice(0, -9))).status, 401)
  })
}

t.test('npx fastify-mmc-tokens mint, as docs/operations.md has it, prints a token and its bootstrap entry, without a database', async t => {
  const [, command = ''] = /```sh\n(npx fastify-mmc-tokens mint .*)\n```/.exec(await readFile('docs/operations.md', 'utf8')) ?? []
  const { stdout, stderr } = await run('sh', ['-ec', command], { cwd: consumer, env: { ...env, TOKENS_SECRET: SECRET } })
  const { token, entry } = JSON.parse(stdout) as { token: string, entry: object }
  t.strictSame([entry, stderr], [{
    name: 'ci',
    role: 'viewer',
    validUntil: '2099-01-01T00:00:00.000Z',
    hash: createHash('sha256').update(token).digest('hex')
  }, ''])
})

t.test('the lines of docs/operations.md that write the first bootstrap file print its token, and a host loads the file', async t => {
  const { url } = await createSeparateDatabase(t)
  const [, lines = ''] = await blocksOf('docs/operations.md', 'sh')
  const { stdout } = await run('sh', ['-ec', lines], { cwd: consumer, env: { ...env, TOKENS_SECRET: SECRET } })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: url, secret: SECRET, bootstrap: join(consumer, 'bootstrap.json') })
  t.match(await app.tokens.authenticate(stdout.trim()), { token: { name: 'ci', requestedBy: 'bootstrap' } })
  t.notOk((await readdir(consumer)).includes('ci.json'), 'no secret is left')
})

/** What the compiler says of files in the consumer's folder. In this process, since a new one compiles itself first. */
function compile (names: string[], options: ts.CompilerOptions, compiler?: ts.CompilerHost): string[] {
  const program = ts.createProgram(names.map(name => join(consumer, name)), { ...options, noEmit: true }, compiler)
  t.ok(program.getSourceFiles().some(({ fileName }) => fileName.endsWith('/fastify-mmc-tokens/dist/lib/index.d.ts')))
  // Where libraries are not checked, the declarations of the plugin still are.
  const checked = options.skipLibCheck === false
    ? [undefined]
    : program.getSourceFiles().filter(({ fileName }) =>
      names.includes(basename(fileName)) || fileName.includes('/fastify-mmc-tokens/dist/'))
  return [program.getOptionsDiagnostics(), ...checked.map(file => ts.getPreEmitDiagnostics(program, file))].flat()
    .map(({ messageText, file }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
}

for (const neighbour of ['@fastify/jwt', '@fastify/passport']) {
  t.test(`with ${neighbour}, strict and with the declarations of all packages checked, test/consumer compiles`, async t => {
    const { config } = ts.readConfigFile(join(consumer, 'tsconfig.json'), ts.sys.readFile)
    const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, consumer)
    t.equal(options.skipLibCheck, false)
    const names = fileNames.map(file => basename(file))
    t.strictSame(compile(names, { ...options, types: ['node', neighbour], skipDefaultLibCheck: true }), [])
  })
}

const STRICT = { strict: true, esModuleInterop: true, types: ['node'] }

t.test('with module: es2015, es2020 or preserve a host compiles, and so do the declarations of the plugin', async t => {
  await writeFile(join(consumer, 'module.ts'), `
    import Fastify from 'fastify'
    import tokensPlugin, { type TokensPluginOptions } from 'fastify-mmc-tokens'
    const options: TokensPluginOptions = { postgres: 'postgres://localhost/mmc', secret: 'secret' }
    const app = Fastify()
    void app.register(tokensPlugin, options)
    app.get('/', { preHandler: app.tokens.requireRole(['editor']) }, async request => request.applicationToken?.name)`)
  const { ModuleKind, ModuleResolutionKind, ScriptTarget } = ts
  const options: ts.CompilerOptions = {
    ...STRICT,
    target: ScriptTarget.ES2020,
    moduleResolution: ModuleResolutionKind.Bundler,
    typeRoots: [join(consumer, 'node_modules/@types')]
  }
  const compiler = ts.createCompilerHost(options)
  const { getSourceFile } = compiler
  const parsed = new Map<string, ts.SourceFile | undefined>()
  compiler.getSourceFile = (name, ...others) => {
    if (!parsed.has(name)) parsed.set(name, getSourceFile(name, ...others))
    return parsed.get(name)
  }
  for (const module of [ModuleKind.ES2015, ModuleKind.ES2020, ModuleKind.Preserve]) {
    t.strictSame(compile(['module.ts'], { ...options, module }, compiler), [], ModuleKind[module])
  }
})

t.test('with moduleResolution: node10 the plugin is found, its schemas are not, as docs/typescript.md says', async t => {
  await writeFile(join(consumer, 'node10.ts'), `
    import tokensPlugin from 'fastify-mmc-tokens'
    // @ts-expect-error
    import { isToken } from 'fastify-mmc-tokens/schemas'
    export default [tokensPlugin, isToken]`)
  t.strictSame(compile(['node10.ts'], {
    ...STRICT,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.CommonJS,
    moduleResolution: ts.ModuleResolutionKind.Node10,
    typeRoots: [join(consumer, 'node_modules/@types')]
  }), [])
})

t.test('publint and attw report no problem with the tarball', { buffered: true }, async t => {
  const tarball = await readFile(join(consumer, filename))
  const { messages } = await publint({ strict: true, pack: { tarball: Uint8Array.from(tarball).buffer } })
  t.strictSame(messages, [])
  // It is an ES module, which every Node that we support can require.
  await checkWith(t, 'attw', filename, '--profile', 'esm-only')
})

t.test('the tarball has what users need, without demo and tests', async t => {
  const paths = files.map(({ path }) => path)
  t.ok(paths.includes('dist/lib/index.js') && paths.includes('dist/lib/index.d.ts') && paths.includes('LICENSE'))
  t.strictSame(paths.filter(path =>
    !/^(dist\/(lib|schemas)\/|docs\/[\w-]+\.(md|json|png)$|LICENSE$|[A-Z]+\.md$|package\.json$)/.test(path)), [])
})

t.test('its README and documents link only to files in it', async t => {
  const folder = join(consumer, 'node_modules/fastify-mmc-tokens')
  const pages = files.map(({ path }) => path).filter(path => path.endsWith('.md'))
  t.ok(pages.includes('README.md') && pages.includes('docs/options.md'))
  for (const page of pages) {
    t.strictSame(
      await findDeadLinks(page, await readFile(join(folder, page), 'utf8'), folder), [], page
    )
  }
})

t.test("it adds as many packages and megabytes to fastify's as the README says, at most 40 and 10", async t => {
  const installed = await readLock(join(consumer, 'node_modules/.package-lock.json'))
  const fastify = closureOf(installed, 'fastify')
  const ours = [...closureOf(installed, 'fastify-mmc-tokens')].filter(path => !fastify.has(path))
  const sizes = await Promise.all(ours.map(path => sizeOf(join(consumer, path))))
  const size = sizes.reduce((sum, one) => sum + one, 0) / 2 ** 20
  const [, packages, megabytes] = /adds (\d+) packages and ([\d.]+) MB on disk/.exec(
    await readFile('README.md', 'utf8')
  ) ?? []
  t.comment(`${ours.length} packages, ${size.toFixed(2)} MB`)
  t.equal(ours.length, Number(packages))
  t.ok(Math.abs(size - Number(megabytes)) < 0.3, `${size} MB, ${megabytes} in the README`)
  t.ok(ours.length <= 40 && size <= 10)
})

/** The paths of a package and of all that it needs. */
function closureOf (packages: Lock['packages'], root: string, from = '', found = new Set<string>()): Set<string> {
  const folders = from.split('/node_modules/').map((_, index, parts) =>
    parts.slice(0, parts.length - index).join('/node_modules/') + '/')
  const path = [...from === '' ? [] : folders, ''].map(folder =>
    `${folder}node_modules/${root}`).find(path => path in packages)
  if (path === undefined || found.has(path)) return found
  found.add(path)
  const { dependencies, optionalDependencies } = packages[path] ?? {}
  for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) closureOf(packages, name, path, found)
  return found
}

/** What it takes on disk, in blocks of 4 KiB, nested packages aside. */
async function sizeOf (folder: string): Promise<number> {
  const entries = (await readdir(folder, { recursive: true })).filter(path =>
    !/(^|[\\/])node_modules([\\/]|$)/.test(path))
  const sizes = await Promise.all(entries.map(async path => (await stat(join(folder, path))).size))
  return [1, ...sizes].reduce((sum, size) => sum + Math.ceil(size / 4096) * 4096, 0)
}

t.test('the schemas work if only TypeBox is installed', { buffered: true }, async t => {
  const frontend = await makeFolder()
  await mkdir(join(frontend, 'node_modules/@sinclair'), { recursive: true })
  for (const name of ['fastify-mmc-tokens', '@sinclair/typebox']) {
    await symlink(
      join(consumer, 'node_modules', name), join(frontend, 'node_modules', name)
    )
  }
  const program = `
    import { isCreateToken, isErrorBody, isIssuedToken, isToken, TokenSchema } from 'fastify-mmc-tokens/schemas'
    const token = Object.fromEntries(Object.entries(TokenSchema.properties).map(([name, { examples }]) => [name, examples[0]]))
    console.log(JSON.stringify([isToken(token), isToken({ ...token, lastUsed: 'today' }), isIssuedToken(token), isCreateToken(token), isErrorBody(token), isErrorBody({ code: 'INVALID', message: '' })]))`
  const { stdout } = await run(
    process.execPath, ['--preserve-symlinks', '--input-type=module', '--eval', program], { cwd: frontend, env }
  )
  t.strictSame(JSON.parse(stdout), [true, false, false, true, false, true])
})

t.test('the lock file has no addresses, and no version below the minimum', async t => {
  const floors = { fastify: '5.12.1', 'fast-jwt': '6.3.6', pg: '8.21.0', 'find-my-way': '9.7.0', ajv: '8.18.0' }
  const packages = await readLock('package-lock.json')
  t.strictSame(Object.entries(packages).filter(([, { resolved }]) => resolved?.includes('://')), [])
  const isAtLeast = (version: string, floor: string): boolean =>
    version.localeCompare(floor, 'en', { numeric: true }) >= 0
  for (const [name, floor] of Object.entries(floors)) {
    const copies = Object.entries(packages).filter(([path]) =>
      path.endsWith(`node_modules/${name}`) && !path.includes('eslint'))
    t.not(copies.length, 0, name)
    for (const [path, { version }] of copies) t.ok(isAtLeast(version, floor), `${path} ${version} ≥ ${floor}`)
  }
})

// At the end of the file, so that those that say "buffered" run beside each other, and all others alone.
t.jobs = 3
