import pg from 'pg'
import type { PostgresConfig } from '../types.js'
import { type Run, runOn } from './connection.js'
import { inTime } from './deadline.js'
import { createLease, type Lease, SILENCE } from './lease.js'

/** A lock must not block the queue of queries. Postgres 14 may end idle sessions, which a listening one seems to be. */
const SETTINGS = `SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '500' ELSE '0' END, false) FROM pg_settings
  WHERE name IN ('idle_session_timeout', 'lock_timeout', 'statement_timeout', 'transaction_timeout');
  SET default_transaction_isolation = 'read committed'`

interface Parts {
  config: PostgresConfig
  Client: typeof pg.Client
  /** SQL that identifies the server, database and table. */
  serverIdSql: string
  channels: readonly string[]
  /** Channels for beats: listens on all, sends on the first. */
  beats: readonly string[]
  /** Called for notifications other than beats. */
  onNotification: (channel: string, payload: string) => void
  /** Called once notifications arrive. */
  onHearing: () => void
  onHeld: () => void
  onDead: (error: Error) => void
}

/** One connection that listens. Its state ends with it. */
export interface ListeningConnection {
  run: Run
  isHeld: Lease['isHeld']
  isBeater: Lease['isBeater']
  /** Whether notifications arrive. */
  isHearing: () => boolean
  /** Resolves with the identity of the server once it listens. */
  connect: () => Promise<string>
  close: () => Promise<void>
}

export function createListeningConnection (parts: Parts): ListeningConnection {
  const { config, Client, serverIdSql, channels, beats, onNotification, onHearing, onHeld, onDead } = parts
  const client = new Client({
    ...config,
    application_name: 'fastify-mmc-tokens listener',
    keepAlive: true,
    connectionTimeoutMillis: SILENCE,
    query_timeout: 0
  })
  const send = runOn(client)
  let previous: Promise<unknown> = Promise.resolve()
  // One after the other: pg 9 will have no queue.
  const run: Run = query => {
    const answer = previous.then(async () => await inTime(send(query), SILENCE))
    previous = answer.catch(() => {})
    return answer as Promise<never>
  }
  const lease = createLease({
    async ask () {
      const question = { text: 'SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS xmax' }
      const [row] = await run(question) as [{ xmax: string }]
      return BigInt(row.xmax)
    },
    beat: async () => await run({ text: 'SELECT pg_notify($1, pg_current_xact_id()::text)::text', values: [beats[0]] }),
    onHeld,
    onDead
  })
  let state: 'connecting' | 'waiting' | 'hearing' | 'closed' = 'connecting'
  let pid: string | undefined

  client.on('error', onDead)
  client.on('end', () => { onDead(new Error('the connection ended')) })
  client.on('notification', ({ channel, payload = '', processId }) => {
    // A pooler forwards only what arrives during a query, so no query runs before the first notification.
    if (state === 'waiting') {
      state = 'hearing'
      lease.start()
      onHearing()
    }
    if (beats.includes(channel)) lease.hear(payload, String(processId) === pid)
    else onNotification(channel, payload)
  })

  return {
    run,
    isHeld: lease.isHeld,
    isBeater: lease.isBeater,
    isHearing: () => state === 'hearing',
    async connect () {
      await client.connect()
      const hello = { text: `SELECT ${serverIdSql} AS server_id, pg_backend_pid()::text AS pid` }
      const [row] = await run(hello) as [{ server_id: string, pid: string }]
      pid = row.pid
      const listen = [...channels, ...beats].map(channel => `LISTEN ${pg.escapeIdentifier(channel)}`)
      await run({ text: [SETTINGS, ...listen].join('; ') })
      if (state === 'connecting') state = 'waiting'
      return row.server_id
    },
    async close () {
      state = 'closed'
      lease.end()
      // A silent connection must not keep the process alive.
      ;(client as pg.Client & { unref: () => void }).unref()
      await client.end()
    }
  }
}
