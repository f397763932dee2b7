import { randomUUID } from 'node:crypto'
import { ConflictError, InvalidTokenError } from '../errors.js'
import type { CreateToken, IssuedToken, Signer, Store, Token } from '../types.js'
import { digest, isOurs, verify } from './jwt.js'
import { parseName, parseRole, parseValidUntil } from './new-token.js'
import type { Usage } from './usage.js'

const HASH = /^[0-9a-f]{64}$/

/** The rules. Time is an argument, in milliseconds since 1970. */
export interface Tokens {
  /** Whether a credential claims to be ours. */
  isOurs: (credential: string) => boolean
  /**
   * The token that a credential of ours is; at once, without a promise, where it is known.
   * @throws InvalidTokenError
   */
  authenticate: (credential: string, now: number) => Token | Promise<Token>
  /** @throws InvalidError, ConflictError */
  issue: (token: CreateToken & { requestedBy: string }, now: number) => Promise<IssuedToken>
  /** Oldest first. */
  list: () => Promise<Token[]>
  get: (hash: string) => Promise<Token | null>
  revoke: (hash: string) => Promise<boolean>
}

interface Parts { store: Store, signers: readonly [Signer, ...Signer[]], usage: Usage, issuer: string, roles: readonly string[] }

export function createTokens ({ store, signers, usage, issuer, roles }: Parts): Tokens {
  async function lookUp (hash: string, now: number): Promise<Token> {
    const token = await store.find(hash)
    if (token === null) throw new InvalidTokenError({ cause: 'unknown or revoked' })
    if (Date.parse(token.validUntil) <= now) throw new InvalidTokenError({ cause: 'expired' })
    usage.note(hash, now)
    return usage.apply(token)
  }

  return {
    isOurs: credential => isOurs(credential, issuer),

    authenticate (credential, now) {
      const { exp } = verify(credential, signers)
      // The row may be shortened with SQL, the claim can't be: the earlier of the two wins. Not a number: expired.
      if (!(exp * 1000 > now)) throw new InvalidTokenError({ cause: 'expired' })
      return lookUp(digest(credential), now)
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

    async list () {
      const tokens: Token[] = []
      for await (const page of store.list()) tokens.push(...page.map(usage.apply))
      return tokens
    },

    async get (hash) {
      const token = HASH.test(hash) ? await store.find(hash) : null
      return token && usage.apply(token)
    },

    async revoke (hash) {
      return HASH.test(hash) && await store.remove(hash)
    }
  }
}
