import { randomUUID } from 'node:crypto'
import { LruMap } from 'toad-cache'
import { ConflictError, InvalidTokenError, type TokensError } from '../errors.js'
import type { CreateToken, Credential, Filter, IssuedToken, Metrics, Origin, Signer, Store, Token } from '../types.js'
import type { Cache, Known } from './cache.js'
import { digest, isOurs, parseHash, verify } from './jwt.js'
import { parseActor, parseName, parseRole, parseValidUntil } from './new-token.js'
import type { Usage } from './usage.js'

/** Digests of which the signature was verified. */
const VERIFIED_SIZE = 10_000

/** Why a token is refused, beside what its verification says. */
export const UNKNOWN = 'unknown or revoked'
export const EXPIRED = 'expired'

/** An `InvalidTokenError` is a refusal. */
export type Outcome = Known | TokensError

/** What happened since the process began. */
export type Counts = Pick<Metrics, 'authentications' | 'cacheHits' | 'lookups'>

/** Where nobody knows who asks. */
export const UNKNOWN_ORIGIN: Origin = { actor: null, address: null, requestId: null }

interface Audit {
  /** Reports the acts that wait. */
  report: () => void
}

/** The rules. Time is an argument, in milliseconds since 1970. */
export interface Tokens {
  readonly counts: Counts
  /** The credential that a string is, or `null` where it does not claim to be ours. */
  recognize: (secret: string) => Credential | null
  /**
   * The token that a credential of ours is, or why it is none; at once, without a promise, where that is known. A refusal is not
   * thrown: they come in floods.
   * @param isAgain whether this use of it was judged, and noted, before
   */
  authenticate: (credential: Credential, now: number, isAgain?: boolean) => Outcome | Promise<Outcome>
  /** @throws InvalidError, ConflictError */
  issue: (token: CreateToken & { requestedBy: string }, now: number, origin?: Origin) => Promise<IssuedToken>
  /**
   * A token that is not stored, and what is to be stored of it.
   * @throws InvalidError
   */
  sign: (token: CreateToken, now: number) => { token: string, entry: CreateToken & { hash: string } }
  /** Oldest first, by page. */
  list: (filter: Filter, now: number) => AsyncIterable<Token[]>
  /** @throws InvalidError for what is no hash */
  get: (hash: string) => Promise<Token | null>
  /** @throws InvalidError for what is no hash */
  revoke: (hash: string, origin?: Origin) => Promise<boolean>
}

interface Parts {
  store: Pick<Store, 'find' | 'insert' | 'list' | 'remove'>
  cache: Cache
  signers: readonly [Signer, ...Signer[]]
  usage: Usage
  audit: Audit
  issuer: string
  roles: readonly string[]
  /** Of a new token, in seconds. */
  maxLifetime?: number | undefined
}

export function createTokens ({ store, cache, signers, usage, audit, issuer, roles, maxLifetime }: Parts): Tokens {
  const counts: Counts = { authentications: { accepted: 0, unknown: 0, expired: 0, invalid: 0, several: 0, failed: 0 }, cacheHits: 0, lookups: 0 }
  /** When the claims of a credential end, by its digest, which no change of a row makes untrue: signature and issuer held once. */
  const expiries = new LruMap<number>(VERIFIED_SIZE)

  function judge (known: Known | null, now: number, isAgain: boolean): Outcome {
    if (known === null) return new InvalidTokenError({ cause: UNKNOWN })
    if (now >= known.endsAt) return Object.assign(new InvalidTokenError({ cause: EXPIRED }), { token: known.token })
    if (isAgain) return known
    known.lastUsed = Math.max(known.lastUsed, now)
    usage.note(known.token.hash, now)
    return known
  }

  /** When the claims of a secret end, in milliseconds since 1970, or why they do not hold. */
  function expiryOf (secret: string, hash: string): number | string {
    const known = expiries.get(hash)
    if (known !== undefined) return known
    const claims = verify(secret, signers)
    if (typeof claims === 'string') return claims
    const expiry = claims.exp * 1000
    expiries.set(hash, expiry)
    return expiry
  }

  async function find (hash: string, expiry: number): Promise<Known | null> {
    counts.lookups++
    const token = await store.find(hash)
    return token && toKnown(usage.apply(token), expiry)
  }

  function mint ({ name, role, validUntil }: CreateToken, now: number): { token: string, entry: CreateToken & { hash: string } } {
    const entry = { name: parseName(name), role: parseRole(role, roles), validUntil: parseValidUntil(validUntil, now, maxLifetime) }
    const token = signers[0].sign({ role, iat: Math.floor(now / 1000), exp: entry.validUntil / 1000, iss: issuer, jti: randomUUID() })
    return { token, entry: { ...entry, validUntil: new Date(entry.validUntil).toISOString(), hash: digest(token) } }
  }

  return {
    counts,

    recognize (secret) {
      const hash = digest(secret)
      // To read its payload again would cost more than all the rest of a hit.
      return expiries.get(hash) !== undefined || isOurs(secret, issuer) ? { secret, hash } : null
    },

    authenticate ({ secret, hash }, now, isAgain = false) {
      const known = cache.get(hash)
      if (known !== undefined) {
        if (!isAgain) counts.cacheHits++
        return judge(known, now, isAgain)
      }
      const expiry = expiryOf(secret, hash)
      if (typeof expiry === 'string') return new InvalidTokenError({ cause: expiry })
      // Also where it is no number.
      if (!(now < expiry)) return new InvalidTokenError({ cause: EXPIRED })
      return cache.load(hash, async () => await find(hash, expiry)).then(loaded => judge(loaded, now, isAgain))
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

    sign: mint,

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
        const isEnded = await store.remove(hash, origin)
        if (isEnded) audit.report()
        return isEnded
      } finally {
        // Also where nobody can tell whether it was done.
        cache.forget(hash)
      }
    }
  }
}

/** The row may be shortened with SQL, the claim can't be: the earlier of the two wins. Many requests share the record, so it is frozen. */
function toKnown (token: Token, expiry: number): Known {
  const endsAt = Math.min(expiry, Date.parse(token.validUntil))
  const known: Known = {
    token: Object.freeze({ ...token, get lastUsed () { return new Date(known.lastUsed).toISOString() } }),
    endsAt,
    expires: new Date(endsAt).toUTCString(),
    lastUsed: Date.parse(token.lastUsed)
  }
  return known
}
