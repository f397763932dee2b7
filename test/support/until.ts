import { setTimeout as wait } from 'node:timers/promises'

/** Resolves once it is so. It asks now and then, so that what it waits for has the core; how long it may take is for the time-out of the file. */
export async function until (isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!await isSo()) await wait(5)
}
