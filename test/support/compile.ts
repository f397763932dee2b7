import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { transform } from 'esbuild'
import { compiled } from './program.js'

const FOLDERS = ['lib', 'schemas', 'test']
// Packages of their own, and the input of other compilers.
const NOT_OURS = /node_modules|^test\/(bench|consumer|mutation)\/(?!.*\.test\.ts$)/

/** Compiles all sources once, instead of in each process. `import.meta`, stacks and coverage name the sources. */
export async function compile (): Promise<void> {
  const files = await Promise.all(
    FOLDERS.map(async folder => (await readdir(folder, { recursive: true })).map(file => join(folder, file)))
  )
  await Promise.all(files.flat().filter(file => file.endsWith('.ts') && !NOT_OURS.test(file)).map(async file => {
    const path = resolve(file)
    const { code } = await transform(await readFile(path, 'utf8'), {
      loader: 'ts',
      format: 'esm',
      target: `node${process.versions.node}`,
      sourcemap: 'inline',
      sourcesContent: false,
      sourcefile: path,
      define: {
        'import.meta.url': JSON.stringify(pathToFileURL(path)), 'import.meta.dirname': JSON.stringify(dirname(path))
      }
    })
    const output = compiled(file)
    await mkdir(dirname(output), { recursive: true })
    // Atomic: another run may be using it.
    await writeFile(`${output}-${process.pid}`, code)
    await rename(`${output}-${process.pid}`, output)
  }))
}
