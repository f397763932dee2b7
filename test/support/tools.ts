import { spawnSync } from 'node:child_process'

/**
 * Which of these programs this machine does not have, for a test that runs lines of the docs as they stand; `false`
 * where it has all.
 */
export function lacks (...programs: string[]): string | false {
  const missing = programs.filter(program => spawnSync('sh', ['-c', `command -v ${program}`]).status !== 0)
  return missing.length > 0 && `this machine has no ${missing.join(', ')}`
}
