import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { createRoot, env, NPM, run } from './folder.js'

t.setTimeout(900_000)
const { root, tarball } = await createRoot(t)

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

const NEST = `
import 'reflect-metadata'
import test from 'node:test'
import assert from 'node:assert'
import { Controller, Get, Module, Req } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import type { FastifyRequest } from 'fastify'
import tokensPlugin from 'fastify-mmc-tokens'

@Controller()
class AppController {
  @Get('who')
  who (@Req() request: FastifyRequest) { return { name: request.applicationToken?.name ?? null } }
}

@Module({ controllers: [AppController] })
class AppModule {}

test('a token comes in, a bad one does not', async () => {
  const { DATABASE_URL: postgres = '', TOKENS_SECRET: secret = '', TOKENS_SCHEMA: schema = '' } = process.env
  const adapter = new FastifyAdapter()
  const fastify = adapter.getInstance()
  await fastify.register(tokensPlugin, { postgres, secret, schema })
  const app = await NestFactory.create<NestFastifyApplication>(AppModule, adapter, { logger: false })
  await app.listen(0)
  const url = await app.getUrl()
  const { token } = await fastify.tokens.issue({ name: 'ci', role: 'admin', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'test' })
  const headers = { authorization: 'Bearer ' + token }
  assert.deepEqual(await (await fetch(url + '/who', { headers })).json(), { name: 'ci' })
  assert.deepEqual(await (await fetch(url + '/who')).json(), { name: null })
  assert.equal((await fetch(url + '/who', { headers: { authorization: headers.authorization.slice(0, -9) } })).status, 401)
  assert.equal((await fetch(url + '/api/tokens', { headers })).status, 200)
  await app.close()
})
`

t.test('a Nest application that has its own Fastify compiles, starts and passes its test, without a second copy', async t => {
  const folder = join(root, 'nest')
  await run('mkdir', [folder])
  await writeFile(join(folder, 'package.json'), '{ "private": true }')
  await ask(
    t,
    folder,
    {},
    'npm',
    'install',
    ...NPM,
    '--save-exact',
    '@nestjs/common@11.2.8',
    '@nestjs/core@11.2.8',
    '@nestjs/platform-fastify@11.2.8',
    'reflect-metadata@0.2.2',
    'rxjs@7.8.2',
    'typescript@5.9.3',
    '@types/node@20.19.43'
  )
  await ask(t, folder, {}, 'npm', 'install', ...NPM, tarball)
  const copies = await ask(t, folder, {}, 'find', '.', '-path', '*/node_modules/fastify/package.json')
  t.strictSame(copies.trim().split('\n'), ['./node_modules/fastify/package.json'])
  t.equal((JSON.parse(
    await readFile(join(folder, 'node_modules/fastify/package.json'), 'utf8')
  ) as { version: string }).version, '5.11.3')
  await writeFile(join(folder, 'app.test.ts'), NEST)
  await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({
    compilerOptions: {
      target: 'es2022',
      module: 'nodenext',
      strict: true,
      experimentalDecorators: true,
      emitDecoratorMetadata: true,
      skipLibCheck: true,
      types: ['node']
    }
  }))
  await ask(t, folder, {}, 'node_modules/.bin/tsc')
  await ask(t, folder, await variablesFor(t), process.execPath, '--test', 'app.test.js')
})

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
  const child = start()
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => { said += String(chunk) })
  await once(child, 'close')
  t.match(said, /fastify-mmc-tokens is registered in a child.*fp\(app\).*-o and skipOverride/)

  const app = join(folder, 'app.js')
  await writeFile(app, (await readFile(app, 'utf8')).replace(
    'const options = {}', 'const options = { skipOverride: true, bodyLimit: 100000 }'
  ))
  const host = start('-o')
  host.stderr.resume()
  let address = ''
  for await (const line of createInterface(host.stdout)) {
    address = /Server listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1] ?? address
    if (address !== '') break
  }
  t.equal((await fetch(`${address}/api/tokens`)).status, 401)
  const ended = once(host, 'exit')
  host.kill()
  await ended
})
