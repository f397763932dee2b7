import pg from 'pg'
import { DeadlineError } from '../errors.js'
import type { Connection, Run } from './connection.js'
import { explain } from './connection.js'
import { migrations } from './migrations.js'

/** How often a node that boots waits its turn, up to a second each time, before it gives up. */
const TURNS = 4

/** Postgres writes booleans so. */
const TRUE = 't'

interface Answer { exists: string }

export interface MigrateOptions {
  /** The name of the schema. */
  schema: string
  /** Whether to migrate, or only to see that it was done. */
  migrate: boolean
}

/**
 * Brings the tables up to date. Any number of nodes may do so at once: they take turns.
 * @throws DatabaseError that names the place
 */
export async function bringUpToDate ({ place, withClient }: Connection, { schema, migrate }: MigrateOptions): Promise<void> {
  const quoted = pg.escapeIdentifier(schema)
  const steps = migrations(quoted)

  async function version (run: Run): Promise<number> {
    const [table] = await run({ text: 'SELECT to_regclass($1) IS NOT NULL AS exists', values: [`${quoted}.migrations`] }) as [Answer]
    return table.exists === TRUE ? (await run({ text: `SELECT number FROM ${quoted}.migrations` })).length : 0
  }

  async function apply (run: Run): Promise<void> {
    await run({ text: 'BEGIN' })
    await run({ text: 'SELECT pg_advisory_xact_lock(hashtext($1))', values: [`mmc_tokens.${schema}`] })
    const [known] = await run({ text: 'SELECT to_regnamespace($1) IS NOT NULL AS exists', values: [quoted] }) as [Answer]
    if (known.exists !== TRUE) await run({ text: `CREATE SCHEMA ${quoted}` })
    const done = await version(run)
    for (const text of steps.slice(done)) await run({ text })
    await run({ text: `INSERT INTO ${quoted}.migrations (number) SELECT generate_series($1::integer, $2)`, values: [done + 1, steps.length] })
    await run({ text: 'COMMIT' })
  }

  try {
    for (let turn = 1; ; turn++) {
      const done = await withClient(version)
      if (done >= steps.length) return
      if (!migrate) throw new Error(`schema "${schema}" is at migration ${done} of ${steps.length}; migrate it, or leave the option "migrate" on`)
      await withClient(apply).catch((error: unknown) => {
        if (turn === TURNS || !(error instanceof DeadlineError)) throw error
      })
    }
  } catch (error) {
    throw explain(place, error)
  }
}
