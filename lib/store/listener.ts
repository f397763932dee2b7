import pg from 'pg'
import { DatabaseError, DeadlineError } from '../errors.js'
import type { RefreshableCache, ChangeListener, Log, Token } from '../types.js'
import { codeOf, type Connection, type Run } from './connection.js'
import { closeByDeadline } from './deadline.js'
import type { KeyCheck } from './key-check.js'
import { randomFraction, FIRST_BEAT, SILENCE } from './lease.js'
import { createListeningConnection, type ListeningConnection } from './listening-connection.js'
import { CHANNEL, EVENTS_WAITING } from './migrations.js'

/** Milliseconds from one refresh of the cache to the next. */
const REFRESH_INTERVAL = 1000
/** Pauses before reconnecting, in milliseconds: the first, the longest, and the longest if the pool is elsewhere. */
const PAUSE = { first: 100, longest: 30_000, elsewhere: 1000 }
/** After a connection held the lease for this long, pauses start again from the first, in milliseconds. */
const STABLE_AFTER = 2000

const SILENT = 'no notification arrives: does the listening connection reach the same database, without a pooler?'

/** `serverId` is known once it listens. */
interface Current { line: ListeningConnection, serverId?: string, heldAt?: number, timer?: NodeJS.Timeout }

interface Parts {
  /** Direct: a pooler that lends connections by transaction swallows notifications. */
  connection: Pick<Connection, 'config' | 'target'>
  /** Channels for beats: listens on all, sends on the first. Secret, or any user could impersonate a node. */
  beats: readonly string[]
  keys: KeyCheck
  /** SQL that identifies the server, database and table. */
  serverIdSql: string
  /** Resolves with the same for the pool. */
  askPool: () => Promise<string>
  /** Tokens by their hashes, on a given connection. */
  findAll: (run: Run, hashes: string[]) => Promise<Token[]>
  /** Receive changes. */
  changes: readonly ChangeListener[]
  cache: Pick<RefreshableCache, 'wasUsed' | 'refresh'>
  /** Called on the node that beat last, when someone other than a node left events in the outbox. */
  onEventsWaiting: () => void
  log: Log
}

export interface Listener {
  /** Whether every change is received before the lease ends. */
  isTrusted: (at?: number, date?: number) => boolean
  /** How often the lease was acquired. */
  acquisitions: () => number
  /** Queries on the listening connection, once notifications arrive: a pooler might forward them during a query. */
  run: () => Run | undefined
  /**
   * Compares the server that the pool reached with the one that this listens to.
   * @throws DatabaseError if they differ, which also ends the lease
   */
  check: (serverId: string) => void
  start: () => void
  close: () => Promise<void>
}

/**
 * Receives changes of tokens on a connection of its own (LISTEN), proves that it does, and refreshes known tokens. A
 * connection that fails is replaced; what it proved ends with it.
 * @param Client handed in by tests that need a client to fail
 */
export function createListener (parts: Parts, Client = pg.Client): Listener {
  const { connection, beats, keys, serverIdSql, askPool, findAll, changes, cache, onEventsWaiting, log } = parts
  let current: Current | undefined
  /** The server of the connection before `current`, if that worked. */
  let previousServer: string | undefined
  let timer: NodeJS.Timeout | undefined
  let [failures, acquisitions] = [0, 0]
  let isHealthy: boolean | undefined
  let canRefresh = true

  async function connect (): Promise<void> {
    let line: ListeningConnection
    try {
      line = createListeningConnection({
        config: connection.config,
        Client,
        serverIdSql,
        channels: [CHANNEL, keys.channel],
        beats,
        onNotification: handle,
        onHearing: () => { refreshLater(fresh) },
        onHeld: () => { acquire(fresh) },
        onDead: error => { replace(fresh, error) }
      })
    } catch (error) {
      // pg reads the files of `sslrootcert` and its like for each client.
      replace(undefined, error as Error)
      return
    }
    const fresh: Current = current = { line }
    try {
      fresh.serverId = await line.connect()
      if (fresh !== current) return
      // What changed before was not received.
      handle(CHANNEL, '*')
      const wait = acquisitions === 0 ? 0 : FIRST_BEAT * randomFraction()
      fresh.timer = setTimeout(requestNotification, wait, fresh).unref()
    } catch (error) {
      replace(fresh, error as Error)
    }
  }

  /** Causes a notification, in case no other node sends one. */
  function requestNotification (fresh: Current): void {
    keys.ask()
    fresh.timer = setTimeout(replace, SILENCE, fresh, new Error(SILENT), fresh.serverId).unref()
  }

  function handle (channel: string, payload: string): void {
    if (channel === keys.channel) keys.hear(payload)
    else if (payload === EVENTS_WAITING) report()
    else if (payload === '*') for (const change of changes) change.clear()
    else for (const change of changes) change.forget(payload)
  }

  const report = (): void => { if (current?.line.isBeater() === true) onEventsWaiting() }

  function acquire (held: Current): void {
    acquisitions++
    // What was loaded before the first beat of this connection may have changed without a notification.
    if (held.heldAt === undefined) handle(CHANNEL, '*')
    held.heldAt ??= performance.now()
    const consequence = 'accepting known tokens from memory'
    if (isHealthy !== true) log.info(`revocation listener connected (${connection.target}): ${consequence}`)
    isHealthy = true
  }

  async function refresh (looking: Current): Promise<void> {
    // A missing answer does not end the lease: the host's pool may be exhausted.
    if (cache.wasUsed()) askPool().then(check).catch(() => {})
    try {
      const changed = await cache.refresh(async hashes => {
        const tokens = await findAll(looking.line.run, hashes)
        canRefresh = true
        return tokens
      })
      for (const hash of changed) handle(CHANNEL, hash) // as if notified
    } catch (err) {
      // Only after an error that Postgres returned is the connection still usable.
      if (err instanceof DeadlineError || codeOf(err) === '') replace(looking, err as Error)
      else if (canRefresh) log.warn({ err }, 'could not refresh cached tokens: looking up each after a minute')
      canRefresh = false
    }
    if (looking === current) refreshLater(looking)
  }

  function refreshLater (looking: Current): void {
    clearTimeout(looking.timer)
    looking.timer = setTimeout(() => { void refresh(looking) }, REFRESH_INTERVAL).unref()
  }

  function check (answered: string): void {
    const expected = current?.serverId ?? previousServer
    if (expected === undefined || answered === expected) return
    const error = new DatabaseError(`the pool and the listener at ${connection.target} do not reach the same primary`)
    if (current?.serverId !== undefined) replace(current, error, current.serverId, PAUSE.elsewhere)
    throw error
  }

  /** @param serverId of a connection that worked */
  function replace (lost: Current | undefined, error: Error, serverId?: string, longest = PAUSE.longest): void {
    if (lost !== current) return
    stop()?.close().catch(() => {})
    previousServer = serverId
    if (performance.now() - (lost?.heldAt ?? Infinity) > STABLE_AFTER) failures = 0
    if (isHealthy !== false) {
      const consequence = 'checking every token in Postgres until it reconnects'
      log.warn({ err: error }, `revocation listener lost (${connection.target}): ${consequence}`)
    }
    isHealthy = false
    const pause = Math.min(PAUSE.first * 2 ** failures++, longest)
    timer = setTimeout(() => { void connect() }, pause * (0.5 + Math.random() / 2)).unref()
  }

  function stop (): ListeningConnection | undefined {
    const line = current?.line
    clearTimeout(timer)
    clearTimeout(current?.timer)
    current = undefined
    return line
  }

  return {
    isTrusted: (at, date) => current?.line.isHeld(at, date) === true,
    acquisitions: () => acquisitions,
    run: () => current?.line.isHearing() === true ? current.line.run : undefined,
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
