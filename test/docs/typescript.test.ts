import { execFile } from 'node:child_process'
import { readdir, readFile, rm } from 'node:fs/promises'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import ts from 'typescript'
import { blocksOf } from '../support/docs.js'

// The blocks of docs/recipes.md run in test/hosts, with packages that are not installed here.
const names = (await readdir('docs')).filter(name => name.endsWith('.md') && name !== 'recipes.md')
const PAGES = await Promise.all(names.map(async name => ({ name, blocks: await blocksOf(`docs/${name}`, 'ts') })))

/** What a block may use without declaring it: the reader's host, which has sessions and WebSockets, and its parts. */
const HOST = `
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { TokensPluginOptions } from 'fastify-mmc-tokens'
import type { EventEmitter } from 'node:events'
import '@fastify/secure-session'
import '@fastify/websocket'

declare global {
  const app: FastifyInstance
  const options: TokensPluginOptions
  const handler: (request: FastifyRequest) => Promise<object>
  const bus: EventEmitter
  const audit: { write: (line: string) => Promise<void> }
}`

/** The file \`./app.js\` of the reader. */
const APP = `
import Fastify, { type FastifyInstance } from 'fastify'
import tokensPlugin, { type TokensPluginOptions } from 'fastify-mmc-tokens'

export async function buildApp (options: TokensPluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(tokensPlugin, options)
  return app
}`

// The declarations that are published: the sources declare more, by what they import.
const types = `.data/types-${process.pid}`
t.teardown(() => rm(types, { recursive: true }))
await promisify(execFile)('npx', ['tsc', '-p', 'lib', '--emitDeclarationOnly', '--noCheck', '--outDir', types], {
  env: { ...process.env, NODE_OPTIONS: '' }
})

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.NodeNext,
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: true,
  noEmit: true,
  types: ['node'],
  baseUrl: process.cwd(),
  paths: {
    'fastify-mmc-tokens': [`${types}/lib/index.d.ts`], 'fastify-mmc-tokens/schemas': [`${types}/schemas/index.d.ts`]
  }
}

const parsed = new Map<string, ts.SourceFile | undefined>()

/** What the compiler says of blocks, each a module of the reader's: for each block, its errors. */
function compileEach (blocks: string[], host = HOST): string[][] {
  const files = new Map([host, APP, ...blocks].map((text, index) =>
    [resolve('docs', ['host.ts', 'app.ts'][index] ?? `block${index}.ts`), text]))
  const compiler = ts.createCompilerHost(OPTIONS)
  const { getSourceFile, fileExists } = compiler
  compiler.fileExists = name => files.has(name) || fileExists(name)
  compiler.getSourceFile = (name, settings, ...others) => {
    const text = files.get(name)
    // Without an export, a file is no module, and its names are everybody's.
    if (text !== undefined) return ts.createSourceFile(name, `${text}\nexport {}`, settings)
    if (!parsed.has(name)) parsed.set(name, getSourceFile(name, settings, ...others))
    return parsed.get(name)
  }
  const names = [...files.keys()]
  const program = ts.createProgram(names, OPTIONS, compiler)
  const errors = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
    const line = file?.text.slice(start).split('\n', 1)[0] ?? ''
    return { index: names.indexOf(file?.fileName ?? ''), text: `${ts.flattenDiagnosticMessageText(messageText, '\n')}: ${line}` }
  })
  t.strictSame(errors.filter(({ index }) => index < 2), [])
  return blocks.map((_block, index) => errors.filter(error => error.index === index + 2).map(({ text }) => text))
}

const compile = (block: string, host?: string): string[] => compileEach([block], host).flat()

// Two ways to declare the reader's types must not meet.
const isAlone = (block: string): boolean => block.includes('declare module')
const together = PAGES.flatMap(({ blocks }) => blocks).filter(block => !isAlone(block))
const errorsOf = new Map(compileEach(together).map((errors, index) => [together[index], errors]))

for (const { name, blocks } of PAGES.filter(({ blocks }) => blocks.length > 0)) {
  t.test(`docs/${name}: each block of TypeScript compiles with strict`, async t => {
    for (const block of blocks) t.strictSame(isAlone(block) ? compile(block, '') : errorsOf.get(block), [], block)
  })
}

t.test("README.md: the example compiles as strict TypeScript, and its token does not outlive the reader's day", async t => {
  const [example = '', ...more] = await blocksOf('README.md', 'js')
  t.strictSame([compile(example, ''), more], [[], []])
  t.notMatch(await readFile('README.md', 'utf8'), /\b20\d\d-\d\d/)
})

t.test('the check finds a type error, an undeclared name and a missing import', async t => {
  t.match(compileEach(["const n: number = 'one'", 'call()', 'await app.register(tokensPlugin, options)']), [
    [/not assignable to type 'number'/], [/Cannot find name 'call'/], [/Cannot find name 'tokensPlugin'/]
  ])
})
