import { setImmediate as nextTurn } from 'node:timers/promises'
import { TokenExpiredError, TokenRevokedError, TokensDisabledError } from '../errors.js'
import type { CachedToken } from '../tokens/cache.js'
import type { ChangeListener, Closable, Token } from '../types.js'

/** How long after the signal a connection is cut, in milliseconds, so that the host can close it cleanly. */
const GRACE = 900
/** Milliseconds from one check of all to the next, which is a lookup while changes are not received. */
const CHECK = 1000
/** Tokens that are checked, and sockets that are destroyed, in one turn of the event loop. */
const BATCH = 20

const REASONS = { revoked: TokenRevokedError, expired: TokenExpiredError, disabled: TokensDisabledError }
type Reason = keyof typeof REASONS

/** The connections that one token opened; there are no more than the server has connections. */
interface Entry {
  hash: string
  /** When the token expires, and its claim, in milliseconds since 1970. */
  expiresAt: number
  claimExpiresAt: number
  /** Each ends one connection. `token` is as it was accepted; `after` counts the lookups that began before. */
  ends: Map<(reason: Reason) => void, { token: Readonly<Token>, after: number }>
  timer?: NodeJS.Timeout
}

export interface Connections extends ChangeListener {
  /** A signal that aborts when the token ends, until `closable` closes. */
  signal: (accepted: CachedToken, closable: Closable) => AbortSignal
  /** Destroys the socket of an upgraded connection when the token ends. */
  cut: (accepted: CachedToken, closable: Closable, destroy: () => void) => void
  /** This node revoked the token. */
  end: (hash: string) => void
  /** Tokens were disabled. */
  endAll: () => void
  close: () => void
}

interface Parts {
  /** Whether the cache holds this record, so that its changes are received. */
  isCurrent: (accepted: CachedToken) => boolean
  /** Whether the lease is held, so that changes are received. */
  isTrusted: () => boolean
  /** The tokens with these hashes. */
  findAll: (hashes: string[]) => Promise<Token[]>
}

/**
 * Ends the connections of a token when it is revoked, changes its name or role, or expires: with a signal if one was
 * requested, and by destroying the socket of an upgraded connection. Other requests cost nothing.
 */
export function createConnections ({ isCurrent, isTrusted, findAll }: Parts): Connections {
  const entries = new Map<string, Entry>()
  /** Hashes of tokens to look up: a change was notified, or may have been missed. */
  const doubtful = new Set<string>()
  let [areAllDoubtful, isAsking, lookups] = [false, false, 0]
  let checking: NodeJS.Timeout | undefined
  /** The sockets to destroy; there are no more than the server has connections. */
  const due: Array<() => void> = []

  function open (accepted: CachedToken, closable: Closable, end: (reason: Reason) => void): void {
    // Its entry would never be released.
    if (isClosed(closable)) return
    const { token, token: { hash }, expiresAt, claimExpiresAt } = accepted
    const entry: Entry = entries.get(hash) ?? { hash, expiresAt, claimExpiresAt, ends: new Map() }
    const release = (): void => {
      entry.ends.delete(once)
      if (entry.ends.size === 0) remove(entry)
    }
    const once = (reason: Reason): void => {
      closable.off('close', release)
      release()
      end(reason)
    }
    entries.set(hash, entry)
    entry.ends.set(once, { token, after: lookups })
    closable.once('close', release)
    checking ??= setInterval(check, CHECK).unref()
    expire(entry)
    // Added before the lookup, so that no change is missed.
    if (!isTrusted() || !isCurrent(accepted)) doubt(hash)
  }

  function remove (entry: Entry): void {
    clearTimeout(entry.timer)
    if (entries.get(entry.hash) !== entry) return
    entries.delete(entry.hash)
    doubtful.delete(entry.hash)
    if (entries.size > 0) return
    areAllDoubtful = false
    clearInterval(checking)
    checking = undefined
  }

  function endEntry (entry: Entry | undefined, reason: Reason): void {
    if (entry === undefined) return
    remove(entry)
    for (const end of entry.ends.keys()) end(reason)
  }

  function expire (entry: Entry): void {
    clearTimeout(entry.timer)
    const left = entry.expiresAt - Date.now()
    if (left <= 0) endEntry(entry, 'expired')
    else if (left < 2 * CHECK) entry.timer = setTimeout(expire, left, entry).unref()
  }

  function check (): void {
    // A long timer would not notice that the clock was set, or that the machine slept.
    for (const entry of entries.values()) expire(entry)
    if (isTrusted()) void ask()
    else doubtAll()
  }

  function doubt (hash: string): void {
    if (!entries.has(hash)) return
    doubtful.add(hash)
    void ask()
  }

  /** In constant time: any user of the database can notify of it in a loop. */
  function doubtAll (): void {
    areAllDoubtful = entries.size > 0
    void ask()
  }

  /** Looks up all in one statement, and those that change meanwhile in another. */
  async function ask (): Promise<void> {
    if (isAsking) return
    isAsking = true
    // Waits for all that become doubtful in this turn.
    await nextTurn()
    while (areAllDoubtful || doubtful.size > 0) {
      const hashes = [...areAllDoubtful ? entries.keys() : doubtful]
      areAllDoubtful = false
      doubtful.clear()
      lookups++
      try {
        const found = new Map((await findAll(hashes)).map(token => [token.hash, token]))
        for (const [index, hash] of hashes.entries()) {
          if (index % BATCH === BATCH - 1) await nextTurn()
          update(entries.get(hash), found.get(hash))
        }
      } catch {
        // Postgres can't be queried: the connections stay open until it can.
        for (const hash of hashes) if (entries.has(hash)) doubtful.add(hash)
        break
      }
    }
    isAsking = false
  }

  function update (entry: Entry | undefined, token: Token | undefined): void {
    if (entry === undefined) return
    for (const [end, { token: { name, role }, after }] of entry.ends) {
      // What was opened since the lookup was sent may know of a later change.
      if (after < lookups && (token?.name !== name || token.role !== role)) end('revoked')
    }
    if (token === undefined || entry.ends.size === 0) return
    // An operator may have changed it; the claim can't be extended.
    entry.expiresAt = Math.min(entry.claimExpiresAt, Date.parse(token.validUntil))
    expire(entry)
  }

  /** In batches: thousands may be due at once. */
  function destroyDue (): void {
    for (const destroy of due.splice(0, BATCH)) destroy()
    if (due.length > 0) setImmediate(destroyDue)
  }

  return {
    signal (accepted, closable) {
      const controller = new AbortController()
      open(accepted, closable, reason => { controller.abort(new REASONS[reason]()) })
      return controller.signal
    },
    cut (accepted, closable, destroy) {
      open(accepted, closable, () => {
        const timer = setTimeout(() => { if (due.push(destroy) === 1) setImmediate(destroyDue) }, GRACE).unref()
        closable.once('close', () => { clearTimeout(timer) })
      })
    },
    end (hash) { endEntry(entries.get(hash), 'revoked') },
    endAll () {
      for (const entry of entries.values()) endEntry(entry, 'disabled')
    },
    forget: doubt,
    clear: doubtAll,
    close () { for (const entry of entries.values()) remove(entry) }
  }
}

/** Whether `close` was emitted or is about to be. A WebSocket has `readyState`, 3 if closed; HTTP/2 a `stream`. */
function isClosed (closable: Closable): boolean {
  const { closed, readyState, stream } = closable as Closable & { readyState?: unknown, stream?: { closed?: boolean } }
  return closed === true || readyState === 3 || stream?.closed === true
}
