import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { Log, PostgresConfig, PostgresPool, Store, Token } from '../types.js'
import { createConnection } from './connection.js'
import { bringUpToDate, type MigrateOptions } from './migrate.js'
import { createNeighbours } from './neighbours.js'
import { createRevocations, type Revocations } from './revocations.js'

/** Records a page of a list. */
const PAGE = 500

interface Row { hash: string, name: string, role: string, requested_by: string, issue_date: string, valid_until: string, last_used: string }

export interface PostgresStoreOptions extends MigrateOptions {
  postgres: string | PostgresConfig | PostgresPool
  /** A direct connection where `postgres` goes through a pooler. */
  listen: string | PostgresConfig | undefined
  /** Of the secrets of this node, to be compared with those of others; it signs with the first. */
  fingerprints: readonly string[]
  log: Log
}

/** The store on Postgres. Nothing connects before the first call. */
export function createPostgresStore ({ postgres, listen, fingerprints, log, ...options }: PostgresStoreOptions): Store {
  const connection = createConnection(postgres, log)
  const direct = listen === undefined ? connection : createConnection(listen, log)
  let revocations: Revocations | undefined
  const schema = pg.escapeIdentifier(options.schema)

  const time = (column: string): string => `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS ${column}`
  const columns = `hash, name, role, requested_by, ${['issue_date', 'valid_until', 'last_used'].map(time).join(', ')}`

  // The name prepares the statement once per connection, which a pooler may not bear. It carries the schema, since two of us may share a pool.
  const statement = <R>(name: string, text: string) => {
    const prepared = listen === undefined ? { name: `mmc_tokens.${options.schema}.${name}`, text } : { text }
    return (...values: unknown[]): Promise<R[]> => connection.withClient(run => run<R>({ ...prepared, values }))
  }

  const insert = statement('insert', `
    INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING hash`)
  // One row always, so that "no such token" is told from a server that can't know: a standby may lag behind.
  const find = statement<Row & { is_standby: string }>('find', `
    SELECT pg_is_in_recovery() AS is_standby, token.*
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT ${columns} FROM ${schema}.tokens WHERE hash = $1) AS token ON true`)
  const page = statement<Row>('page', `
    SELECT ${columns} FROM ${schema}.tokens AS token WHERE (token.issue_date, token.hash) > ($1, $2)
    ORDER BY token.issue_date, token.hash LIMIT ${PAGE}`)
  const remove = statement('remove', `DELETE FROM ${schema}.tokens WHERE hash = $1 RETURNING hash`)
  const touch = statement('touch', `
    UPDATE ${schema}.tokens AS token SET last_used = used.at
    FROM unnest($1::text[], $2::timestamptz[]) AS used (hash, at) WHERE token.hash = used.hash AND token.last_used < used.at`)
  const notify = statement('notify', 'SELECT pg_notify($1, $2)')

  return {
    async start (listener) {
      await bringUpToDate(direct, options)
      if (direct !== connection) await bringUpToDate(connection, { ...options, migrate: false })
      revocations ??= createRevocations(direct.config, direct.place, notify, listener, createNeighbours(options.schema, fingerprints, notify, log), log)
      revocations.start()
    },
    isTrusted: () => revocations?.isTrusted() === true,
    async insert (token) {
      const { hash, name, role, requestedBy, issueDate, validUntil, lastUsed } = token
      return (await insert(hash, name, role, requestedBy, issueDate, validUntil, lastUsed)).length > 0
    },
    async find (hash) {
      const [row] = await find(hash)
      if (row?.is_standby !== 'f') throw new DatabaseError(`Postgres at ${connection.place} is a standby: it may not know of the newest tokens and revocations`)
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
      await revocations?.close()
      await connection.close()
      if (direct !== connection) await direct.close()
    }
  }
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
