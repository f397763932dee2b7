import type { Origin, Store, StoredEvent } from '../types.js'

/** Characters of a part of an origin that are kept. */
const LONGEST = 1000

/** What stands between the parts of an origin. No part holds it: control characters are replaced. */
const SEPARATOR = '\u001f'

/** A statement of this name, to be sent with values. */
type Statement = <R>(name: string, text: string) => (...values: unknown[]) => Promise<R[]>

/** Who acts, as the triggers read it: whatever a host calls its users and requests, nothing in it may fail there. */
export function encodeOrigin ({ actor, address, requestId }: Origin): string {
  const parts = ['node', actor, address, requestId].map(part => (part ?? '').slice(0, LONGEST))
  return parts.map(part => part.replace(/\p{Cc}/gu, '\ufffd')).join(SEPARATOR)
}

type Outbox = Pick<Store, 'claimEvents' | 'dropEvent' | 'deferEvents'>

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
  const drop = statement('drop', `DELETE FROM ${schema}.events WHERE id = $1`)
  const defer = statement('defer', `
    UPDATE ${schema}.events SET attempts = attempts + $2, claimed_until = now() + $3 * interval '1 minute'
    WHERE id = ANY ($1)`)

  return {
    claimEvents: async limit => (await claim(limit)).map(row => ({ ...row, attempts: Number(row.attempts) })),
    async dropEvent (id) { await drop(id) },
    async deferEvents (ids, { attempts, minutes }) { await defer(ids, attempts, minutes) }
  }
}
