import pg from 'pg'
import { DatabaseError, DeadlineError, OptionError } from '../errors.js'
import type { Log, PostgresConfig, PostgresPool, Store, Token } from '../types.js'
import { type Run, withClient } from './deadline.js'
import { migrations } from './migrations.js'

/** Records a page of a list. */
const PAGE = 500
/** How often a node that boots waits its turn, up to a second each time, before it gives up. */
const TURNS = 4
/** Hears of ended and changed tokens; one for all schemas, since a hash of another schema means nothing to us. */
const CHANNEL = 'mmc_tokens'

type Bool = 't' | 'f'

interface Row { hash: string, name: string, role: string, requested_by: string, issue_date: string, valid_until: string, last_used: string }

export interface PostgresStoreOptions {
  postgres: string | PostgresConfig | PostgresPool
  /** A direct connection where `postgres` goes through a pooler. */
  listen: string | PostgresConfig | undefined
  schema: string
  migrate: boolean
  log: Log
}

/** The store on Postgres. Nothing connects before the first call. */
export function createPostgresStore ({ postgres, listen, schema: schemaName, migrate, log }: PostgresStoreOptions): Store {
  const isOurs = !isPool(postgres)
  const pool = isOurs ? createPool(postgres) : postgres
  const place = describePlace(isOurs ? postgres : (pool as { options?: PostgresConfig }).options ?? {})
  const schema = pg.escapeIdentifier(schemaName)
  const steps = migrations(schema, CHANNEL)

  // Without a listener, a pool whose idle connection ends would end the process.
  const onError = (error: Error): void => { log.warn({ err: error }, `lost a connection to Postgres at ${place}`) }
  pool.on('error', onError)

  const time = (column: string): string => `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS ${column}`
  const columns = `hash, name, role, requested_by, ${['issue_date', 'valid_until', 'last_used'].map(time).join(', ')}`

  // The name prepares the statement once per connection, which a pooler may not bear. It carries the schema, since two of us may share a pool.
  const statement = <R>(name: string, text: string) => (...values: unknown[]): Promise<R[]> =>
    withClient(pool, run => run<R>({ ...listen === undefined && { name: `mmc_tokens.${schemaName}.${name}` }, text, values }))

  const insert = statement('insert', `
    INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING hash`)
  // One row always, so that "no such token" is told from a server that can't know: a standby may lag behind.
  const find = statement<Row & { is_standby: Bool }>('find', `
    SELECT pg_is_in_recovery() AS is_standby, token.*
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT ${columns} FROM ${schema}.tokens WHERE hash = $1) AS token ON true`)
  const page = statement<Row>('page', `
    SELECT ${columns} FROM ${schema}.tokens AS token WHERE (token.issue_date, token.hash) > ($1, $2)
    ORDER BY token.issue_date, token.hash LIMIT ${PAGE}`)
  const remove = statement('remove', `DELETE FROM ${schema}.tokens WHERE hash = $1 RETURNING hash`)
  const touch = statement('touch', `
    UPDATE ${schema}.tokens AS token SET last_used = used.at
    FROM unnest($1::text[], $2::timestamptz[]) AS used (hash, at) WHERE token.hash = used.hash AND token.last_used < used.at`)

  async function version (run: Run): Promise<number> {
    const [table] = await run<{ exists: Bool }>({ text: 'SELECT to_regclass($1) IS NOT NULL AS exists', values: [`${schema}.migrations`] })
    if (table?.exists !== 't') return 0
    return (await run({ text: `SELECT number FROM ${schema}.migrations` })).length
  }

  async function applySteps (run: Run): Promise<void> {
    await run({ text: 'BEGIN' })
    await run({ text: 'SELECT pg_advisory_xact_lock(hashtext($1))', values: [`${CHANNEL}.${schemaName}`] })
    const [known] = await run<{ exists: Bool }>({ text: 'SELECT to_regnamespace($1) IS NOT NULL AS exists', values: [schema] })
    if (known?.exists !== 't') await run({ text: `CREATE SCHEMA ${schema}` })
    const done = await version(run)
    if (done === 0) await run({ text: `CREATE TABLE IF NOT EXISTS ${schema}.migrations (number integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())` })
    for (const [index, text] of steps.entries()) {
      if (index < done) continue
      await run({ text })
      await run({ text: `INSERT INTO ${schema}.migrations (number) VALUES ($1)`, values: [index + 1] })
    }
    await run({ text: 'COMMIT' })
  }

  return {
    async start () {
      const direct = listen === undefined ? pool : createPool(listen)
      try {
        for (let turn = 1; ; turn++) {
          const done = await withClient(direct, version)
          if (done >= steps.length) break
          if (!migrate) throw new Error(`schema "${schemaName}" is at migration ${done} of ${steps.length}; migrate it, or leave the option "migrate" on`)
          await withClient(direct, applySteps).catch((error: unknown) => {
            if (turn === TURNS || !(error instanceof DeadlineError)) throw error
          })
        }
        if (direct !== pool) await withClient(pool, version)
      } catch (cause) {
        throw new DatabaseError(`Postgres at ${place} can't be used: ${explain(cause)}`, { cause })
      } finally {
        if (direct !== pool) await direct.end()
      }
    },
    async insert (token) {
      const { hash, name, role, requestedBy, issueDate, validUntil, lastUsed } = token
      return (await insert(hash, name, role, requestedBy, issueDate, validUntil, lastUsed)).length > 0
    },
    async find (hash) {
      const [row] = await find(hash)
      if (row?.is_standby !== 'f') throw new DatabaseError(`Postgres at ${place} is a standby: it may not know of the newest tokens and revocations`)
      return row.hash === null ? null : toToken(row)
    },
    async * list () {
      let last: Token | undefined
      do {
        const tokens: Token[] = (await page(last?.issueDate ?? '-infinity', last?.hash ?? '')).map(toToken)
        last = tokens.length === PAGE ? tokens.at(-1) : undefined
        if (tokens.length > 0) yield tokens
      } while (last !== undefined)
    },
    async remove (hash) {
      return (await remove(hash)).length > 0
    },
    async touch (uses) {
      await touch([...uses.keys()], [...uses.values()])
    },
    async close () {
      if (isOurs) await pool.end()
      else pool.off('error', onError)
    }
  }
}

function isPool (postgres: string | PostgresConfig | PostgresPool): postgres is PostgresPool {
  return typeof postgres === 'object' && typeof postgres.connect === 'function'
}

function createPool (postgres: string | PostgresConfig): PostgresPool {
  const config = typeof postgres === 'string' ? { connectionString: postgres } : postgres
  return new pg.Pool({ application_name: 'fastify-mmc-tokens', connectionTimeoutMillis: 1000, keepAlive: true, ...config })
}

/** Where the database is, for people: no password. */
function describePlace (postgres: string | PostgresConfig): string {
  try {
    const { host, port, database } = new pg.Client(postgres)
    return `${host}:${port}, database "${database ?? ''}"`
  } catch {
    // The cause would show the password.
    throw new OptionError('option "postgres" is not a connection string that pg can read: write postgres://user:password@host:5432/database, its special characters percent-encoded')
  }
}

// Node refuses `localhost` with an AggregateError, whose own message is empty.
function explain (error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException
  return message !== '' ? message : code ?? String(error)
}

function toToken (row: Row): Token {
  return {
    name: row.name,
    hash: row.hash,
    validUntil: row.valid_until,
    role: row.role,
    requestedBy: row.requested_by,
    issueDate: row.issue_date,
    lastUsed: row.last_used
  }
}
