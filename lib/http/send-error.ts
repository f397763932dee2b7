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
  async function toBody (request: FastifyRequest, error: TokensError): Promise<ErrorBody> {
    const { code, message, statusCode } = error
    return statusCode === 401 ? { code, message, data: { session: await session(request) !== null } } : { code, message }
  }

  return async (request, reply, error) => {
    let known = error instanceof TokensError ? error : new InternalError({ cause: error })
    const body = await toBody(request, known).catch((cause: unknown) => {
      known = new InternalError({ cause })
      return toBody(request, known as TokensError)
    })
    if (known.statusCode === 500) request.log.error({ err: known.cause }, 'application tokens: unexpected error')
    reply.headers(challenge(known.statusCode, presentedBy(request) !== null, realm))
    reply.code(known.statusCode).type('application/json; charset=utf-8').serializer(asIs).send(JSON.stringify(body))
  }
}

function asIs (payload: unknown): string {
  return payload as string
}
