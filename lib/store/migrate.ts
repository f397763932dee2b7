import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { DeadlineError } from '../errors.js'
import { codeOf, type Connection, explain, type Run } from './connection.js'
import { migrations } from './migrations.js'

/** How long a start waits for a slow or absent Postgres, in milliseconds: Fastify gives up after 10 s. */
export const START_TIMEOUT = 5000
/** How long one attempt may take, in milliseconds, so that another follows if a connection hangs. */
const TRY = 3500
/** Between two attempts, in milliseconds. */
const PAUSE = 100

/** Codes of Node and Postgres after which a retry may help. */
const RETRIABLE = /^(ECONN|ENOTFOUND|ENOENT|EAI_AGAIN|ETIMEDOUT|EHOST|ENET|EPIPE|08|40|53|55P03|57)/

/**
 * With the timeouts of the role or the database, the transaction might end before it is the node's turn. The migrations
 * have backslashes in plain strings.
 */
const SETTINGS = `SELECT set_config(name, CASE name WHEN 'standard_conforming_strings' THEN 'on' ELSE '0' END, true)
  FROM pg_settings WHERE name IN ('standard_conforming_strings',
    'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`

interface State { encoding: string, server: string, is_migrated: string }

export interface MigrateOptions {
  /** The name of the schema. */
  schema: string
  /** Whether to migrate, or only to check that the tables are up to date. */
  migrate: boolean
}

/**
 * Brings the tables up to date. Any number of nodes may do so at once: they take turns.
 * @param until when to stop retrying, by the monotonic clock
 * @throws DatabaseError that names the target
 */
export async function bringUpToDate (
  { target, withClient }: Connection, { schema, migrate }: MigrateOptions, until: number
): Promise<void> {
  const quoted = pg.escapeIdentifier(schema)
  const steps = migrations(quoted)
  const timeLeft = (): number => Math.min(TRY, until - performance.now())

  async function version (run: Run): Promise<number> {
    const [{ encoding, server, is_migrated: isMigrated }] = await run({
      text: `SELECT getdatabaseencoding()::text AS encoding, current_setting('server_version') AS server,
        (to_regclass($1) IS NOT NULL)::text AS is_migrated`,
      values: [`${quoted}.migrations`]
    }) as [State]
    if (Number.parseInt(server) < 13) throw new Error(`it is Postgres ${server}: use 13 or later`)
    if (encoding !== 'UTF8') {
      throw new Error(`the database has the encoding ${encoding}: create one with ENCODING 'UTF8' TEMPLATE template0`)
    }
    if (isMigrated !== 'true') return 0
    const done = (await run({ text: `SELECT number::text FROM ${quoted}.migrations` })).length
    if (done <= steps.length) return done
    const state = `schema "${schema}" is at migration ${done}, and this version knows ${steps.length}`
    throw new Error(`${state}: use a later version of the plugin`)
  }

  async function apply (run: Run): Promise<void> {
    // Each statement must see what the previous node has committed. In one message, or a timeout may end it in between.
    await run({ text: `BEGIN ISOLATION LEVEL READ COMMITTED; ${SETTINGS}` })
    await run({ text: 'SELECT pg_advisory_xact_lock(hashtext($1))::text', values: [`mmc_tokens.${schema}`] })
    const find = { text: 'SELECT (to_regnamespace($1) IS NOT NULL)::text AS exists', values: [quoted] }
    const [found] = await run(find) as [{ exists: string }]
    if (found.exists !== 'true') await run({ text: `CREATE SCHEMA ${quoted}` })
    const done = await version(run)
    for (const text of steps.slice(done)) await run({ text })
    const record = `INSERT INTO ${quoted}.migrations (number) SELECT generate_series($1::integer, $2)`
    await run({ text: record, values: [done + 1, steps.length] })
    await run({ text: 'COMMIT' })
  }

  /** An event that can't be deleted from the outbox would be reported forever. */
  async function checkRights (run: Run): Promise<void> {
    const [{ role, missing }] = await run({
      text: `SELECT quote_ident(current_user)::text AS role, string_agg(name, ', ')::text AS missing
        FROM (VALUES ('SELECT', has_table_privilege($1, 'SELECT')), ('DELETE', has_table_privilege($1, 'DELETE')),
          ('UPDATE (attempts, claimed_until)', has_column_privilege($1, 'attempts', 'UPDATE')
            AND has_column_privilege($1, 'claimed_until', 'UPDATE'))) AS needed (name, is_there) WHERE NOT is_there`,
      values: [`${quoted}.events`]
    }) as [{ role: string, missing: string | null }]
    if (missing === null) return
    throw new Error(`the role ${role} may not report events: GRANT ${missing} ON ${quoted}.events TO ${role}`)
  }

  async function attempt (): Promise<void> {
    const done = await withClient(version, timeLeft())
    if (done < steps.length) {
      const state = `schema "${schema}" is at migration ${done} of ${steps.length}`
      if (!migrate) {
        const advice = 'migrate it as the role that may (see "Migrations by hand" in docs/postgres.md)'
        throw new Error(`${state}; ${advice}, or leave the option "migrate" on`)
      }
      await withClient(apply, timeLeft())
    }
    await withClient(checkRights, timeLeft())
  }

  // Keeps the last informative error: the last attempt may be too short to reach the same one.
  let cause: unknown = new DeadlineError(START_TIMEOUT)
  for (;;) {
    try {
      await attempt()
      return
    } catch (error) {
      if (!canHeal(error)) throw explain(target, error)
      if (!(error instanceof DeadlineError)) cause = error
      if (timeLeft() <= PAUSE) throw explain(target, cause)
    }
    await pause(PAUSE)
  }
}

/**
 * Whether a retry may help: the network failed, or the server starts, wakes, is full or busy. Not for a wrong password,
 * a missing database or privilege. Errors of `pg` itself have no code.
 */
function canHeal (error: unknown): boolean {
  const code = codeOf(error)
  if (code === '') return /terminated|timeout/.test((error as Error).message)
  return error instanceof DeadlineError || RETRIABLE.test(code)
}
