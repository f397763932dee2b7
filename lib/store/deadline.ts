import { DeadlineError } from '../errors.js'
import type { PostgresClient, PostgresPool } from '../types.js'

/** How long a call may take, the wait for a connection included, in milliseconds. */
const DEADLINE = 1000

export type Run = <Row>(query: { text: string, values?: unknown[], name?: string }) => Promise<Row[]>

/** Values arrive as Postgres writes them, whatever parsers the host has set for its own. */
const AS_TEXT = { getTypeParser: () => (value: string) => value }

/** A race's loser and a lost connection's second report: the first was handled. */
function ignore (): void {}

/**
 * Gives `work` a client of the pool, for at most a second. Whose pool it is, and how it is set, makes no difference: a client that comes
 * too late goes back unused, and one that may still be at work when time is up, or that met an error, is closed, which also ends its
 * transaction.
 * @throws DeadlineError, or what `work` throws
 */
export async function withClient<T> (pool: PostgresPool, work: (run: Run) => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => { reject(new DeadlineError(DEADLINE)) }, DEADLINE).unref()
  })
  try {
    const connecting = pool.connect()
    const client = await Promise.race([connecting, late]).catch((error: unknown) => {
      connecting.then(client => { client.release() }, ignore)
      throw error
    })
    return await useClient(client, run => Promise.race([work(run), late]))
  } finally {
    clearTimeout(timer)
  }
}

async function useClient<T> (client: PostgresClient, work: (run: Run) => Promise<T>): Promise<T> {
  // Without a listener, a connection that ends meanwhile would end the process.
  client.on('error', ignore)
  let isSound = false
  try {
    const result = await work(async <Row>(query: Parameters<Run>[0]) => (await client.query({ ...query, types: AS_TEXT })).rows as Row[])
    isSound = true
    return result
  } finally {
    client.off('error', ignore)
    client.release(!isSound)
  }
}
