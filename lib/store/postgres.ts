import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { Log, PostgresConfig, PostgresPool, Store, Token } from '../types.js'
import { createWrites } from './writes.js'
import { createConnection } from './connection.js'
import { createKeyCheck } from './key-check.js'
import { createListener, type Listener } from './listener.js'
import { bringUpToDate, type MigrateOptions, START_TIMEOUT } from './migrate.js'
import { createOutbox } from './outbox.js'
import { createSend, LOCK_TIMEOUT, type Statement } from './statement.js'

/** Tokens per page of a list. */
const PAGE = 500

/** The properties of the token are null if there is none. */
interface FindRow extends Token { is_standby: string, server_id: string }

export interface PostgresStoreOptions extends MigrateOptions {
  postgres: string | PostgresConfig | PostgresPool
  /** A direct connection where `postgres` goes through a pooler. */
  listen?: string | PostgresConfig | undefined
  /** Fingerprints of this node's secrets, compared with those of other nodes. It signs with the first secret. */
  fingerprints: readonly string[]
  /** Channels for beats, one per secret, in the same order. */
  beats: readonly string[]
  log: Log
}

/** The store on Postgres. Nothing connects before the first call. */
export function createPostgresStore (given: PostgresStoreOptions): Store {
  const { postgres, listen, fingerprints, beats, log, ...options } = given
  const connection = createConnection(postgres, log, listen === undefined)
  const direct = listen === undefined ? connection : createConnection(listen, log)
  let listener: Listener | undefined
  const schema = pg.escapeIdentifier(options.schema)

  /** When the start must be complete, by the monotonic clock. */
  let startBy = -Infinity

  // Within what JavaScript and ISO 8601 can express: SQL may set a time to infinity.
  const time = (column: string): string =>
    `to_char(greatest('0001-01-01Z', least('9999-12-31 23:59:59.999Z', ${column})) AT TIME ZONE 'UTC',
      'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')::text`
  /** The properties of the public record, in its order. */
  const columns = `name::text, hash::text, ${time('valid_until')} AS "validUntil", role::text,
    requested_by::text AS "requestedBy", ${time('issue_date')} AS "issueDate", ${time('last_used')} AS "lastUsed"`

  /** Identifies what answers: the start of the server, the database and the table. */
  const serverIdSql = `to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS')
    || ' ' || current_database() || ' ' || ${pg.escapeLiteral(`${schema}.tokens`)}::regclass::oid::text`

  // The name prepares the statement once per connection, which poolers may not support. It contains the schema, since
  // two plugins may share a pool. Postgres takes 63 bytes, so six are left for the name of the statement.
  const send = createSend(connection)
  const statement: Statement = (name, text, more) => async (...values) =>
    await send({ name: `mmc_tokens.${options.schema}.${name}`, text, values }, more?.())

  // Always one row, so that "no such token" differs from a server that can't know: a standby may lag behind.
  const findWhere = (condition: string): string => `
    SELECT pg_is_in_recovery()::text AS is_standby, ${serverIdSql} AS server_id, token.*
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT ${columns} FROM ${schema}.tokens WHERE ${condition}) AS token ON true`
  const findOne = statement<FindRow>('find', findWhere('hash = $1'))
  const many = findWhere('hash = ANY ($1)')
  const findMany = statement<FindRow>('finds', many)
  const askServerId = statement<{ server_id: string }>('server', `SELECT ${serverIdSql} AS server_id`)
  // After the row itself, since its time may be out of bounds; after the time in the cursor if the row is gone.
  const page = statement<Token>('page', `
    SELECT ${columns} FROM ${schema}.tokens AS token WHERE (token.issue_date, token.hash) >
      (coalesce((SELECT issue_date FROM ${schema}.tokens WHERE hash = $2), $1::timestamptz), $2)
      AND ($4::boolean IS NULL OR (token.valid_until > $5) = $4) AND ($6::timestamptz IS NULL OR token.last_used < $6)
    ORDER BY token.issue_date, token.hash LIMIT $3`)
  const countTokens = statement<{ role: string, state: 'active' | 'expired', count: string }>('count', `
    SELECT role::text, CASE WHEN valid_until > $1 THEN 'active' ELSE 'expired' END AS state, count(*)::text AS count
    FROM ${schema}.tokens GROUP BY 1, 2 ORDER BY 1, 2 DESC`)
  // In the order of the hashes, or two nodes that write the same ones would deadlock. Not later than now: the clock of
  // a node may be ahead, and last_used only moves forward.
  const touch = (locked: string): string => `
    WITH noted AS MATERIALIZED (
      SELECT hash, least(at, date_trunc('milliseconds', now())) AS at
      FROM unnest($1::text[], $2::timestamptz[]) AS noted (hash, at)
    ), used AS MATERIALIZED (
      SELECT hash, at FROM noted JOIN ${schema}.tokens AS token USING (hash)
      WHERE token.last_used < at AND ${LOCK_TIMEOUT} ORDER BY hash FOR NO KEY UPDATE OF token ${locked}
    ), written AS (
      UPDATE ${schema}.tokens AS token SET last_used = at FROM used
      WHERE token.hash = used.hash AND token.last_used < at)
    SELECT hash::text FROM noted JOIN ${schema}.tokens AS token USING (hash)
    WHERE token.last_used < at AND hash NOT IN (SELECT hash FROM used)`
  const touchFree = statement<{ hash: string }>('touch', touch('SKIP LOCKED'))
  const touchAll = statement('touchw', touch(''))
  const notify = statement('notify', `SELECT pg_notify($1, $2)::text WHERE ${LOCK_TIMEOUT}`)

  function toTokens (rows: FindRow[]): Token[] {
    const [first] = rows as [FindRow]
    listener?.check(first.server_id)
    if (first.is_standby !== 'false') {
      throw new DatabaseError(`Postgres at ${connection.target} is a standby: it may not have the newest revocations`)
    }
    return rows.filter(({ hash }) => hash !== null).map(({ is_standby: _standby, server_id: _id, ...token }) => token)
  }

  return {
    async start (cache, onEventsWaiting, others = []) {
      startBy = performance.now() + START_TIMEOUT
      await bringUpToDate(direct, options, startBy)
      if (direct !== connection) await bringUpToDate(connection, { ...options, migrate: false }, startBy)
      listener ??= createListener({
        connection: direct,
        beats,
        keys: createKeyCheck(options.schema, fingerprints, notify, log),
        serverIdSql,
        askPool: async () => String((await askServerId())[0]?.server_id),
        findAll: async (run, hashes) => toTokens(await run<FindRow>({ text: many, values: [hashes] })),
        changes: [cache, ...others],
        cache,
        onEventsWaiting,
        log
      })
      listener.start()
    },
    isTrusted: (at, date) => listener?.isTrusted(at, date) === true,
    lease () {
      const held = Number(listener?.isTrusted() === true)
      return { held, losses: (listener?.acquisitions() ?? 0) - held }
    },
    async find (hash) {
      return toTokens(await findOne(hash))[0] ?? null
    },
    async findAll (hashes) {
      // The pool may be exhausted, or hold connections that are dead.
      const run = listener?.run()
      return toTokens(run === undefined ? await findMany(hashes) : await run<FindRow>({ text: many, values: [hashes] }))
    },
    async * list ({ after, pageSize = PAGE, state, unusedSince }, now) {
      const isActive = state && state === 'active'
      const size = Math.min(pageSize, PAGE)
      let last = after
      do {
        const { issueDate = '-infinity', hash = '' } = last ?? {}
        const tokens: Token[] = await page(issueDate, hash, size, isActive, new Date(now), unusedSince)
        last = tokens.length === size ? tokens.at(-1) : undefined
        if (tokens.length > 0) yield tokens
      } while (last !== undefined)
    },
    ...createWrites(schema, statement, connection.target, () => startBy - performance.now()),
    ...createOutbox(schema, time, statement),
    async count (now) {
      return (await countTokens(new Date(now))).map(row => ({ ...row, count: Number(row.count) }))
    },
    async touch (uses, waits = false) {
      const values = [[...uses.keys()], [...uses.values()]]
      if (!waits) return (await touchFree(...values)).map(({ hash }) => hash)
      await touchAll(...values)
      return []
    },
    async close () {
      await listener?.close()
      await connection.close()
      if (direct !== connection) await direct.close()
    }
  }
}
