import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import type { Test } from 'tap'

export const run = promisify(execFile)
export const env = { ...process.env, NODE_OPTIONS: '' }
export const NPM = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts']

/** A folder outside of the project, with the packed plugin, until the test ends. */
export async function createRoot (t: Test): Promise<{ root: string, tarball: string }> {
  const root = await mkdtemp(join(tmpdir(), 'mmc-tokens-hosts-'))
  t.teardown(() => rm(root, { recursive: true }))
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', root], { env })
  const [{ filename }] = JSON.parse(stdout.slice(stdout.search(/^\[$/m))) as [{ filename: string }]
  return { root, tarball: join(root, filename) }
}

export interface Folder {
  path: string
  /** What a package exports. The caller says what that is. */
  load: <T>(name: string) => Promise<T>
  /** Runs a block of a page: it sees these values, and imports the packages of the folder. */
  runBlock: (code: string, values: Record<string, unknown>) => Promise<void>
}

/** A folder where a host's packages are installed, and the plugin after them. */
export async function installHost (t: Test, packages: readonly string[]): Promise<Folder> {
  const { root, tarball } = await createRoot(t)
  const path = join(root, 'host')
  await mkdir(path)
  await writeFile(join(path, 'package.json'), '{ "private": true, "type": "module" }')
  await run('npm', ['install', ...NPM, '--save-exact', ...packages], { cwd: path, env })
  await run('npm', ['install', ...NPM, tarball], { cwd: path, env })
  await writeFile(join(path, 'load.js'), 'export const load = async name => await import(name)')
  const { load } = await import(pathToFileURL(join(path, 'load.js')).href) as Pick<Folder, 'load'>
  return {
    path,
    load,
    async runBlock (code, values) {
      const file = join(path, `${randomUUID()}.js`)
      const imports = [...code.matchAll(/^import .*$/gm)].map(([line]) => line).join('\n')
      const body = code.replaceAll(/^import .*$/gm, '')
      await writeFile(file, `${imports}\nexport default async ({ ${Object.keys(values).join()} }) => {${body}}`)
      const module = await import(pathToFileURL(file).href) as { default: (values: object) => Promise<void> }
      await module.default(values)
    }
  }
}
