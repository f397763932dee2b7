import { randomUUID } from 'node:crypto'
import pg from 'pg'
import type { ChangeListener, Log } from '../types.js'
import { closeInTime, type Connection } from './connection.js'
import { CHANNEL, ENDED } from './migrations.js'
import type { Neighbours } from './neighbours.js'

/** Milliseconds between heartbeats. */
const HEARTBEAT = 500
/** How long the return of a heartbeat proves that changes are heard of, in milliseconds from when it was sent. */
const LEASE = 2000
/** A heartbeat that is not back by then says that the connection is dead, in milliseconds. */
const SILENCE = 1000
/** The first pause before connecting again, and the longest, in milliseconds. */
const PAUSE = { first: 50, longest: 1000 }

/** A connection that listens looks idle; servers before version 14 don't mind. */
const STAY = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"

type Notify = (channel: string, payload: string) => Promise<unknown>

export interface Revocations {
  /** Whether every change is heard of before the lease ends. */
  isTrusted: () => boolean
  /** How often it became so. */
  gains: () => number
  start: () => void
  close: () => Promise<void>
}

/**
 * Hears of ended and changed tokens on a connection of its own (LISTEN), and proves that it does by heartbeats: `notify` sends them where
 * tokens are looked up, to a channel of this process. A connection hears all channels in the order of commits, so a heartbeat never
 * overtakes a change that was committed before it was sent. A half-open connection, a swallowed notification, a pooler in between, another
 * database and a process that slept look healthy to anything less.
 * @param connection direct: a pooler that lends connections by transaction swallows notifications
 * @param Client handed in by tests that need a client to fail
 */
export function createRevocations (connection: Pick<Connection, 'config' | 'place'>, notify: Notify, listener: ChangeListener & { ended: () => void }, neighbours: Neighbours, log: Log, Client = pg.Client): Revocations {
  const { place } = connection
  const ownChannel = `${CHANNEL}_${randomUUID()}`
  /** When each heartbeat that is not back was sent. */
  const sent = new Map<string, number>()
  let client: pg.Client | undefined
  let timer: NodeJS.Timeout | undefined
  let trustedUntil = -Infinity
  let failures = 0
  let gains = 0

  async function connect (): Promise<void> {
    const fresh = client = new Client({ ...connection.config, application_name: 'fastify-mmc-tokens listener', keepAlive: true, connectionTimeoutMillis: SILENCE, query_timeout: SILENCE })
    fresh.on('error', error => { lose(fresh, error) })
    fresh.on('end', () => { lose(fresh, new Error('the connection ended')) })
    fresh.on('notification', ({ channel, payload = '' }) => {
      if (channel === ownChannel) prove(payload)
      else if (channel === neighbours.channel) neighbours.hear(payload)
      else if (payload === ENDED) listener.ended()
      else if (payload === '*') listener.clear()
      else listener.forget(payload)
    })
    try {
      await fresh.connect()
      await fresh.query(`${STAY}; LISTEN "${CHANNEL}"; LISTEN "${ownChannel}"; LISTEN "${neighbours.channel}"`)
      // Nobody heard of what changed before.
      listener.clear()
      beat(fresh)
    } catch (error) {
      lose(fresh, error as Error)
    }
  }

  function beat (current: pg.Client): void {
    if (current === client) {
      const now = performance.now()
      const [oldest = now] = sent.values()
      if (now - oldest > SILENCE) {
        lose(current, new Error('no heartbeat comes back: does the connection that listens reach the same database, and no pooler in between?'))
        return
      }
      const id = randomUUID()
      sent.set(id, now)
      notify(ownChannel, id).catch((error: Error) => { lose(current, error) })
      timer = setTimeout(beat, HEARTBEAT, current).unref()
    }
  }

  function prove (id: string): void {
    const sentAt = sent.get(id)
    if (sentAt !== undefined) {
      sent.delete(id)
      if (!isTrusted()) {
        log.info(`hears of revocations from Postgres at ${place}`)
        neighbours.greet()
        listener.ended()
        gains++
      }
      trustedUntil = Math.max(trustedUntil, sentAt + LEASE)
      failures = 0
    }
  }

  function lose (lost: pg.Client, error: Error): void {
    if (lost !== client) return
    client = undefined
    trustedUntil = -Infinity
    sent.clear()
    clearTimeout(timer)
    lost.end().catch(() => {})
    if (failures++ === 0) log.warn({ err: error }, `does not hear of revocations from Postgres at ${place}; every request asks it until it does`)
    const pause = Math.min(PAUSE.first * 2 ** failures, PAUSE.longest)
    timer = setTimeout(connect, pause * (0.5 + Math.random() / 2)).unref()
  }

  function isTrusted (): boolean {
    return performance.now() < trustedUntil
  }

  return {
    isTrusted,
    gains: () => gains,
    start () {
      if (client === undefined && timer === undefined) connect()
    },
    async close () {
      clearTimeout(timer)
      const current = client
      client = undefined
      trustedUntil = -Infinity
      if (current === undefined) return
      // If it has gone silent, it is no reason for the process to stay.
      (current as pg.Client & { unref: () => void }).unref()
      await closeInTime(current.end(), log)
    }
  }
}
