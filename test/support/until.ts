import { setTimeout as wait } from 'node:timers/promises'

/**
 * Resolves once a condition holds. It polls, so that the core is free for what it waits for; the timeout of the file is
 * its limit.
 */
export async function until (isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!await isSo()) await wait(5)
}
