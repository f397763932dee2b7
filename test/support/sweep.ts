import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'

/** Removes what processes left behind that were killed: folders named after a process that is gone, as is the server in them. */
export async function sweep (parent: string, named: RegExp): Promise<void> {
  for (const name of await readdir(parent).catch(() => [])) {
    const folder = join(parent, name)
    const server = await readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '')
    const maker = named.exec(name)?.[1]
    // Another user's stay.
    if (maker !== undefined && ![maker, server].some(isRunning)) await rm(folder, { recursive: true, force: true }).catch(() => {})
  }
}

function isRunning (pid: string): boolean {
  try {
    return process.kill(Number.parseInt(pid), 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
