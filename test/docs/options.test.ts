import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import t from 'tap'
import ts from 'typescript'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { type Options, OptionsSchema } from '../../schemas/options.js'
import { SECRET } from '../support/build-host.js'
import { runBlock } from '../support/docs.js'

const PAGE = await readFile('docs/options.md', 'utf8')

interface Option { type: string, isRequired: boolean, default: unknown, doc: string }

/** The options as the compiler shows them to an editor, with their defaults. */
function readOptions (): Map<string, Option> {
  const { options } = ts.parseJsonConfigFileContent(
    ts.readConfigFile('tsconfig.json', ts.sys.readFile).config, ts.sys, '.'
  )
  const program = ts.createProgram(['lib/api.ts'], options)
  const checker = program.getTypeChecker()
  const file = program.getSourceFile('lib/api.ts') as ts.SourceFile
  const symbol = checker.getExportsOfModule(checker.getSymbolAtLocation(file) as ts.Symbol).find(({ name }) =>
    name === 'TokensPluginOptions') as ts.Symbol
  return new Map(checker.getDeclaredTypeOfSymbol(symbol).getProperties().map(property => {
    const type = checker.typeToString(
      checker.getNonNullableType(checker.getTypeOfSymbol(property)), file, ts.TypeFormatFlags.NoTruncation
    )
    const isRequired = (property.flags & ts.SymbolFlags.Optional) === 0
    const schema: { default?: unknown } = OptionsSchema.properties[property.name as keyof Options]
    return [property.name, {
      type: type.replaceAll('"', "'"),
      isRequired,
      default: schema.default,
      doc: ts.displayPartsToString(property.getDocumentationComment(checker)).replace(/\s+/g, ' ')
    }]
  }))
}

const known = readOptions()

interface Section {
  name: string
  type: string | undefined
  unit: string | undefined
  value: string | undefined
  isRequired: boolean
  text: string
  example: string
}

/**
 * What a page says of each option: ## `name`, a line with its type, unit and default, why one changes it, an example.
 */
function sectionsOf (page: string): Section[] {
  return page.split(/^## /m).slice(1).map(text => {
    const [, type, unit, value, required] = /^Type `([^`]+)`(?:, in ([\w ]+))?, (?:default (?:`([^`]+)`|none)|(required))\.$/m.exec(text) ??
      []
    const [, why = '', example = ''] = /^Type .*\n\n([^]*?)```js\n([^]*?)```/m.exec(text) ?? []
    return {
      name: /^`(\w+)`\n/.exec(text)?.[1] ??
      '',
      type,
      unit,
      value,
      isRequired: required !== undefined,
      text: why.trim(),
      example
    }
  })
}

/** What such a page has not, or has wrong. */
function faultsOf (page: string, options: Map<string, Omit<Option, 'doc'>> = known): string[] {
  const sections = new Map(sectionsOf(page).map(section => [section.name, section]))
  const faults = [...sections.keys()].filter(name => !options.has(name)).map(name => `${name}: there is none`)
  for (const [name, option] of options) {
    const { type, unit, value, isRequired, text, example } = sections.get(name) ?? {}
    if (type === undefined || !text) faults.push(`${name}: missing, or not as the others`)
    else if (type !== option.type) faults.push(`${name}: type ${type}`)
    else if (/\bnumber\b(?!\[)/.test(type) && unit === undefined) faults.push(`${name}: no unit`)
    else if (isRequired !== option.isRequired) faults.push(`${name}: required or not`)
    else if (option.default !== undefined &&
      !isEqual(value, option.default)) faults.push(`${name}: default ${value ?? 'none'}`)
    else if (!new RegExp(`^${name}: `, 'm').test(example ?? '')) faults.push(`${name}: no example`)
  }
  return faults
}

function isEqual (told: string | undefined, value: unknown): boolean {
  try {
    return JSON.stringify(JSON.parse(told ?? '')) === JSON.stringify(value)
  } catch {
    return false
  }
}

t.test('editors show what each option does, and its default', async t => {
  t.strictSame([...known.keys()].sort(), Object.keys(OptionsSchema.properties).sort())
  for (const [name, { doc, isRequired, default: value }] of known) {
    t.ok(doc.length > 20, name)
    if (!isRequired) t.match(doc, typeof value === 'string' && value !== '' ? `Default \`${value}\`` : /Default/, name)
  }
})

t.test('docs/options.md has each option of schemas/options.ts, with its type, unit and default, and no others', async t => {
  t.strictSame(faultsOf(PAGE), [])
})

t.test('the check finds a missing option and a wrong type, unit or default', async t => {
  const broken: Array<[from: string | RegExp, to: string, fault: string]> = [
    [/## `prefix`[^]*?(?=^## )/m, '', 'prefix: missing, or not as the others'],
    ['## `hook`', '## `hoook`', 'hoook: there is none'],
    ['Type `boolean`', 'Type `string`', 'enabled: type string'],
    ['`"cedalo"`', '`"MMC"`', 'issuer: default MMC'],
    ['default `[1]`', 'default none', 'versions: default none'],
    ['Type `string | string[]`, required', 'Type `string | string[]`, default none', 'secret: required or not'],
    ["hook: 'onRequest'\n", '', 'hook: no example'],
    [/^With another|^Whether a node [^]*?(?=```)/m, '', 'migrate: missing, or not as the others']
  ]
  for (const [from, to, fault] of broken) {
    t.ok(faultsOf(PAGE.replace(from, to)).some(found =>
      found.replaceAll('"', '') === fault), fault)
  }

  const number = '## `maxAge`\n\nType `number`, in seconds, default `60`.\n\nWhy.\n\n```js\nmaxAge: 5\n```\n'
  const options = new Map([['maxAge', { type: 'number', isRequired: false, default: 60 }]])
  t.strictSame(
    [faultsOf(number, options), faultsOf(number.replace(', in seconds', ''), options)], [[], ['maxAge: no unit']]
  )
})

for (const { name, example } of sectionsOf(PAGE)) {
  t.test(`docs/options.md: the example of ${name} is accepted`, async t => {
    const process = {
      env: {
        DATABASE_URL: 'postgres://localhost/none',
        TOKENS_SECRET: [randomBytes(32), randomBytes(32)].map(bytes => bytes.toString('base64')).join(),
        TOKENS_ENABLED: 'false'
      }
    }
    const { given = {} } = await runBlock(
      `export const given = { ${example} }`, { process }
    ) as { given?: Partial<TokensPluginOptions> }
    const app = Fastify()
    t.teardown(() => app.close())
    await t.resolves(async () => await app.register(tokensPlugin, {
      postgres: 'postgres://localhost/none', secret: SECRET, enabled: false, ...given
    }))
    t.ok(name in given)
  })
}

t.test('the table of contents of docs/options.md names each option, with a link to its section', async t => {
  const linked = [...PAGE.matchAll(/\[`(\w+)`\]\(#(\w+)\)/g)]
  for (const [, name = '', anchor] of linked) t.equal(anchor, name.toLowerCase())
  t.strictSame(linked.map(([, name]) => name).sort(), [...known.keys()].sort())
})
