import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ErrorBody } from '../../schemas/error.js'
import { InternalError, TokensError } from '../errors.js'
import type { Session } from './authorize.js'
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
    const challenge = challengeFor(known.statusCode, presentedBy(request) !== null, realm)
    if (challenge !== undefined) reply.header('www-authenticate', challenge)
    reply.code(known.statusCode).type('application/json; charset=utf-8').serializer(asIs).send(JSON.stringify(body))
  }
}

/** RFC 6750 §3: the header of every 401, and of a 403 to a token. */
function challengeFor (statusCode: number, isToken: boolean, realm: string): string | undefined {
  if (statusCode === 401) return `Bearer realm="${realm}"${isToken ? ', error="invalid_token"' : ''}`
  if (statusCode === 403 && isToken) return `Bearer realm="${realm}", error="insufficient_scope"`
  return undefined
}

function asIs (payload: unknown): string {
  return payload as string
}
