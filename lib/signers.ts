import jwt, { type JWT } from '@fastify/jwt'
import type { FastifyInstance } from 'fastify'
import { isSigned } from './tokens/jwt.js'
import type { Claims, Signer } from './types.js'

const REQUIRED_CLAIMS = ['role', 'iat', 'exp', 'iss', 'jti']

/**
 * HS256 with the plugin's keys (RFC 7515): the first signs, all verify.
 *
 * Each is a registration of `@fastify/jwt` in a child of the host, with its own namespace, so that the host can
 * register `@fastify/jwt`, too, before or after. One registration per key: an array of secrets does not work, a
 * function breaks `sign`, and options at `verify` build a new verifier per call. Expiry is checked in lib/tokens, where
 * time is an argument.
 */
export async function createSigners (
  app: FastifyInstance, keys: Buffer[], issuer: string
): Promise<[Signer, ...Signer[]]> {
  const signers: Signer[] = []
  await app.register(async child => {
    // Hides the host's decorator: @fastify/jwt would add to it.
    child.decorate('jwt', Object.create(null) as JWT)
    for (const [index, secret] of keys.entries()) {
      const namespace = `mmcTokens${index}`
      await child.register(jwt, {
        namespace,
        secret,
        sign: { algorithm: 'HS256' },
        verify: { algorithms: ['HS256'], allowedIss: issuer, requiredClaims: REQUIRED_CLAIMS, ignoreExpiration: true }
      })
      const signer = (child.jwt as unknown as Record<string, JWT>)[namespace] as JWT
      signers.push({
        sign: claims => signer.sign(claims),
        // The library throws for a forgery, which costs several times as much as the comparison.
        verify: token => isSigned(token, secret) ? signer.verify<Claims>(token) : null
      })
    }
  })
  return signers as [Signer, ...Signer[]]
}
