import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { Believed, ChangeListener, Log, Token } from '../types.js'
import { closeInTime, codeOf, type Connection, type Run, runOn } from './connection.js'
import type { KeyCheck } from './key-check.js'
import { createLease, draw, FIRST_BEAT, type Lease, SILENCE } from './lease.js'
import { CHANNEL, ENDED } from './migrations.js'

/** Milliseconds from one look at what is believed to the next. */
const LOOK = 1000
/** The first pause before connecting again, the longest, and the longest where the pool reaches another place, in milliseconds. */
const PAUSE = { first: 50, longest: 30_000, elsewhere: 1000 }
/** A connection that held the lease for so long was sound, in milliseconds. */
const SOUND = 2000

/**
 * A connection that listens looks idle, which servers from version 14 on may mind. What waits for a lock would hold up all that comes
 * after it.
 */
const SETTINGS = `SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '500' ELSE '0' END, false) FROM pg_settings
  WHERE name IN ('idle_session_timeout', 'lock_timeout', 'statement_timeout', 'transaction_timeout');
  SET default_transaction_isolation = 'read committed'`

interface Line { client: pg.Client, run: Run, lease: Lease, where?: string, heldAt?: number, timer?: NodeJS.Timeout }

interface Parts {
  /** Direct: a pooler that lends connections by transaction swallows notifications. */
  connection: Pick<Connection, 'config' | 'place'>
  /** Channels for beats: all are listened to, the first is beaten on. Secret, or any user of the database could act as a node. */
  beats: readonly string[]
  keys: KeyCheck
  /** SQL for where it is answered. */
  where: string
  /** Where the pool answers. */
  askPool: () => Promise<string>
  /** Tokens by their hashes, on a given connection. */
  findAll: (run: Run, hashes: string[]) => Promise<Token[]>
  /** Who must hear of changes. */
  changes: readonly ChangeListener[]
  believed: Pick<Believed, 'wasUsed' | 'refresh'>
  /** Called when tokens may have ended that nobody told of. */
  onEnded: () => void
  log: Log
}

export interface Listener {
  /** Whether every change is heard of before the lease ends. */
  isTrusted: (at?: number) => boolean
  /** How often it became so. */
  gains: () => number
  /**
   * Compares where the pool answered with where this listens.
   * @throws DatabaseError where that is another place, which also ends the lease
   */
  check: (where: string) => void
  start: () => void
  close: () => Promise<void>
}

/**
 * Hears of ended and changed tokens on a connection of its own (LISTEN), holds the lease that proves it, and asks again on that connection
 * for what is believed. A connection that fails is replaced; what it proved ends with it.
 * @param Client handed in by tests that need a client to fail
 */
export function createListener (parts: Parts, Client = pg.Client): Listener {
  const { connection, beats, keys, where, askPool, findAll, changes, believed, onEnded, log } = parts
  const listen = [SETTINGS, ...[CHANNEL, keys.channel, ...beats].map(channel => `LISTEN ${pg.escapeIdentifier(channel)}`)].join('; ')
  let current: Line | undefined
  /** Where the line before `current` listened, if it was at work, but perhaps elsewhere. */
  let before: string | undefined
  let timer: NodeJS.Timeout | undefined
  let [failures, gains] = [0, 0]
  let isHealthy: boolean | undefined
  let canRefresh = true

  function open (): Line {
    const client = new Client({
      ...connection.config,
      application_name: 'fastify-mmc-tokens listener',
      keepAlive: true,
      connectionTimeoutMillis: SILENCE,
      query_timeout: SILENCE
    })
    const run = runOn(client)
    const fail = (error: unknown): void => { lose(line, error as Error) }
    const lease = createLease({
      async ask () {
        const [row] = await run({ text: 'SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS xmax' }) as [{ xmax: string }]
        return BigInt(row.xmax)
      },
      beat: async () => await run({ text: 'SELECT pg_notify($1, pg_current_xact_id()::text)::text', values: [beats[0]] }),
      onHeld: () => { hold(line) },
      onDead: fail
    })
    const line: Line = { client, run, lease }
    client.on('error', fail)
    client.on('end', () => { fail(new Error('the connection ended')) })
    return line
  }

  async function connect (): Promise<void> {
    const line = current = open()
    const { client, run, lease } = line
    try {
      await client.connect()
      const [{ place, pid }] = await run({ text: `SELECT ${where} AS place, pg_backend_pid()::text AS pid` }) as [{ place: string, pid: string }]
      let isWaiting = false
      client.on('notification', ({ channel, payload = '', processId }) => {
        // A pooler would hand on what comes while a query runs, and swallow the rest: none runs before the lease starts.
        if (isWaiting) start(line)
        isWaiting = false
        if (beats.includes(channel)) lease.hear(payload, String(processId) === pid)
        else hear(channel, payload)
      })
      await run({ text: listen })
      if (line !== current) return
      line.where = place
      // Nobody heard of what changed before.
      for (const change of changes) change.clear()
      isWaiting = true
      line.timer = setTimeout(greet, gains === 0 ? 0 : FIRST_BEAT * draw(), line).unref()
    } catch (error) {
      lose(line, error as Error)
    }
  }

  /** Where nothing is heard by itself, this is. */
  function greet (line: Line): void {
    keys.greet()
    line.timer = setTimeout(lose, SILENCE, line, new Error('no notification arrives: does the connection that listens reach the same database, and no pooler in between?'), true).unref()
  }

  function start (line: Line): void {
    clearTimeout(line.timer)
    line.timer = setTimeout(look, LOOK, line).unref()
    line.lease.start()
  }

  function hear (channel: string, payload: string): void {
    if (channel === keys.channel) keys.hear(payload)
    else if (payload === ENDED) onEnded()
    else if (payload === '*') for (const change of changes) change.clear()
    else for (const change of changes) change.forget(payload)
  }

  function hold (line: Line): void {
    gains++
    line.heldAt ??= performance.now()
    if (isHealthy !== true) log.info(`hears of revocations from Postgres at ${connection.place}`)
    isHealthy = true
    onEnded()
  }

  async function look (line: Line): Promise<void> {
    // No answer ends nothing: the pool of the host may be exhausted.
    if (believed.wasUsed()) askPool().then(check).catch(() => {})
    try {
      await believed.refresh(async hashes => {
        const tokens = await findAll(line.run, hashes)
        canRefresh = true
        return tokens
      })
    } catch (err) {
      // Only what Postgres answered leaves the connection sound.
      if (codeOf(err) === '') lose(line, err as Error)
      else if (canRefresh) log.warn({ err }, 'could not ask again for known tokens: each is looked up when it was known for a minute')
      canRefresh = false
    }
    if (line === current) line.timer = setTimeout(look, LOOK, line).unref()
  }

  function check (place: string): void {
    const expected = current?.where ?? before
    if (expected === undefined || place === expected) return
    const error = new DatabaseError(`Postgres at ${connection.place}, which tells of revocations, is not the one that has the tokens: both must be the same primary`)
    if (current?.where !== undefined) lose(current, error, true)
    throw error
  }

  function lose (line: Line, error: Error, isElsewhere = false): void {
    if (line !== current) return
    stop()
    line.client.end().catch(() => {})
    before = isElsewhere ? line.where : undefined
    if (performance.now() - (line.heldAt ?? Infinity) > SOUND) failures = 0
    if (isHealthy !== false) log.warn({ err: error }, `does not hear of revocations from Postgres at ${connection.place}; every request asks it until it does`)
    isHealthy = false
    const pause = Math.min(PAUSE.first * 2 ** ++failures, isElsewhere ? PAUSE.elsewhere : PAUSE.longest)
    timer = setTimeout(connect, pause * (0.5 + Math.random() / 2)).unref()
  }

  function stop (): void {
    clearTimeout(timer)
    clearTimeout(current?.timer)
    current?.lease.end()
    current = undefined
  }

  return {
    isTrusted: at => current?.lease.isHeld(at) === true,
    gains: () => gains,
    check,
    start () {
      if (current === undefined && timer === undefined) connect()
    },
    async close () {
      const client = current?.client
      stop()
      if (client === undefined) return
      // If it has gone silent, it is no reason for the process to stay.
      (client as pg.Client & { unref: () => void }).unref()
      await closeInTime(client.end(), log)
    }
  }
}
