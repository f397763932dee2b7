import { setTimeout as pause } from 'node:timers/promises'
import { codeOf, type Connection, type SqlQuery } from './connection.js'

/** Postgres's codes for a prepared statement that is missing, exists already, or no longer fits the tables. */
const NOT_PREPARED = new Set(['26000', '42P05', '0A000'])
/** Its codes after which a retry may help: serialization failure, deadlock, lock and statement time-out. */
export const TRANSIENT: readonly string[] = ['40001', '40P01', '55P03', '57014']
/** The longest pause before a retry, in milliseconds; random, so that conflicting statements do not retry in step. */
const PAUSE = 10

/**
 * A condition that sets the lock timeout before the first row is read, and is always true. A statement that waited
 * longer for a lock would outlive its deadline, and the next would wait behind it.
 */
export const LOCK_TIMEOUT = "(SELECT pg_catalog.set_config('lock_timeout', '500', true)) IS NOT NULL"

export interface SendOptions {
  /** In milliseconds; by default `DEADLINE` of deadline.ts. */
  deadline?: number
  /** Codes of errors after which it is retried until the deadline. */
  transient?: readonly string[]
  /** Whether Postgres is asked to cancel it at the deadline. Default: true. */
  isCancelled?: boolean
}

/** A statement of this name, to be sent with values. */
export type Statement = <Row>(name: string, text: string, more?: () => SendOptions) =>
(...values: unknown[]) => Promise<Row[]>

export type Send = <Row>(query: Required<SqlQuery>, options?: SendOptions) => Promise<Row[]>

/**
 * Sends single statements, whatever the defaults of the database and of the pool are. If a prepared statement is
 * lost, it is sent again unprepared, and nothing is prepared on that pool any more. Poolers may not support prepared
 * statements.
 */
export function createSend ({ withClient, isDirect }: Connection): Send {
  let isNamed = isDirect
  return async (
    { name, ...query }, { deadline, transient = TRANSIENT, isCancelled } = {}
  ) => await withClient(async run => {
    for (;;) {
      const sent = isNamed ? { name, ...query } : query
      try {
        return await run(sent)
      } catch (error) {
        if (sent !== query && NOT_PREPARED.has(codeOf(error))) isNamed = false
        else if (transient.includes(codeOf(error))) await pause(Math.random() * PAUSE)
        else throw error
      }
    }
  }, deadline, isCancelled)
}
