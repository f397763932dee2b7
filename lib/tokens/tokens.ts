import { randomUUID } from 'node:crypto'
import { LruMap } from 'toad-cache'
import { ConflictError } from '../errors.js'
import type {
  BootstrapEntry, CreateToken, Credential, Filter, IssuedToken, Metrics, Origin, Signer, Store, Token
} from '../types.js'
import { type Cache, type CachedToken, toCachedToken } from './cache.js'
import { digest, isOurs, parseHash, verify } from './jwt.js'
import { parseActor, parseName, parseRole, parseValidUntil } from './new-token.js'
import type { Usage } from './usage.js'

/** Digests whose signature was verified; and those that this node revoked, more than it can while a lookup lasts. */
const SIZE = 10_000
/** How long an answer of Postgres may take to be read, in milliseconds: the bound of every promise about revocation. */
const LONGEST_LOOKUP = 2000

/** Why a credential is refused. Clients see one answer for all; the reason is for the log. */
export interface Refusal {
  refused: 'unknown' | 'expired' | 'invalid' | 'several'
  reason: string
  /** The token, where it is known. */
  token?: Token
}

export type Outcome = CachedToken | Refusal

const UNKNOWN: Refusal = { refused: 'unknown', reason: 'unknown or revoked' }
const EXPIRED: Refusal = { refused: 'expired', reason: 'expired' }

/** Counters since the process started. */
export type Counts = Pick<Metrics, 'authentications' | 'cacheHits' | 'lookups'>

/** The origin if the requester is unknown. */
export const UNKNOWN_ORIGIN: Origin = { actor: null, address: null, requestId: null }

/** The rules. Time is an argument, in milliseconds since 1970. */
export interface Tokens {
  readonly counts: Readonly<Counts>
  /** Counts the result of a request with a credential of the plugin's. */
  count: (result: keyof Counts['authentications']) => void
  /** A credential, or `null` for what is not the plugin's. */
  recognize: (secret: string) => Credential | null
  /**
   * The token of a credential, or why it is refused; synchronous if that is cached. Rejects if Postgres can't be
   * queried.
   * @param clock asked again after a lookup, during which the token may expire
   * @param isAgain whether this use was checked and recorded before
   */
  authenticate: (credential: Credential, clock: () => number, isAgain?: boolean) => Outcome | Promise<Outcome>
  /** @throws InvalidError, ConflictError */
  issue: (token: CreateToken & { requestedBy: string }, now: number, origin?: Origin) => Promise<IssuedToken>
  /**
   * Makes a token without storing it: its secret, and its entry for a bootstrap file.
   * @throws InvalidError
   */
  mint: (token: CreateToken, now: number) => { token: string, entry: BootstrapEntry }
  /** Oldest first, by page. */
  list: (filter: Filter, now: number) => AsyncIterable<Token[]>
  /** @throws InvalidError for an invalid hash */
  get: (hash: string) => Promise<Token | null>
  /** @throws InvalidError for an invalid hash */
  revoke: (hash: string, origin?: Origin) => Promise<boolean>
}

interface Parts {
  store: Pick<Store, 'find' | 'insert' | 'list' | 'remove'>
  cache: Cache
  signers: readonly [Signer, ...Signer[]]
  usage: Usage
  /** Reports the events in the outbox. */
  audit: { report: () => void }
  /** Ends the connections of a token that was revoked, or looks it up if it may have been. */
  connections: { end: (hash: string) => void, forget: (hash: string) => void }
  issuer: string
  roles: readonly string[]
  /** The maximum lifetime of a new token, in seconds. */
  maxLifetime?: number | undefined
}

export function createTokens (parts: Parts): Tokens {
  const { store, cache, signers, usage, audit, connections, issuer, roles, maxLifetime } = parts
  const authentications = { accepted: 0, unknown: 0, expired: 0, invalid: 0, several: 0, failed: 0 }
  const counts: Counts = { authentications, cacheHits: 0, lookups: 0 }
  /** When the claims of a verified credential expire, by its digest. No change of its row affects them. */
  const verified = new LruMap<number>(SIZE)
  /** When a revocation by this node was answered, by the monotonic clock. */
  const revoked = new LruMap<number>(SIZE)

  function decide (known: CachedToken | null, now: number, isAgain: boolean): Outcome {
    if (known === null) return UNKNOWN
    if (now >= known.expiresAt) return { ...EXPIRED, token: known.token }
    if (isAgain) return known
    known.lastUsed = Math.max(known.lastUsed, now)
    usage.note(known.token.hash, now)
    return known
  }

  /** When the claims of a secret expire, in milliseconds since 1970, or why it is invalid. */
  function claimExpiryOf (secret: string, hash: string): number | string {
    const known = verified.get(hash)
    if (known !== undefined) return known
    const claims = verify(secret, signers)
    if (typeof claims === 'string') return claims
    const claimExpiresAt = claims.exp * 1000
    verified.set(hash, claimExpiresAt)
    return claimExpiresAt
  }

  async function find (hash: string, claimExpiresAt: number): Promise<CachedToken | null> {
    for (;;) {
      counts.lookups++
      const [asked, askedDate] = [performance.now(), Date.now()]
      const token = await store.find(hash)
      // The row may have been read before this node revoked it.
      if (token === null || asked <= (revoked.get(hash) ?? -Infinity)) return null
      // Otherwise the process was stopped before it read the answer, and others may have revoked the token since.
      if (performance.now() - asked < LONGEST_LOOKUP && Date.now() - askedDate < LONGEST_LOOKUP) {
        return toCachedToken(usage.apply(token), claimExpiresAt)
      }
    }
  }

  function mint ({ name, role, validUntil }: CreateToken, now: number): ReturnType<Tokens['mint']> {
    const end = parseValidUntil(validUntil, now, maxLifetime)
    const entry = { name: parseName(name), role: parseRole(role, roles), validUntil: new Date(end).toISOString() }
    const claims = { role, iat: Math.floor(now / 1000), exp: end / 1000, iss: issuer, jti: randomUUID() }
    const token = signers[0].sign(claims)
    return { token, entry: { ...entry, hash: digest(token) } }
  }

  return {
    counts,
    count (result) { counts.authentications[result]++ },

    recognize (secret) {
      const hash = digest(secret)
      // Reading the payload again would cost more than the rest of a hit.
      return verified.get(hash) !== undefined || isOurs(secret, issuer) ? { secret, hash } : null
    },

    authenticate ({ secret, hash }, clock, isAgain = false) {
      const now = clock()
      const known = cache.get(hash, now)
      if (known !== undefined) {
        if (!isAgain) counts.cacheHits++
        return decide(known, now, isAgain)
      }
      const claimExpiresAt = claimExpiryOf(secret, hash)
      if (typeof claimExpiresAt === 'string') return { refused: 'invalid', reason: claimExpiresAt }
      // Also refuses NaN.
      if (!(now < claimExpiresAt)) return EXPIRED
      const loading = cache.load(hash, async () => await find(hash, claimExpiresAt))
      return loading.then(loaded => decide(loaded, clock(), isAgain))
    },

    async issue ({ requestedBy, ...input }, now, origin = { ...UNKNOWN_ORIGIN, actor: requestedBy }) {
      parseActor('requestedBy', requestedBy)
      const { token: secret, entry: { name, hash, validUntil, role } } = mint(input, now)
      const issueDate = new Date(now).toISOString()
      const token: Token = { name, hash, validUntil, role, requestedBy, issueDate, lastUsed: issueDate }
      if (!await store.insert(token, origin)) throw new ConflictError()
      audit.report()
      return { token: secret, ...token }
    },

    mint,

    async * list (filter, now) {
      const { unusedSince } = filter
      for await (const page of store.list(filter, now)) {
        const tokens = page.map(usage.apply)
        yield unusedSince === undefined ? tokens : tokens.filter(({ lastUsed }) => lastUsed < unusedSince)
      }
    },

    async get (hash) {
      const token = await store.find(parseHash(hash))
      return token && usage.apply(token)
    },

    async revoke (given, origin = UNKNOWN_ORIGIN) {
      const hash = parseHash(given)
      try {
        const wasRemoved = await store.remove(hash, origin)
        revoked.set(hash, performance.now())
        cache.forget(hash)
        connections.end(hash)
        if (wasRemoved) audit.report()
        return wasRemoved
      } catch (error) {
        // The outcome is unknown.
        cache.forget(hash)
        connections.forget(hash)
        throw error
      }
    }
  }
}
