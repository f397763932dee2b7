import { randomUUID } from 'node:crypto'
import { LruMap } from 'toad-cache'
import { ConflictError, InvalidTokenError, type TokensError } from '../errors.js'
import type { CreateToken, Credential, IssuedToken, Signer, Store, Token } from '../types.js'
import type { Cache, Known } from './cache.js'
import { digest, isOurs, verify } from './jwt.js'
import { parseName, parseRole, parseValidUntil } from './new-token.js'
import type { Usage } from './usage.js'

/** Digests of which the signature was verified. */
const VERIFIED_SIZE = 10_000

const HASH = /^[0-9a-f]{64}$/

/** An `InvalidTokenError` is a refusal. */
export type Outcome = Token | TokensError

/** The rules. Time is an argument, in milliseconds since 1970. */
export interface Tokens {
  /** The credential that a string is, or `null` where it does not claim to be ours. */
  recognize: (secret: string) => Credential | null
  /**
   * The token that a credential of ours is, or why it is none; at once, without a promise, where that is known. A refusal is not
   * thrown: they come in floods.
   */
  authenticate: (credential: Credential, now: number) => Outcome | Promise<Outcome>
  /** @throws InvalidError, ConflictError */
  issue: (token: CreateToken & { requestedBy: string }, now: number) => Promise<IssuedToken>
  /** Oldest first, by page. */
  list: () => AsyncIterable<Token[]>
  get: (hash: string) => Promise<Token | null>
  revoke: (hash: string) => Promise<boolean>
}

interface Parts { store: Store, cache: Cache, signers: readonly [Signer, ...Signer[]], usage: Usage, issuer: string, roles: readonly string[] }

export function createTokens ({ store, cache, signers, usage, issuer, roles }: Parts): Tokens {
  /** When the claims of a credential end, by its digest, which no change of a row makes untrue: signature and issuer held once. */
  const expiries = new LruMap<number>(VERIFIED_SIZE)

  function judge (known: Known | null, now: number): Outcome {
    if (known === null) return new InvalidTokenError({ cause: 'unknown or revoked' })
    if (now >= known.endsAt) return new InvalidTokenError({ cause: 'expired' })
    if (now > known.lastUsed) known.lastUsed = now
    usage.note(known.token.hash, now)
    return known.token
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
    const token = await store.find(hash)
    return token && toKnown(usage.apply(token), expiry)
  }

  return {
    recognize (secret) {
      const hash = digest(secret)
      // To read its payload again would cost more than all the rest of a hit.
      return expiries.get(hash) !== undefined || isOurs(secret, issuer) ? { secret, hash } : null
    },

    authenticate ({ secret, hash }, now) {
      const known = cache.get(hash)
      if (known !== undefined) return judge(known, now)
      const expiry = expiryOf(secret, hash)
      if (typeof expiry === 'string') return new InvalidTokenError({ cause: expiry })
      // Also where it is no number.
      if (!(now < expiry)) return new InvalidTokenError({ cause: 'expired' })
      return cache.load(hash, async () => await find(hash, expiry)).then(loaded => judge(loaded, now))
    },

    async issue ({ requestedBy, ...input }, now) {
      const name = parseName(input.name)
      const role = parseRole(input.role, roles)
      const validUntil = parseValidUntil(input.validUntil, now)
      const secret = signers[0].sign({ role, iat: Math.floor(now / 1000), exp: validUntil / 1000, iss: issuer, jti: randomUUID() })
      const issueDate = new Date(now).toISOString()
      const token: Token = {
        name,
        hash: digest(secret),
        validUntil: new Date(validUntil).toISOString(),
        role,
        requestedBy,
        issueDate,
        lastUsed: issueDate
      }
      if (!await store.insert(token)) throw new ConflictError()
      return { token: secret, ...token }
    },

    async * list () {
      for await (const page of store.list()) yield page.map(usage.apply)
    },

    async get (hash) {
      const token = HASH.test(hash) ? await store.find(hash) : null
      return token && usage.apply(token)
    },

    async revoke (hash) {
      if (!HASH.test(hash)) return false
      try {
        return await store.remove(hash)
      } finally {
        // Also where nobody can tell whether it was done.
        cache.forget(hash)
      }
    }
  }
}

/** The row may be shortened with SQL, the claim can't be: the earlier of the two wins. Many requests share the record, so it is frozen. */
function toKnown (token: Token, expiry: number): Known {
  const known: Known = {
    token: Object.freeze({ ...token, get lastUsed () { return new Date(known.lastUsed).toISOString() } }),
    endsAt: Math.min(expiry, Date.parse(token.validUntil)),
    lastUsed: Date.parse(token.lastUsed)
  }
  return known
}
