import { readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Before a server starts: takes away what disturbs it, of those that were killed and of others. */
export async function clean ({ data, memory }: { data: string, memory: string }): Promise<void> {
  // They are for another server, and pg reads them wherever an address says nothing.
  for (const name of Object.keys(process.env)) if (name.startsWith('PG')) delete process.env[name]
  await sweep(data, /^(\d+)-/)
  for (const parent of [tmpdir(), memory]) await sweep(parent, /^mmc-tokens-(\d+)-/)
}

/**
 * Removes what processes left behind that were killed: folders named after a process that is gone, as is the server in
 * them.
 */
export async function sweep (parent: string, named: RegExp): Promise<void> {
  for (const name of await readdir(parent).catch(() => [])) {
    const folder = join(parent, name)
    const server = await readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '')
    const maker = named.exec(name)?.[1]
    // Another user's stay.
    if (maker !== undefined &&
      ![maker, server].some(isRunning)) await rm(folder, { recursive: true, force: true }).catch(() => {})
  }
}

function isRunning (pid: string): boolean {
  try {
    return process.kill(Number.parseInt(pid), 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
