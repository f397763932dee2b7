import { join, resolve } from 'node:path'

/** Where the runner puts the sources as JavaScript, each at its own path. */
export const COMPILED = resolve('.tap/compiled')

/** The JavaScript of a source. */
export function compiled (file: string): string {
  return join(COMPILED, file.replace(/\.ts$/, '.js'))
}

/** How Node.js runs a program of the sources: as it runs this one, compiled, or through tsx where nothing was compiled. */
export function argumentsFor (file: string): string[] {
  return process.argv[1]?.startsWith(COMPILED) === true ? ['--enable-source-maps', compiled(file)] : ['--import', 'tsx', file]
}
