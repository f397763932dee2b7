import { join, resolve } from 'node:path'

/** Where the runner puts the compiled sources, each at its own path. */
export const COMPILED = resolve('.tap/compiled')

/** The compiled file of a source. */
export function compiled (file: string): string {
  return join(COMPILED, file.replace(/\.ts$/, '.js'))
}

/** The arguments for Node.js to run a source: compiled if this process is, or else through tsx. */
export function argumentsFor (file: string): string[] {
  return process.argv[1]?.startsWith(COMPILED) === true
    ? ['--enable-source-maps', compiled(file)]
    : ['--import', 'tsx', file]
}
