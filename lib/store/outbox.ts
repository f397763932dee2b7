import type { Store, StoredEvent } from '../types.js'
import { LOCK_TIMEOUT, type Statement } from './statement.js'

type Outbox = Pick<Store, 'claimEvents' | 'dropEvents' | 'deferEvents'>

/** The statements of the outbox. */
export function createOutbox (schema: string, time: (column: string) => string, statement: Statement): Outbox {
  const claim = statement<Omit<StoredEvent, 'attempts'> & { attempts: string }>('claim', `
    WITH claimed AS (
      UPDATE ${schema}.events SET claimed_until = now() + interval '1 minute'
      WHERE id = ANY (ARRAY(
        SELECT id FROM ${schema}.events WHERE claimed_until <= now() ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED))
      RETURNING *
    )
    SELECT id::text, type::text, ${time('at')} AS at, name::text, hash::text, role::text, actor::text, address::text,
      request_id::text AS "requestId", database_user::text AS "databaseUser", attempts::text FROM claimed ORDER BY seq`)
  // A row that is locked is skipped, or the others would wait with it. It is claimed again when its claim has ended.
  const ids = `id = ANY (ARRAY(SELECT id FROM ${schema}.events WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED))`
  const drop = statement('drop', `DELETE FROM ${schema}.events WHERE ${ids} AND ${LOCK_TIMEOUT}`)
  const defer = statement('defer', `
    UPDATE ${schema}.events SET attempts = attempts + $2, claimed_until = now() + $3 * interval '1 minute'
    WHERE ${ids} AND ${LOCK_TIMEOUT}`)

  return {
    claimEvents: async limit => (await claim(limit)).map(row => ({ ...row, attempts: Number(row.attempts) })),
    async dropEvents (ids) { await drop(ids) },
    async deferEvents (ids, { attempts, minutes }) { await defer(ids, attempts, minutes) }
  }
}
