import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ErrorBody } from '../../schemas/error.js'
import { InternalError, TokensError } from '../errors.js'
import type { Session } from './authorize.js'
import { presentsToken } from './request-state.js'

/** Answers a request with an error. */
export type SendError = (request: FastifyRequest, reply: FastifyReply, error: unknown) => Promise<void>

/**
 * Answers with the MMC's error body. It leaves as a finished string with a serializer of its own, since the host's error handler,
 * response schemas and serializers would each change it. What was not made for clients goes to the log, and the client gets a 500.
 */
export function createSendError (realm: string, session: Session): SendError {
  return async (request, reply, error) => {
    let known = error instanceof TokensError ? error : new InternalError({ cause: error })
    let data: ErrorBody['data']
    if (known.statusCode === 401) {
      try {
        const user = session(request)
        // Refusals come in floods: where the host knows at once, the answer leaves at once.
        data = { session: (user instanceof Promise ? await user : user) !== null }
      } catch (cause) {
        known = new InternalError({ cause })
      }
    }
    const { code, message, statusCode } = known
    if (statusCode === 500) request.log.error({ err: known.cause }, 'application tokens: unexpected error')
    reply.headers(challenge(statusCode, presentsToken(request), realm))
    reply.code(statusCode).type('application/json; charset=utf-8').serializer(asIs).send(JSON.stringify({ code, message, data }))
  }
}

/**
 * The header of every 401, and of a 403 to a token (RFC 6750 §3).
 * @param isToken whether the request presents a credential of the plugin's
 */
export function challenge (statusCode: number, isToken: boolean, realm: string): { 'www-authenticate'?: string } {
  if (statusCode === 401) return { 'www-authenticate': `Bearer realm="${realm}"${isToken ? ', error="invalid_token"' : ''}` }
  if (statusCode === 403 && isToken) return { 'www-authenticate': `Bearer realm="${realm}", error="insufficient_scope"` }
  return {}
}

function asIs (payload: unknown): string {
  return payload as string
}
