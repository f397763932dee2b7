import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { blocksOf } from '../support/docs.js'
import { until } from '../support/until.js'
import { createRoot, env, NPM, run } from './folder.js'

t.setTimeout(900_000)
const { root, tarball } = await createRoot(t)

/** Releases of Nest, with the Fastify that each pins. Jest can't load the packages of Nest 12, which are ES modules. */
const NESTS = [
  {
    packages: ['@nestjs/common@11.2.8', '@nestjs/core@11.2.8', '@nestjs/platform-fastify@11.2.8'],
    fastify: '5.11.3',
    jest: ['jest@30.5.2', 'ts-jest@29.4.15']
  },
  {
    packages: ['@nestjs/common@12.5.1', '@nestjs/core@12.5.1', '@nestjs/platform-fastify@12.5.0'],
    fastify: '5.12.8',
    jest: []
  }
]
const NEST_NEEDS = [
  '@fastify/secure-session@8.4.0', 'reflect-metadata@0.2.2', 'rxjs@7.8.2', 'typescript@5.9.3', '@types/node@20.19.43'
]

/** What a program prints; the test fails where it fails. */
async function ask (t: Test, cwd: string, variables: object, file: string, ...args: string[]): Promise<string> {
  const { failure, output } = await run(file, args, { cwd, env: { ...env, ...variables } }).then(
    ({ stdout }) => ({ failure: '', output: stdout }),
    (error: { stdout: string, stderr: string }) => ({ failure: error.stdout + error.stderr, output: '' })
  )
  t.equal(failure, '', [file, ...args].join(' '))
  return output
}

async function variablesFor (t: Test): Promise<{ DATABASE_URL: string, TOKENS_SECRET: string, TOKENS_SCHEMA: string }> {
  const { url, schema } = await createDatabase(t)
  return { DATABASE_URL: url, TOKENS_SECRET: SECRET, TOKENS_SCHEMA: schema }
}

const APP_MODULE = `
import { Controller, Get, type MiddlewareConsumer, Module, type NestModule, Req, UseGuards } from '@nestjs/common'
import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import { Roles, RolesGuard } from './roles.guard'

@Controller()
class AppController {
  @Get('who')
  who (@Req() request: FastifyRequest) { return { name: request.applicationToken?.name ?? null } }

  @Get('admin') @Roles(['admin']) @UseGuards(RolesGuard)
  admin () { return 'admin' }

  @Get('anybody') @UseGuards(RolesGuard)
  anybody () { return 'anybody' }
}

@Controller('controlled') @Roles(['admin']) @UseGuards(RolesGuard)
class ControlledController {
  @Get()
  controlled () { return 'controlled' }
}

export const seen: unknown[] = []

@Module({ controllers: [AppController, ControlledController] })
export class AppModule implements NestModule {
  configure (consumer: MiddlewareConsumer) {
    consumer.apply((request: IncomingMessage & { originalUrl?: string }, _response: object, next: () => void) => {
      seen.push(request.url, request.originalUrl)
      next()
    }).forRoutes('{*path}')
  }
}
`

const NEST = `
import 'reflect-metadata'
import { seen } from './app.module'
import { createApp } from './create-app'

const { DATABASE_URL: postgres = '', TOKENS_SECRET: secret = '', TOKENS_SCHEMA: schema = '' } = process.env

test('a token comes in, a bad one does not', async () => {
  const app = await createApp({ postgres, secret, schema })
  await app.init()
  const { tokens } = app.getHttpAdapter().getInstance()
  const issue = async (role: string) => {
    const token = { name: role, role, validUntil: '2099-01-01T00:00:00Z', requestedBy: 'test' }
    return { authorization: 'Bearer ' + (await tokens.issue(token)).token }
  }
  const [admin, viewer] = [await issue('admin'), await issue('viewer')]
  const ask = async (url: string, headers = {}) => {
    const { statusCode, body } = await app.inject({ url, headers })
    return statusCode === 200 ? body : statusCode
  }
  const answers = [
    await ask('/who?token=' + viewer.authorization.slice(7)), await ask('/who', viewer), await ask('/who'), await ask('/who', { authorization: viewer.authorization.slice(0, -9) }),
    await ask('/admin', admin), await ask('/admin', viewer), await ask('/admin'), await ask('/api/tokens', viewer),
    await ask('/anybody', viewer), await ask('/anybody'), await ask('/controlled', admin), await ask('/controlled', viewer)
  ]
  await app.close()
  if (!seen.includes('/who') || seen.join().includes('token=')) throw new Error(seen.join())
  const expected = ['{"name":"viewer"}', '{"name":"viewer"}', '{"name":null}', 401, 'admin', 403, 401, 403, 'anybody', 401, 'controlled', 403]
  if (JSON.stringify(answers) !== JSON.stringify(expected)) throw new Error(JSON.stringify(answers))
})
`

const SESSION_MODULE = `
import { Controller, Get, Module, Param, Req, UseGuards } from '@nestjs/common'
import type { FastifyRequest } from 'fastify'
import type { TokenPrincipal } from 'fastify-mmc-tokens'
import { Roles } from './roles.guard'
import { UserGuard } from './user.guard'

@Controller()
class AppController {
  @Get('login/:role')
  login (@Param('role') role: string, @Req() request: FastifyRequest) {
    request.session.set('user', { username: 'me', roles: [role] })
    return ''
  }

  @Get('who') @UseGuards(UserGuard)
  who (@Req() request: FastifyRequest & { user: TokenPrincipal }) { return request.user.username }

  @Get('editor') @Roles(['editor', 'admin']) @UseGuards(UserGuard)
  editor () { return 'editor' }
}

@Module({ controllers: [AppController] })
export class AppModule {}
`

const SESSION_TEST = `
import 'reflect-metadata'
import assert from 'node:assert'
import { EventEmitter, once } from 'node:events'
import test from 'node:test'
import { createApp } from './create-app'

const { DATABASE_URL: postgres = '', TOKENS_SECRET: secret = '', TOKENS_SCHEMA: schema = '' } = process.env

test('a token that a logged-in user created', { timeout: 60_000 }, async t => {
  const [one, other] = [await createApp({ postgres, secret, schema }), await createApp({ postgres, secret, schema })]
  t.after(async () => { await Promise.all([one.close(), other.close()]) })
  await Promise.all([one.init(), other.init()])
  const login = async (role: string) => {
    const cookie = String((await one.inject('/login/' + role)).headers['set-cookie'])
    assert.match(cookie, /; Path=\\/; HttpOnly/)
    return { cookie: cookie.split(';')[0] }
  }
  const ask = async (url: string, headers = {}) => {
    const { statusCode, body } = await one.inject({ url, headers })
    return statusCode === 200 ? body : statusCode
  }
  const [admin, viewer] = [await login('admin'), await login('viewer')]
  const payload = { name: 'ci', role: 'editor', validUntil: '2099-01-01T00:00:00Z' }
  const refused = await one.inject({ method: 'POST', url: '/api/tokens', headers: viewer, payload })
  const created = await one.inject({ method: 'POST', url: '/api/tokens', headers: admin, payload })
  assert.deepStrictEqual([refused.statusCode, created.statusCode], [403, 200])
  const { token, hash, requestedBy } = created.json()
  assert.strictEqual(requestedBy, 'me')
  const bearer = { authorization: 'Bearer ' + token }
  const both = { ...viewer, ...bearer }
  assert.deepStrictEqual(
    [await ask('/who'), await ask('/who', viewer), await ask('/who', bearer), await ask('/who', both)],
    [401, 'me', 'token:ci', 'token:ci']
  )
  assert.deepStrictEqual(
    [await ask('/editor'), await ask('/editor', viewer), await ask('/editor', bearer), await ask('/editor', admin)],
    [401, 403, 'editor', 'editor']
  )

  const { tokens } = one.getHttpAdapter().getInstance()
  const accepted = await tokens.authenticate(token)
  assert(accepted !== null)
  const signal = tokens.signal(accepted, new EventEmitter())
  assert(signal !== null)
  const ended = once(signal, 'abort')
  const revoked = await other.inject({ method: 'DELETE', url: '/api/tokens/' + hash, headers: admin })
  assert.deepStrictEqual([revoked.statusCode, revoked.json()], [200, []])
  await ended
  assert.deepStrictEqual(
    [await ask('/who', bearer), await ask('/who', both), await ask('/who', viewer)],
    [401, 401, 'me']
  )
})
`

/** The `test` of node:test, as far as the one above needs it, on Jest's. */
const JEST_TEST = `
const test = (name: string, { timeout }: { timeout: number }, work: (t: object) => Promise<void>) => {
  const hooks: Array<() => Promise<void>> = []
  afterEach(async () => { for (const hook of hooks) await hook() })
  globalThis.test(name, async () => { await work({ after: (hook: () => Promise<void>) => { hooks.push(hook) } }) }, timeout)
}
`

/** Nest's `test/jest-e2e.json`. */
const JEST_E2E = {
  moduleFileExtensions: ['js', 'json', 'ts'], rootDir: '.', testEnvironment: 'node', testRegex: '.e2e-spec.ts$'
}

for (const { packages, fastify, jest } of NESTS) {
  t.test(`a Nest application of the recipe on ${packages[0]} compiles and passes its test, without a second Fastify`, async t => {
    const folder = join(root, fastify)
    await mkdir(folder)
    await writeFile(join(folder, 'package.json'), '{ "private": true }')
    await ask(t, folder, {}, 'npm', 'install', ...NPM, '--save-exact', ...packages, ...NEST_NEEDS, ...jest)
    await ask(t, folder, {}, 'npm', 'install', ...NPM, tarball)
    const copies = await ask(t, folder, {}, 'find', '.', '-path', '*/node_modules/fastify/package.json')
    t.strictSame(copies.trim().split('\n'), ['./node_modules/fastify/package.json'])
    t.equal((JSON.parse(
      await readFile(join(folder, 'node_modules/fastify/package.json'), 'utf8')
    ) as { version: string }).version, fastify)
    const [
      createApp = '', main = '', guard = '', sessionApp = '', userGuard = ''
    ] = await blocksOf('docs/recipes.md', 'ts')
    const [jestConfig = '', jestTsconfig = ''] = await blocksOf('docs/recipes.md', 'json')
    await writeFile(join(folder, 'create-app.ts'), createApp)
    await writeFile(join(folder, 'main.ts'), main)
    await writeFile(join(folder, 'roles.guard.ts'), guard)
    await writeFile(join(folder, 'app.module.ts'), APP_MODULE)
    await writeFile(join(folder, 'app.test.ts'), `import test from 'node:test'\n${NEST}`)
    await writeFile(join(folder, 'app.spec.ts'), NEST)
    await writeFile(join(folder, 'jest.config.json'), jestConfig)
    await writeFile(join(folder, 'tsconfig.jest.json'), jestTsconfig)
    const session = join(folder, 'session')
    await mkdir(session)
    await writeFile(join(session, 'create-app.ts'), sessionApp)
    await writeFile(join(session, 'main.ts'), main)
    await writeFile(join(session, 'roles.guard.ts'), guard)
    await writeFile(join(session, 'user.guard.ts'), userGuard)
    await writeFile(join(session, 'app.module.ts'), SESSION_MODULE)
    await writeFile(join(session, 'app.test.ts'), SESSION_TEST)
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({
      compilerOptions: {
        target: 'es2022',
        module: 'nodenext',
        outDir: 'dist',
        strict: true,
        experimentalDecorators: true,
        emitDecoratorMetadata: true,
        skipLibCheck: true,
        types: ['node']
      },
      exclude: ['**/*spec.ts']
    }))
    await ask(t, folder, {}, 'node_modules/.bin/tsc')
    await ask(t, folder, await variablesFor(t), process.execPath, '--test', 'dist/app.test.js')
    await t.test('with a session: users and tokens pass the guard, a token until it is revoked on another node', async t => {
      const variables = { ...await variablesFor(t), SESSION_KEY: '07'.repeat(32) }
      await ask(t, folder, variables, process.execPath, '--test', 'dist/session/app.test.js')
    })
    if (jest.length === 0) return
    await writeFile(join(folder, 'session/app.spec.ts'), SESSION_TEST.replace("import test from 'node:test'", JEST_TEST))
    await mkdir(join(folder, 'test'))
    await writeFile(join(folder, 'test/app.e2e-spec.ts'), NEST.replaceAll("'./", "'../"))
    const { transform, transformIgnorePatterns } = JSON.parse(jestConfig) as Record<string, unknown>
    await writeFile(join(folder, 'test/jest-e2e.json'), JSON.stringify({
      ...JEST_E2E, transform, transformIgnorePatterns
    }))
    const jestOf = async (variables: object, ...args: string[]): Promise<void> => {
      await ask(t, folder, { ...await variablesFor(t), ...variables }, 'node_modules/.bin/jest', '--silent', ...args)
    }
    await jestOf({}, 'app.spec.ts', '--testPathIgnorePatterns=session')
    await jestOf({ SESSION_KEY: '07'.repeat(32) }, 'session')
    await jestOf({}, '--config=test/jest-e2e.json')
  })
}

const PLUGIN = `
const fp = require('fastify-plugin')
module.exports = fp(async (app, options) => {
  const { DATABASE_URL: postgres, TOKENS_SECRET: secret, TOKENS_SCHEMA: schema } = process.env
  await app.register(require('fastify-mmc-tokens'), { ...options, postgres, secret, schema })
})
`

const CLI_TEST = `
const test = require('node:test')
const assert = require('node:assert')
const { build } = require('./helper')
test('a token comes in', async t => {
  const app = await build(t)
  const { token } = await app.tokens.issue({ name: 'ci', role: 'admin', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'test' })
  assert.equal((await app.inject({ url: '/api/tokens', headers: { authorization: 'Bearer ' + token } })).statusCode, 200)
  assert.equal((await app.inject('/api/tokens')).statusCode, 401)
})
`

t.test("an application of fastify-cli's template passes its tests; it starts with -o and skipOverride, and without them says so", async t => {
  const folder = join(root, 'cli')
  await ask(t, root, {}, 'npm', 'install', ...NPM, '--prefix', join(root, 'tool'), 'fastify-cli@8.0.2')
  await ask(t, root, {}, join(root, 'tool/node_modules/.bin/fastify'), 'generate', folder)
  await ask(t, folder, {}, 'npm', 'install', ...NPM, tarball)
  await writeFile(join(folder, 'plugins/tokens.js'), PLUGIN)
  await writeFile(join(folder, 'test/tokens.test.js'), CLI_TEST)
  const variables = await variablesFor(t)
  await ask(t, folder, variables, 'npm', 'test')

  const start = (...args: string[]) => spawn(
    join(folder, 'node_modules/.bin/fastify'),
    ['start', '-l', 'info', '-p', '0', ...args, 'app.js'],
    { cwd: folder, env: { ...env, ...variables }, stdio: ['ignore', 'pipe', 'pipe'] }
  )
  let said = ''
  const listen = (child: ReturnType<typeof start>): void => {
    said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => { said += String(chunk) })
  }
  const child = start()
  listen(child)
  await once(child, 'close')
  t.match(said, /fastify-mmc-tokens is registered in a child.*fp\(app\).*-o and skipOverride/)

  const app = join(folder, 'app.js')
  await writeFile(app, (await readFile(app, 'utf8')).replace(
    'const options = {}', 'const options = { skipOverride: true, bodyLimit: 100000 }'
  ))
  const host = start('-o')
  listen(host)
  const ended = once(host, 'exit')
  const addressOf = (): string | undefined => /Server listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(said)?.[1]
  await until(() => addressOf() !== undefined || host.exitCode !== null)
  t.equal((await fetch(`${addressOf()}/api/tokens`).catch(() => ({ status: said }))).status, 401)
  host.kill()
  await ended
})
