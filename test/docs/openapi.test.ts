import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { Validator } from '@seriousme/openapi-schema-validator'
import openapiTypescript, { astToString } from 'openapi-typescript'
import t from 'tap'
import { isCreateToken, isErrorBody, isIssuedToken, isToken } from '../../schemas/index.js'
import { buildHost } from '../support/build-host.js'
import { createOpenapi } from '../support/openapi.js'

interface Media { schema: object, example?: unknown }
interface Operation {
  operationId: string
  summary: string
  tags: string[]
  requestBody?: { content: Record<string, Media> }
  responses: Record<string, { content: Record<string, Media> }>
}
interface Document {
  paths: Record<string, Record<string, Operation>>
  components: { securitySchemes: object }
  security: object[]
}

const readDocument = async (): Promise<Document> => JSON.parse(await readFile('docs/openapi.json', 'utf8')) as Document

t.test('docs/openapi.json is up to date; "npm run openapi" generates it', async t => {
  t.strictSame(await readDocument(), JSON.parse(JSON.stringify(await createOpenapi())))
})

for (const version of ['3.0.3', '3.1.0'] as const) {
  t.test(`the routes are described in valid OpenAPI ${version}`, async t => {
    const { valid, errors } = await new Validator().validate(
      JSON.parse(JSON.stringify(await createOpenapi(version))) as Record<string, unknown>
    )
    t.ok(valid, JSON.stringify(errors))
  })
}

t.test('it declares and names both ways to present a token', async t => {
  const { components, security } = await readDocument()
  t.match(Object.values(components.securitySchemes), [
    { type: 'http', scheme: 'bearer' }, { type: 'apiKey', in: 'query', name: 'token' }
  ])
  t.strictSame(security.flatMap(one => Object.keys(one)), Object.keys(components.securitySchemes))
})

t.test('each operation has an id, a summary and a tag, and each status but 204 a body with an example that fits it', async t => {
  const operations = Object.values((await readDocument()).paths).flatMap(path => Object.values(path))
  const isList = (value: unknown): boolean => Array.isArray(value) && value.every(isToken)
  const answers: Record<string, (value: unknown) => boolean> = {
    listApplicationTokens: isList,
    createApplicationToken: isIssuedToken,
    getApplicationToken: isToken,
    revokeApplicationToken: isList
  }
  t.strictSame(operations.map(({ operationId }) => operationId).sort(), Object.keys(answers).sort())
  for (const { operationId, summary, tags, requestBody, responses } of operations) {
    t.ok(summary !== '' && tags.length === 1, operationId)
    if (requestBody !== undefined) t.ok(isCreateToken(requestBody.content['application/json']?.example))
    for (const [status, { content }] of Object.entries(responses)) {
      if (status === '204') continue
      const example = content['application/json']?.example
      const fits = status === '200'
        ? answers[operationId]?.(example)
        : isErrorBody(example) &&
        (status === '401') === (example.data !== undefined)
      t.ok(fits, `${operationId} ${status}: ${JSON.stringify(example)}`)
    }
  }
})

t.test('the description names the versions that the host serves', async t => {
  const told = JSON.stringify(await createOpenapi('3.1.0', { versions: [2, 3] }))
  t.notMatch(told, /version=1/)
  t.match(told, 'Accept must allow one of: application/json;version=3, application/json;version=2')
  t.match(told, '`Accept: application/json;version=3` selects the representation')
})

t.test('a client generated from it creates, lists, gets and revokes a token', async t => {
  const { app, issue } = await buildHost(t)
  await mkdir('.data', { recursive: true })
  const folder = await mkdtemp('.data/client-')
  t.teardown(() => rm(folder, { recursive: true }))
  await writeFile(`${folder}/package.json`, '{ "type": "module" }')
  await writeFile(
    `${folder}/openapi.d.ts`, astToString(await openapiTypescript(await readFile('docs/openapi.json', 'utf8')))
  )
  await cp('test/consumer/client.ts', `${folder}/client.ts`)

  const run = async (...args: string[]): Promise<void> => {
    const failure = await promisify(execFile)(process.execPath, args, { env: { ...process.env, NODE_OPTIONS: '' } })
      .then(() => '', (error: { stdout: string, stderr: string }) => error.stdout + error.stderr)
    t.equal(failure, '', args.join(' '))
  }
  await run(
    'node_modules/typescript/bin/tsc',
    '--strict',
    '--skipLibCheck',
    '--target',
    'es2023',
    '--module',
    'nodenext',
    '--types',
    'node',
    `${folder}/client.ts`
  )
  await run(`${folder}/client.js`, await app.listen({ port: 0 }), (await issue({ role: 'admin' })).token)
})

t.test("the example of a new token has one of the host's roles", async t => {
  const { paths } = JSON.parse(JSON.stringify(await createOpenapi('3.1.0', { roles: ['admin', 'robot'] }))) as Document
  t.equal(
    (paths['/api/tokens']?.post?.requestBody?.content['application/json']?.example as { role?: string }).role, 'robot'
  )
})
