import { hash, hkdfSync } from 'node:crypto'
import { InvalidError } from '../errors.js'
import type { Claims, Signer } from '../types.js'

/** The header that all our tokens have, `{"alg":"HS256","typ":"JWT"}`, as it stands in them. */
const HEADER = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.'

/** Three base64url parts; an unsigned JWT has an empty third (RFC 7519 §6). */
const JWT = /^[\w-]+\.([\w-]+)\.[\w-]*$/

/** The key that signs, for this purpose alone: a host may sign its own JWTs with the same secret (RFC 5869). */
export function deriveKey (secret: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, '', 'fastify-mmc-tokens', 32))
}

/** Names a secret to other nodes, and says nothing else of it: derived for this purpose alone, and cut short. */
export function fingerprint (secret: string): string {
  return Buffer.from(hkdfSync('sha256', secret, '', 'fastify-mmc-tokens fingerprint', 8)).toString('hex')
}

/** The channel on which nodes with this secret prove to each other that they are heard; nobody else may know it. */
export function beatChannel (secret: string, schema: string): string {
  return `mmc_tokens_${Buffer.from(hkdfSync('sha256', secret, '', `fastify-mmc-tokens beat ${schema}`, 24)).toString('hex')}`
}

/** SHA-256 of the whole token string, lower-case hex. */
export function digest (secret: string): string {
  return hash('sha256', secret, 'hex')
}

/** Whether this is a digest, in any letter case. */
export function isHash (value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/i.test(value)
}

/**
 * A digest as it is stored.
 * @throws InvalidError
 */
export function parseHash (value: unknown): string {
  if (!isHash(value)) throw new InvalidError('hash must be the SHA-256 of the token in 64 hexadecimal digits')
  return value.toLowerCase()
}

/** Whether a credential claims to be ours: a JWT whose payload names our issuer. A claim, not a proof. */
export function isOurs (credential: string, issuer: string): boolean {
  const payload = JWT.exec(credential)?.[1]
  if (payload === undefined) return false
  try {
    return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { iss?: unknown }).iss === issuer
  } catch {
    return false
  }
}

/** The claims of a token that one of these signed, or why there are none; its expiry is not judged here. */
export function verify (secret: string, signers: readonly Signer[]): Claims | string {
  if (!secret.startsWith(HEADER)) return 'foreign header'
  const { stackTraceLimit } = Error
  // To capture a stack that nobody reads would cost more than the verification. Nothing of anybody else runs meanwhile.
  Reflect.set(Error, 'stackTraceLimit', 0)
  try {
    return verifyWithOne(secret, signers)
  } finally {
    Reflect.set(Error, 'stackTraceLimit', stackTraceLimit)
  }
}

function verifyWithOne (secret: string, signers: readonly Signer[]): Claims | string {
  let reason = ''
  for (const signer of signers) {
    try {
      return signer.verify(secret)
    } catch (error) {
      reason = (error as Error).message
    }
  }
  return reason
}
