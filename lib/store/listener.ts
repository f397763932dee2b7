import pg from 'pg'
import { DatabaseError } from '../errors.js'
import type { Believed, ChangeListener, Log, Token } from '../types.js'
import { closeByDeadline, codeOf, type Connection, type Run } from './connection.js'
import type { KeyCheck } from './key-check.js'
import { draw, FIRST_BEAT, SILENCE } from './lease.js'
import { createLine, type Line } from './line.js'
import { CHANNEL, ACTED } from './migrations.js'

/** Milliseconds from one look at what is believed to the next. */
const LOOK = 1000
/** Before connecting again, in milliseconds: at first, at most, and at most if the pool is elsewhere. */
const PAUSE = { first: 50, longest: 30_000, elsewhere: 1000 }
/** A connection that held the lease for so long was sound, in milliseconds. */
const SOUND = 2000

const SILENT = 'no notification arrives: does the listening connection reach the same database, without a pooler?'

/** `where` it listens is known once it does. */
interface Current { line: Line, where?: string, isHearing?: boolean, heldAt?: number, timer?: NodeJS.Timeout }

/** Of a connection that works: where it listens, and the longest pause before the next. */
interface Silence { where?: string | undefined, longest?: number }

interface Parts {
  /** Direct: a pooler that lends connections by transaction swallows notifications. */
  connection: Pick<Connection, 'config' | 'place'>
  /** Channels for beats: all are listened to, the first is beaten on. Secret, or any user could act as a node. */
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
  /** Called when events of others wait, on the node that beat last. */
  onActed: () => void
  log: Log
}

export interface Listener {
  /** Whether every change is heard of before the lease ends. */
  isTrusted: (at?: number) => boolean
  /** How often it became so. */
  gains: () => number
  /** Queries on the connection that listens, once notifications arrive: an earlier one would disturb their proof. */
  run: () => Run | undefined
  /**
   * Compares where the pool answered with where this listens.
   * @throws DatabaseError where that is another place, which also ends the lease
   */
  check: (where: string) => void
  start: () => void
  close: () => Promise<void>
}

/**
 * Hears of ended and changed tokens on a connection of its own (LISTEN), which proves that it does, and asks again on
 * it for what is believed. A connection that fails is replaced; what it proved ends with it.
 * @param Client handed in by tests that need a client to fail
 */
export function createListener (parts: Parts, Client = pg.Client): Listener {
  const { connection, beats, keys, where, askPool, findAll, changes, believed, onActed, log } = parts
  let current: Current | undefined
  /** Where the line before `current` listened, if it was at work, but perhaps elsewhere. */
  let before: string | undefined
  let timer: NodeJS.Timeout | undefined
  let [failures, gains] = [0, 0]
  let isHealthy: boolean | undefined
  let canRefresh = true

  async function connect (): Promise<void> {
    const line = createLine({
      config: connection.config,
      Client,
      where,
      channels: [CHANNEL, keys.channel],
      beats,
      onNotification: hear,
      onHearing () {
        fresh.isHearing = true
        clearTimeout(fresh.timer)
        lookLater(fresh)
      },
      onHeld: () => { hold(fresh) },
      onDead: error => { lose(fresh, error) }
    })
    const fresh: Current = current = { line }
    try {
      const place = await line.connect()
      if (fresh !== current) return
      fresh.where = place
      // Nobody heard of what changed before.
      hear(CHANNEL, '*')
      fresh.timer = setTimeout(greet, gains === 0 ? 0 : FIRST_BEAT * draw(), fresh).unref()
    } catch (error) {
      lose(fresh, error as Error)
    }
  }

  /** Where nothing is heard by itself, this is. */
  function greet (fresh: Current): void {
    keys.greet()
    fresh.timer = setTimeout(lose, SILENCE, fresh, new Error(SILENT), { where: fresh.where }).unref()
  }

  function hear (channel: string, payload: string): void {
    if (channel === keys.channel) keys.hear(payload)
    else if (payload === ACTED) report()
    else if (payload === '*') for (const change of changes) change.clear()
    else for (const change of changes) change.forget(payload)
  }

  function report (): void {
    if (current?.line.isBeater() === true) onActed()
  }

  function hold (held: Current): void {
    gains++
    // What was loaded before this connection first heard a beat may have changed unheard.
    if (held.heldAt === undefined) hear(CHANNEL, '*')
    held.heldAt ??= performance.now()
    if (isHealthy !== true) log.info(`hears of revocations from Postgres at ${connection.place}`)
    isHealthy = true
  }

  async function look (looking: Current): Promise<void> {
    // No answer ends nothing: the pool of the host may be exhausted.
    if (believed.wasUsed()) askPool().then(check).catch(() => {})
    try {
      const ended = await believed.refresh(async hashes => {
        const tokens = await findAll(looking.line.run, hashes)
        canRefresh = true
        return tokens
      })
      for (const hash of ended) hear(CHANNEL, hash)
    } catch (err) {
      // Only what Postgres answered leaves the connection sound.
      if (codeOf(err) === '') lose(looking, err as Error)
      else if (canRefresh) log.warn({ err }, 'could not ask again for known tokens: each is looked up after a minute')
      canRefresh = false
    }
    if (looking === current) lookLater(looking)
  }

  function lookLater (looking: Current): void {
    looking.timer = setTimeout(() => { void look(looking) }, LOOK).unref()
  }

  function check (place: string): void {
    const expected = current?.where ?? before
    if (expected === undefined || place === expected) return
    const error = new DatabaseError(`the pool and the listener at ${connection.place} must reach one primary`)
    if (current?.where !== undefined) lose(current, error, { where: current.where, longest: PAUSE.elsewhere })
    throw error
  }

  function lose (lost: Current, error: Error, { where, longest = PAUSE.longest }: Silence = {}): void {
    if (lost !== current) return
    stop()?.close().catch(() => {})
    before = where
    if (performance.now() - (lost.heldAt ?? Infinity) > SOUND) failures = 0
    if (isHealthy !== false) {
      const asked = 'every request asks it until it does'
      log.warn({ err: error }, `does not hear of revocations from Postgres at ${connection.place}; ${asked}`)
    }
    isHealthy = false
    const pause = Math.min(PAUSE.first * 2 ** ++failures, longest)
    timer = setTimeout(() => { void connect() }, pause * (0.5 + Math.random() / 2)).unref()
  }

  function stop (): Line | undefined {
    const line = current?.line
    clearTimeout(timer)
    clearTimeout(current?.timer)
    current = undefined
    return line
  }

  return {
    isTrusted: at => current?.line.isHeld(at) === true,
    gains: () => gains,
    run: () => current?.isHearing === true ? current.line.run : undefined,
    check,
    start () {
      if (current === undefined && timer === undefined) void connect()
    },
    async close () {
      const line = stop()
      if (line !== undefined) await closeByDeadline(line.close(), log)
    }
  }
}
