import { randomBytes } from 'node:crypto'
import pg from 'pg'
import t, { type Test } from 'tap'
import { startPostgres } from './postgres.js'

let url: Promise<string> | undefined

/**
 * A database of this process's own, since files that run beside it notify of changes and hold transactions open. It is
 * on the server of `DATABASE_URL`, else on one of this process's own.
 */
export function databaseUrl (): Promise<string> {
  url ??= (async () => await addDatabase(t, process.env.DATABASE_URL ?? (await startPostgres()).url))()
  return url
}

export interface Database {
  url: string
  /** The schema for the plugin's tables, dropped when the test ends. */
  schema: string
  /** Asks Postgres behind the plugin's back. `tokens` in `text` is the plugin's table. */
  query: (text: string, values?: unknown[]) => Promise<Array<Record<string, unknown>>>
}

/** A schema of its own for a test. */
export async function createDatabase (t: Test): Promise<Database> {
  const schema = `test_${randomBytes(6).toString('hex')}`
  return openSchema(
    t, await databaseUrl(), schema, async query => { await query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`) }
  )
}

/** A database of its own, for a test that looks at all connections to it, or ends them. */
export async function createSeparateDatabase (t: Test): Promise<Database> {
  return openSchema(t, await addDatabase(t, await databaseUrl()), 'mmc_tokens')
}

async function addDatabase (t: Pick<Test, 'teardown'>, server: string): Promise<string> {
  const name = `test_${randomBytes(6).toString('hex')}`
  const ask = async (statement: string): Promise<void> => {
    const client = new pg.Client(server)
    await client.connect()
    await client.query(statement).finally(() => client.end())
  }
  await ask(`CREATE DATABASE ${name}`)
  // Without FORCE, Postgres waits for connections that are ending.
  t.teardown(() => ask(`DROP DATABASE ${name}`))
  return Object.assign(new URL(server), { pathname: `/${name}` }).href
}

/** The schema at `url`, until the test ends. */
function openSchema (
  t: Test, url: string, schema: string, leave = async (_query: Database['query']): Promise<void> => {}
): Database {
  const pool = new pg.Pool({ connectionString: url, options: `-c search_path=${schema}`, max: 2 })
  // A test may stop the server.
  pool.on('error', () => {})
  const query: Database['query'] = async (text, values) => (await pool.query(text, values)).rows as Array<Record<string, unknown>>
  t.teardown(async () => {
    await leave(query)
    await pool.end()
  })
  return { url, schema, query }
}

/** Locks what `text` selects, until the function returned is called or the test ends. */
export async function lock (
  t: Test, { url, schema }: Database, text: string, values?: unknown[]
): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: url, options: `-c search_path=${schema}` })
  await client.connect()
  t.teardown(() => client.end())
  await client.query('BEGIN')
  await client.query(text, values)
  return async () => { await client.query('ROLLBACK') }
}
