import { randomBytes } from 'node:crypto'
import pg from 'pg'
import type { Test } from 'tap'
import { startPostgres } from './postgres.js'

let url: Promise<string> | undefined

/** The server of `DATABASE_URL`, else one of this process's own. */
export function databaseUrl (): Promise<string> {
  url ??= process.env.DATABASE_URL === undefined ? startPostgres().then(postgres => postgres.url) : Promise.resolve(process.env.DATABASE_URL)
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
  const url = await databaseUrl()
  const pool = new pg.Pool({ connectionString: url, options: `-c search_path=${schema}`, max: 2 })
  // A test may stop the server.
  pool.on('error', () => {})
  t.teardown(async () => {
    await pool.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`)
    await pool.end()
  })
  return { url, schema, query: async (text, values) => (await pool.query(text, values)).rows as Array<Record<string, unknown>> }
}
