import type { BootstrapOutcome, Origin, Store, Token } from '../types.js'
import { explain } from './connection.js'
import { DEADLINE } from './deadline.js'
import { nameKey, ORIGIN } from './migrations.js'
import { LOCK_TIMEOUT, type Statement, TRANSIENT } from './statement.js'

/** How many tokens are purged in one statement. */
const PURGE_BATCH = 500

/** Postgres's code for a violated unique constraint. */
const UNIQUE_VIOLATION = '23505'

/**
 * A condition that makes the commit durable if the default is `off`, and is always true. A crash of Postgres must not
 * undo what was answered.
 */
const DURABLE = `(SELECT pg_catalog.set_config('synchronous_commit', 'local', true)
  WHERE pg_catalog.current_setting('synchronous_commit') = 'off') IS DISTINCT FROM ''`

/** The maximum length of each part of an origin, in characters. */
const LONGEST_PART = 1000

/** Between the parts of an origin, which have no control characters. */
const SEPARATOR = '\u001f'

const COLUMNS = 'hash, name, role, requested_by, issue_date, valid_until, last_used'

/** Encodes the origin for the triggers. No user name or request id may make a trigger fail. */
function encode ({ actor, address, requestId }: Origin): string {
  const parts = ['node', actor, address, requestId].map(part => (part ?? '').slice(0, LONGEST_PART))
  return parts.map(part => part.replace(/\p{Cc}/gu, '\ufffd')).join(SEPARATOR)
}

/** SQL that sets the origin. The triggers, which read it, run at the end of the statement. */
function setOrigin (value: string): string {
  return `set_config('${ORIGIN}', ${value}, true)::text AS origin`
}

type Writes = Pick<Store, 'insert' | 'bootstrap' | 'remove' | 'purge'>

/**
 * The statements that create and end tokens: each sets its origin.
 * @param target where Postgres is, for messages
 * @param timeToStart how long the start may still take, in milliseconds
 */
export function createWrites (
  schema: string, statement: Statement, target: string, timeToStart: () => number
): Writes {
  const insertToken = statement('insert', `
    INSERT INTO ${schema}.tokens (${COLUMNS})
    SELECT $1, $2, $3, $4, $5::timestamptz, $6::timestamptz, $7::timestamptz
    WHERE ${LOCK_TIMEOUT} AND ${DURABLE}
    ON CONFLICT DO NOTHING RETURNING hash::text, ${setOrigin('$8')}`)
  // The node that records a hash first stores its token, in the order of the hashes, as other nodes do. A name that is
  // taken meanwhile fails the whole statement; the retry sees it.
  const bootstrapTokens = statement<{ hash: string, outcome: BootstrapOutcome }>('boot', `
    WITH entry AS MATERIALIZED (
      SELECT *, row_number() OVER (PARTITION BY key ORDER BY place) > 1 AS is_duplicate
      FROM (SELECT *, ${nameKey('name')} AS key FROM ROWS FROM (json_to_recordset($1) AS (
        hash text, name text, role text, "requestedBy" text,
        "issueDate" timestamptz, "validUntil" timestamptz, "lastUsed" timestamptz)) WITH ORDINALITY
        AS entry (${COLUMNS}, place)) AS looks
    ), refused AS MATERIALIZED (
      SELECT hash, is_duplicate FROM entry WHERE is_duplicate
        OR NOT EXISTS (SELECT FROM ${schema}.bootstrapped AS earlier WHERE earlier.hash = entry.hash)
        AND NOT EXISTS (SELECT FROM ${schema}.tokens AS same WHERE same.hash = entry.hash)
        AND EXISTS (SELECT FROM ${schema}.tokens AS token
          WHERE coalesce(token.name_key, token.name) = entry.key OR token.name = entry.name)
    ), noted AS (
      INSERT INTO ${schema}.bootstrapped (hash)
      SELECT hash FROM entry WHERE hash NOT IN (SELECT hash FROM refused) ORDER BY hash
      ON CONFLICT DO NOTHING RETURNING hash
    ), stored AS (
      INSERT INTO ${schema}.tokens (${COLUMNS}) SELECT ${COLUMNS} FROM entry JOIN noted USING (hash) ORDER BY hash
      ON CONFLICT (hash) DO NOTHING RETURNING hash, ${setOrigin('$2')}
    )
    SELECT hash::text, 'stored' AS outcome FROM stored
    UNION ALL SELECT hash, CASE WHEN is_duplicate THEN 'duplicate' ELSE 'taken' END FROM refused`,
  () => ({ deadline: Math.max(DEADLINE, Math.round(timeToStart())), transient: [...TRANSIENT, UNIQUE_VIOLATION] }))
  // Not cancelled: a commit that waits for a synchronous standby would end without it, and a second DELETE, which finds
  // nothing, would be answered before the standby has the first.
  const removeToken = statement('remove', `
    DELETE FROM ${schema}.tokens WHERE hash = $1 AND ${LOCK_TIMEOUT} AND ${DURABLE}
    RETURNING hash::text, ${setOrigin('$2')}`,
  () => ({ isCancelled: false }))
  // Not later than now: the clock of a node may be ahead. A locked row is in the batch of another node, or left to a
  // later purge.
  const purgeTokens = statement('purge', `
    DELETE FROM ${schema}.tokens WHERE ${LOCK_TIMEOUT}
      AND hash = ANY (ARRAY(SELECT hash FROM ${schema}.tokens WHERE valid_until < least($1::timestamptz, now())
        ORDER BY valid_until LIMIT ${PURGE_BATCH} FOR UPDATE SKIP LOCKED))
    RETURNING hash::text, ${setOrigin("'purge'")}`)

  return {
    insert: async (token, origin) => (await insertToken(...toValues(token), encode(origin))).length > 0,
    async bootstrap (tokens, origin) {
      const rows = await bootstrapTokens(JSON.stringify(tokens), encode(origin)).catch((error: unknown) => {
        throw explain(target, error)
      })
      return new Map(rows.map(({ hash, outcome }) => [hash, outcome]))
    },
    remove: async (hash, origin) => (await removeToken(hash, encode(origin))).length > 0,
    purge: async before => (await purgeTokens(before)).length
  }
}

function toValues ({ hash, name, role, requestedBy, issueDate, validUntil, lastUsed }: Token): string[] {
  return [hash, name, role, requestedBy, issueDate, validUntil, lastUsed]
}
