import { createHmac, hash, hkdfSync, timingSafeEqual } from 'node:crypto'
import { HASH } from '../../schemas/token.js'
import { InvalidError } from '../errors.js'
import type { Claims, Signer } from '../types.js'

/** The header of every token, `{"alg":"HS256","typ":"JWT"}`, encoded. */
export const HEADER = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.'

/** Three base64url parts; the third of an unsigned JWT is empty (RFC 7519 §6). */
const JWT = /^[\w-]+\.([\w-]+)\.[\w-]*$/

const IS_HASH = new RegExp(HASH, 'i')

/** The signing key, derived for this purpose alone (RFC 5869): a host may sign its own JWTs with the same secret. */
export function deriveKey (secret: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, '', 'fastify-mmc-tokens', 32))
}

/** Identifies a secret to other nodes without revealing it: derived for this purpose alone, 64 bits. */
export function fingerprint (secret: string): string {
  return Buffer.from(hkdfSync('sha256', secret, '', 'fastify-mmc-tokens fingerprint', 8)).toString('hex')
}

/** The channel for the beats of nodes with this secret, which nobody else may know. */
export function beatChannel (secret: string, schema: string): string {
  const bytes = Buffer.from(hkdfSync('sha256', secret, '', `fastify-mmc-tokens beat ${schema}`, 24))
  return `mmc_tokens_${bytes.toString('hex')}`
}

/** SHA-256 of the whole token string, lower-case hex. */
export function digest (secret: string): string {
  return hash('sha256', secret, 'hex')
}

/** Whether this is a hash, in any letter case. */
export function isHash (value: unknown): value is string {
  return typeof value === 'string' && IS_HASH.test(value)
}

/**
 * A hash as it is stored.
 * @throws InvalidError
 */
export function parseHash (value: unknown): string {
  if (!isHash(value)) throw new InvalidError('hash must be the SHA-256 of the token in 64 hexadecimal digits')
  return value.toLowerCase()
}

/** Whether a credential claims to be the plugin's: a JWT that names this issuer. Its signature is not checked. */
export function isOurs (credential: string, issuer: string): boolean {
  const payload = JWT.exec(credential)?.[1]
  if (payload === undefined) return false
  try {
    return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { iss?: unknown }).iss === issuer
  } catch {
    return false
  }
}

/** The claims of a token that one of these signed, or why it is invalid. Expiry is not checked. */
export function verify (secret: string, signers: readonly Signer[]): Claims | string {
  if (!secret.startsWith(HEADER)) return 'foreign header'
  let reason = 'invalid signature'
  for (const signer of signers) {
    try {
      const claims = signer.verify(secret)
      if (claims !== null) return claims
    } catch (error) {
      reason = (error as Error).message
    }
  }
  return reason
}

/**
 * Whether the third part is the HS256 signature of the others with this key (RFC 7515 §5.2). Compares the encoded
 * forms: `digest` takes longer to return a buffer than to return text.
 */
export function isSigned (secret: string, key: Buffer): boolean {
  const end = secret.lastIndexOf('.')
  const expected = Buffer.from(createHmac('sha256', key).update(secret.slice(0, end)).digest('base64url'))
  const given = Buffer.from(secret.slice(end + 1))
  return given.length === expected.length && timingSafeEqual(given, expected)
}
