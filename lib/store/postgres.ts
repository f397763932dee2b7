import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { Ended, Log, Origin, PostgresConfig, PostgresPool, Store, Token } from '../types.js'
import { createConnection } from './connection.js'
import { bringUpToDate, type MigrateOptions } from './migrate.js'
import { ORIGIN } from './migrations.js'
import { createNeighbours } from './neighbours.js'
import { createRevocations, type Revocations } from './revocations.js'

/** Records a page of a list; also how many are purged, or told of, in one statement. */
const PAGE = 500

/** Postgres's code where a UNIQUE is violated. */
const UNIQUE_VIOLATION = '23505'

interface EndedRow { hash: string, name: string, role: string, ended_at: string, origin: string | null }

interface Row { hash: string, name: string, role: string, requested_by: string, issue_date: string, valid_until: string, last_used: string }

interface FindRow extends Row { is_standby: string }

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

  // The name prepares the statement once per connection, which a pooler may not bear. It carries the schema, since two of us may share a
  // pool; with six letters more it is as long as Postgres takes at most, which is 63.
  const statement = <R>(name: string, text: string) => {
    const prepared = listen === undefined ? { name: `mmc_tokens.${options.schema}.${name}`, text } : { text }
    return (...values: unknown[]): Promise<R[]> => connection.withClient(run => run<R>({ ...prepared, values }))
  }

  const insert = statement('insert', `
    INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING hash`)
  // One row always, so that "no such token" is told from a server that can't know: a standby may lag behind.
  const find = statement<FindRow>('find', `
    SELECT pg_is_in_recovery() AS is_standby, token.*
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT ${columns} FROM ${schema}.tokens WHERE hash = $1) AS token ON true`)
  const page = statement<Row>('page', `
    SELECT ${columns} FROM ${schema}.tokens AS token WHERE (token.issue_date, token.hash) > ($1, $2)
      AND ($4::boolean IS NULL OR (token.valid_until > $5) = $4) AND ($6::timestamptz IS NULL OR token.last_used < $6)
    ORDER BY token.issue_date, token.hash LIMIT $3`)
  // A name that is taken breaks off the whole statement, so that another boot may try again.
  const bootstrap = statement('boot', `
    WITH first AS (INSERT INTO ${schema}.bootstrapped (hash) VALUES ($1) ON CONFLICT DO NOTHING RETURNING hash)
    INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    SELECT hash, $2, $3, $4, $5, $6, $7 FROM first ON CONFLICT (hash) DO NOTHING RETURNING hash`)
  const remove = statement('remove', `
    WITH origin AS MATERIALIZED (SELECT set_config('${ORIGIN}', $2, true))
    DELETE FROM ${schema}.tokens USING origin WHERE hash = $1 RETURNING hash`)
  const purge = statement('purge', `
    WITH origin AS MATERIALIZED (SELECT set_config('${ORIGIN}', '{"isPurged":true}', true), pg_try_advisory_xact_lock(hashtext($2)) AS is_alone)
    DELETE FROM ${schema}.tokens USING origin
    WHERE is_alone AND hash IN (SELECT hash FROM ${schema}.tokens WHERE valid_until < $1 ORDER BY valid_until LIMIT ${PAGE}) RETURNING hash`)
  const takeEnded = statement<EndedRow>('ended', `
    DELETE FROM ${schema}.ended WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM ${schema}.ended ORDER BY ended_at LIMIT ${PAGE} FOR UPDATE SKIP LOCKED))
    RETURNING hash, name, role, ${time('ended_at')}, origin`)
  const count = statement<{ role: string, is_active: string, count: string }>('count', `
    SELECT role, valid_until > $1 AS is_active, count(*) AS count FROM ${schema}.tokens GROUP BY 1, 2 ORDER BY 1, 2`)
  // In the order of the hashes, or two nodes that write the same ones would wait for each other. Not later than now: the clock of a node
  // may be ahead, and a time moves forward only.
  const touch = statement('touch', `
    WITH used AS MATERIALIZED (
      SELECT hash, at FROM (
        SELECT hash, least(at, date_trunc('milliseconds', now())) AS at FROM unnest($1::text[], $2::timestamptz[]) AS noted (hash, at)
      ) AS used JOIN ${schema}.tokens AS token USING (hash)
      WHERE token.last_used < at ORDER BY hash FOR NO KEY UPDATE OF token)
    UPDATE ${schema}.tokens AS token SET last_used = at FROM used WHERE token.hash = used.hash AND token.last_used < at`)
  const notify = statement('notify', 'SELECT pg_notify($1, $2)')

  return {
    async start (listener, onEnded = () => {}) {
      await bringUpToDate(direct, options)
      if (direct !== connection) await bringUpToDate(connection, { ...options, migrate: false })
      revocations ??= createRevocations(direct.config, direct.place, notify, { ...listener, ended: onEnded }, createNeighbours(options.schema, fingerprints, notify, log), log)
      revocations.start()
    },
    isTrusted: () => revocations?.isTrusted() === true,
    lease () {
      const isHeld = revocations?.isTrusted() === true
      return { isHeld, losses: (revocations?.gains() ?? 0) - Number(isHeld) }
    },
    async insert (token) {
      return (await insert(...toValues(token))).length > 0
    },
    async bootstrap (token) {
      try {
        return (await bootstrap(...toValues(token))).length > 0 ? 'stored' : 'known'
      } catch (error) {
        if ((error as { code?: string }).code === UNIQUE_VIOLATION) return 'taken'
        throw error
      }
    },
    async find (hash) {
      const [row] = await find(hash) as [FindRow]
      if (row.is_standby !== 'f') throw new DatabaseError(`Postgres at ${connection.place} is a standby: it may not know of the newest tokens and revocations`)
      return row.hash === null ? null : toToken(row)
    },
    async * list ({ after, pageSize = PAGE, state, unusedSince }, now) {
      const isActive = state && state === 'active'
      const size = Math.min(pageSize, PAGE)
      let last = after
      do {
        const tokens: Token[] = (await page(last?.issueDate ?? '-infinity', last?.hash ?? '', size, isActive, new Date(now), unusedSince)).map(toToken)
        last = tokens.length === size ? tokens.at(-1) : undefined
        if (tokens.length > 0) yield tokens
      } while (last !== undefined)
    },
    async remove (hash, origin) {
      return (await remove(hash, JSON.stringify(origin))).length > 0
    },
    async purge (before) {
      return (await purge(before, `${options.schema} purge`)).length
    },
    async takeEnded () {
      return (await takeEnded()).map(toEnded).sort((a, b) => a.at.localeCompare(b.at))
    },
    async count (now) {
      return (await count(new Date(now))).map(({ role, is_active: isActive, count }) => ({ role, state: isActive === 't' ? 'active' : 'expired', count: Number(count) }))
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

function toValues ({ hash, name, role, requestedBy, issueDate, validUntil, lastUsed }: Token): string[] {
  return [hash, name, role, requestedBy, issueDate, validUntil, lastUsed]
}

function toEnded ({ hash, name, role, ended_at: at, origin }: EndedRow): Ended {
  const { actor = null, address = null, requestId = null, isPurged = false } = JSON.parse(origin ?? '{}') as Partial<Origin & Ended>
  return { hash, name, role, at, actor, address, requestId, isPurged }
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
