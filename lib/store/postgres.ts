import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { BootstrapOutcome, Log, PostgresConfig, PostgresPool, Store, Token } from '../types.js'
import { createConnection, DEADLINE } from './connection.js'
import { createKeyCheck } from './key-check.js'
import { createListener, type Listener } from './listener.js'
import { bringUpToDate, type MigrateOptions, PATIENCE } from './migrate.js'
import { nameKey, ORIGIN } from './migrations.js'
import { createOutbox, encodeOrigin } from './outbox.js'
import { createSend, type SendOptions, TRANSIENT } from './statement.js'

/** Records a page of a list; also how many are purged in one statement. */
const PAGE = 500

/** Postgres's code where a UNIQUE is violated. */
const UNIQUE_VIOLATION = '23505'

/** The properties of the token are null if there is none. */
interface FindRow extends Token { is_standby: string, place: string }

export interface PostgresStoreOptions extends MigrateOptions {
  postgres: string | PostgresConfig | PostgresPool
  /** A direct connection where `postgres` goes through a pooler. */
  listen?: string | PostgresConfig | undefined
  /** Of the secrets of this node, to be compared with those of others; it signs with the first. */
  fingerprints: readonly string[]
  /** Channels of the nodes that have one of these secrets, in the same order. */
  beats: readonly string[]
  log: Log
}

/** The store on Postgres. Nothing connects before the first call. */
export function createPostgresStore (parts: PostgresStoreOptions): Store {
  const { postgres, listen, fingerprints, beats, log, ...options } = parts
  const connection = createConnection(postgres, log)
  const direct = listen === undefined ? connection : createConnection(listen, log)
  let listener: Listener | undefined
  const schema = pg.escapeIdentifier(options.schema)

  /** Until when the start may take, by the monotonic clock. */
  let startBy = -Infinity

  const time = (column: string): string =>
    `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')::text`
  /** As in the public record, in its order. */
  const columns = `name::text, hash::text, ${time('valid_until')} AS "validUntil", role::text,
    requested_by::text AS "requestedBy", ${time('issue_date')} AS "issueDate", ${time('last_used')} AS "lastUsed"`

  /** Where a statement is answered: the start of the server, the database and the table. */
  const where = `to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS') || ' '
    || current_database() || ' ' || ${pg.escapeLiteral(`${schema}.tokens`)}::regclass::oid::text`

  // The name prepares the statement once per connection, which poolers may not support. It contains the schema, since
  // two plugins may share a pool. Postgres takes 63 letters, so six are left for the name of the statement.
  const send = createSend(connection, listen === undefined)
  function statement<R> (
    name: string, text: string, more?: () => SendOptions
  ): (...values: unknown[]) => Promise<R[]> {
    const prepared = `mmc_tokens.${options.schema}.${name}`
    return async (...values) => await send<R>({ name: prepared, text, values }, more?.())
  }

  // The trigger that reads it runs at the end of the statement.
  const setOrigin = (value: string): string => `set_config('${ORIGIN}', ${value}, true)::text AS origin`
  const insertToken = statement('insert', `
    INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING hash::text, ${setOrigin('$8')}`)
  // Always one row, so that "no such token" differs from a server that can't know: a standby may lag behind.
  const findWhere = (condition: string): string => `
    SELECT pg_is_in_recovery()::text AS is_standby, ${where} AS place, token.*
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT ${columns} FROM ${schema}.tokens WHERE ${condition}) AS token ON true`
  const findOne = statement<FindRow>('find', findWhere('hash = $1'))
  const many = findWhere('hash = ANY ($1)')
  const findMany = statement<FindRow>('finds', many)
  const askPlace = statement<{ place: string }>('place', `SELECT ${where} AS place`)
  const page = statement<Token>('page', `
    SELECT ${columns} FROM ${schema}.tokens AS token WHERE (token.issue_date, token.hash) > ($1, $2)
      AND ($4::boolean IS NULL OR (token.valid_until > $5) = $4) AND ($6::timestamptz IS NULL OR token.last_used < $6)
    ORDER BY token.issue_date, token.hash LIMIT $3`)
  // The node that records a hash first stores its token, in the order of the hashes, as other nodes do. A name that is
  // taken meanwhile fails the whole statement; the retry sees it.
  const bootstrapTokens = statement<{ hash: string, outcome: BootstrapOutcome }>('boot', `
    WITH entry AS MATERIALIZED (
      SELECT *, row_number() OVER (PARTITION BY key ORDER BY place) > 1 AS is_twin
      FROM (SELECT *, ${nameKey('name')} AS key FROM ROWS FROM (json_to_recordset($1) AS (hash text, name text,
        role text, "requestedBy" text, "issueDate" timestamptz, "validUntil" timestamptz, "lastUsed" timestamptz))
        WITH ORDINALITY AS entry (hash, name, role, requested_by, issue_date, valid_until, last_used, place)) AS looks
    ), refused AS MATERIALIZED (
      SELECT hash, is_twin FROM entry WHERE is_twin
        OR NOT EXISTS (SELECT FROM ${schema}.bootstrapped AS earlier WHERE earlier.hash = entry.hash)
        AND NOT EXISTS (SELECT FROM ${schema}.tokens AS same WHERE same.hash = entry.hash)
        AND EXISTS (SELECT FROM ${schema}.tokens AS token
          WHERE coalesce(token.name_key, token.name) = entry.key OR token.name = entry.name)
    ), noted AS (
      INSERT INTO ${schema}.bootstrapped (hash)
      SELECT hash FROM entry WHERE hash NOT IN (SELECT hash FROM refused) ORDER BY hash
      ON CONFLICT DO NOTHING RETURNING hash
    ), stored AS (
      INSERT INTO ${schema}.tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
      SELECT hash, name, role, requested_by, issue_date, valid_until, last_used
      FROM entry JOIN noted USING (hash) ORDER BY hash
      ON CONFLICT (hash) DO NOTHING RETURNING hash, ${setOrigin('$2')}
    )
    SELECT hash::text, 'stored' AS outcome FROM stored
    UNION ALL SELECT hash, CASE WHEN is_twin THEN 'twin' ELSE 'taken' END FROM refused`, () => ({
    deadline: Math.max(DEADLINE, Math.round(startBy - performance.now())), transient: [...TRANSIENT, UNIQUE_VIOLATION]
  }))
  const removeToken = statement('remove', `
    DELETE FROM ${schema}.tokens WHERE hash = $1 RETURNING hash::text, ${setOrigin('$2')}`)
  const purgeTokens = statement('purge', `
    WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext($2)) AS is_alone)
    DELETE FROM ${schema}.tokens USING turn
    WHERE is_alone
      AND hash IN (SELECT hash FROM ${schema}.tokens WHERE valid_until < $1 ORDER BY valid_until LIMIT ${PAGE})
    RETURNING hash::text, ${setOrigin("'purge'")}`)
  const countTokens = statement<{ role: string, state: 'active' | 'expired', count: string }>('count', `
    SELECT role::text, CASE WHEN valid_until > $1 THEN 'active' ELSE 'expired' END AS state, count(*)::text AS count
    FROM ${schema}.tokens GROUP BY 1, 2 ORDER BY 1, 2 DESC`)
  // In the order of the hashes, or two nodes that write the same ones would deadlock. Not later than now: the clock of
  // a node may be ahead, and last_used only moves forward.
  const touchTokens = statement('touch', `
    WITH used AS MATERIALIZED (
      SELECT hash, at FROM (
        SELECT hash, least(at, date_trunc('milliseconds', now())) AS at
        FROM unnest($1::text[], $2::timestamptz[]) AS noted (hash, at)
      ) AS used JOIN ${schema}.tokens AS token USING (hash)
      WHERE token.last_used < at ORDER BY hash FOR NO KEY UPDATE OF token)
    UPDATE ${schema}.tokens AS token SET last_used = at
    FROM used WHERE token.hash = used.hash AND token.last_used < at`)
  // A statement that waits for a lock would outlive its deadline.
  const notify = statement('notify', "SELECT set_config('lock_timeout', '500', true), pg_notify($1, $2)::text")

  function toTokens (rows: FindRow[]): Token[] {
    const [first] = rows as [FindRow]
    listener?.check(first.place)
    if (first.is_standby !== 'false') {
      throw new DatabaseError(`Postgres at ${connection.place} is a standby: it may not have the newest revocations`)
    }
    return rows.filter(({ hash }) => hash !== null).map(({ is_standby: _standby, place: _place, ...token }) => token)
  }

  return {
    async start (cache, onActed = () => {}, others = []) {
      startBy = performance.now() + PATIENCE
      await bringUpToDate(direct, options, startBy)
      if (direct !== connection) await bringUpToDate(connection, { ...options, migrate: false }, startBy)
      listener ??= createListener({
        connection: direct,
        beats,
        keys: createKeyCheck(options.schema, fingerprints, notify, log),
        where,
        askPool: async () => String((await askPlace())[0]?.place),
        findAll: async (run, hashes) => toTokens(await run<FindRow>({ text: many, values: [hashes] })),
        changes: [cache, ...others],
        believed: cache,
        onActed,
        log
      })
      listener.start()
    },
    isTrusted: at => listener?.isTrusted(at) === true,
    lease () {
      const isHeld = listener?.isTrusted() === true
      return { isHeld, losses: (listener?.gains() ?? 0) - Number(isHeld) }
    },
    async insert (token, origin) {
      return (await insertToken(...toValues(token), encodeOrigin(origin))).length > 0
    },
    async bootstrap (tokens, origin) {
      const rows = await bootstrapTokens(JSON.stringify(tokens), encodeOrigin(origin))
      return new Map(rows.map(({ hash, outcome }) => [hash, outcome]))
    },
    async find (hash) {
      return toTokens(await findOne(hash))[0] ?? null
    },
    async findAll (hashes) {
      return toTokens(await findMany(hashes))
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
    async remove (hash, origin) {
      return (await removeToken(hash, encodeOrigin(origin))).length > 0
    },
    async purge (before) {
      return (await purgeTokens(before, `${options.schema} purge`)).length
    },
    ...createOutbox(schema, time, statement),
    async count (now) {
      return (await countTokens(new Date(now))).map(row => ({ ...row, count: Number(row.count) }))
    },
    async touch (uses) {
      await touchTokens([...uses.keys()], [...uses.values()])
    },
    async close () {
      await listener?.close()
      await connection.close()
      if (direct !== connection) await direct.close()
    }
  }
}

function toValues ({ hash, name, role, requestedBy, issueDate, validUntil, lastUsed }: Token): string[] {
  return [hash, name, role, requestedBy, issueDate, validUntil, lastUsed]
}
