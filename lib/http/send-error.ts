import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ErrorBody } from '../../schemas/error.js'
import { InternalError, TokensError } from '../errors.js'
import { challenge, type Session } from './authorize.js'
import { presentedBy } from './credential.js'

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
    reply.headers(challenge(statusCode, presentedBy(request) !== null, realm))
    reply.code(statusCode).type('application/json; charset=utf-8').serializer(asIs).send(JSON.stringify({ code, message, data }))
  }
}

function asIs (payload: unknown): string {
  return payload as string
}
