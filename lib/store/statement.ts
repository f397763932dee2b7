import { setTimeout as pause } from 'node:timers/promises'
import { codeOf, type Connection, type Query } from './connection.js'

/** Postgres's codes for a prepared statement that is gone, is there already, or no longer fits the tables. */
const NOT_PREPARED = new Set(['26000', '42P05', '0A000'])
/** Its codes for what did nothing and may succeed the next time: a serialization failure, a deadlock, a lock or a statement out of its own time. */
export const TRANSIENT: readonly string[] = ['40001', '40P01', '55P03', '57014']
/** Before the next try, at most, in milliseconds: two that are in each other's way part by chance. */
const PAUSE = 10

export interface SendOptions {
  /** In milliseconds, where it is not the usual one. */
  deadline?: number
  /** Codes of errors after which it is sent again, until the deadline. */
  transient?: readonly string[]
}

/** A statement of this name, to be sent with values. */
export type Statement = <Row>(name: string, text: string, more?: () => SendOptions) =>
(...values: unknown[]) => Promise<Row[]>

export type Send = <Row>(query: Required<Query>, options?: SendOptions) => Promise<Row[]>

/**
 * Sends one statement at a time, whatever the database's defaults and the pool's habits. A connection that Postgres or the host
 * made forget a prepared statement gets it again without its name, and from then on no connection of that pool is prepared on.
 */
export function createSend ({ withClient }: Connection, isPrepared: boolean): Send {
  let isNamed = isPrepared
  return async ({ name, ...query }, { deadline, transient = TRANSIENT } = {}) => await withClient(async run => {
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
  }, deadline)
}
