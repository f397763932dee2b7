import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ErrorBody } from '../../schemas/error.js'
import { InternalError, TokensError } from '../errors.js'
import type { Session } from './authorize.js'
import { presentsToken } from './request-state.js'

/** Responds with an error. */
export type SendError = (request: FastifyRequest, reply: FastifyReply, error: unknown) => Promise<void>

/**
 * Responds with the MMC's error body, as a string with its own serializer: the host's error handler, response schemas
 * and serializers would each change it. An unexpected error is logged, and the client gets a 500.
 */
export function createSendError (realm: string, session: Session): SendError {
  return async (request, reply, error) => {
    let known = error instanceof TokensError ? error : new InternalError({ cause: error })
    let data: ErrorBody['data']
    if (known.statusCode === 401) {
      try {
        const user = session(request)
        // Refusals come in floods: no promise where the host returns none.
        data = { session: (user instanceof Promise ? await user : user) !== null }
      } catch (cause) {
        known = new InternalError({ cause })
      }
    }
    const { code, message, statusCode } = known
    if (statusCode === 500) request.log.error({ err: known.cause }, 'application tokens: unexpected error')
    reply.headers(challenge(statusCode, presentsToken(request), realm))
    reply.code(statusCode).type('application/json; charset=utf-8').serializer(asIs)
      .send(JSON.stringify({ code, message, data }))
  }
}

/**
 * The `WWW-Authenticate` of every 401, and of a 403 to a token (RFC 6750 §3).
 * @param isToken whether the request presents a credential of the plugin's
 */
export function challenge (statusCode: number, isToken: boolean, realm: string): { 'www-authenticate'?: string } {
  if (statusCode !== 401 && !(statusCode === 403 && isToken)) return {}
  const error = statusCode === 401 ? 'invalid_token' : 'insufficient_scope'
  return { 'www-authenticate': `Bearer realm="${realm}"${isToken ? `, error="${error}"` : ''}` }
}

function asIs (payload: unknown): string {
  return payload as string
}
