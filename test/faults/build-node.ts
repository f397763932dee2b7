import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { type Bug, type BugName, BUGS } from './bugs.js'

const PROJECT = fileURLToPath(new URL('../../', import.meta.url))

export interface Build {
  /** The program of a node. */
  main: string
  remove: () => Promise<void>
}

/**
 * The sources as JavaScript in a folder of their own, so that nodes start fast; with a bug planted where it is named.
 */
export async function buildNode (bug?: BugName): Promise<Build> {
  await mkdir(join(PROJECT, '.data'), { recursive: true })
  const folder = await mkdtemp(join(PROJECT, '.data/node-'))
  const sources = await Promise.all(['lib', 'schemas'].map(
    async room => (await readdir(join(PROJECT, room), { recursive: true })).map(file => join(room, file))
  ))
  for (const file of [
    ...sources.flat().filter(file => file.endsWith('.ts')), 'test/support/host.ts', 'test/support/metrics.ts',
    'test/support/page.ts', 'test/faults/node.ts'
  ]) {
    const source = await readFile(join(PROJECT, file), 'utf8')
    const { outputText } = ts.transpileModule(plant(file, source, bug), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true }
    })
    const output = join(folder, file.replace(/\.ts$/, '.js'))
    await mkdir(dirname(output), { recursive: true })
    await writeFile(output, outputText)
  }
  return { main: join(folder, 'test/faults/node.js'), remove: async () => { await rm(folder, { recursive: true }) } }
}

function plant (file: string, source: string, bug: BugName | undefined): string {
  const edits: Bug = bug === undefined ? [] : BUGS[bug]
  return edits.filter(([edited]) => edited === file).reduce((text, [, from, to]) => {
    const parts = text.split(from)
    if (parts.length !== 2) throw new Error(`"${bug}" can't be planted: ${file} has ${parts.length - 1} times: ${from}`)
    return parts.join(to)
  }, source)
}
