import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import type { TSchema } from '@sinclair/typebox'
import type { FastifyError, FastifyReply, FastifyRequest, FastifySerializerCompiler } from 'fastify'
import { type ErrorBody, ErrorSchema } from '../../schemas/error.js'
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
  const serialize = createSerialize(ErrorSchema)
  const challenge = createChallenge(realm)

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
    reply.headers(challenge(statusCode, presentsToken(request)))
    sendAsIs(reply.code(statusCode), serialize({ code, message, data }))
  }
}

/**
 * For what an operation rejects with. What is not for the client is a 500, also if it has a status of its own, such as
 * an error of the host's pool.
 */
export function rethrow (cause: unknown): never {
  throw cause instanceof TokensError ? cause : new InternalError({ cause })
}

/** @param isToken whether the request presents a credential of the plugin's */
type Challenge = (statusCode: number, isToken: boolean) => { readonly 'www-authenticate'?: string }

/** The `WWW-Authenticate` of every 401, and of a 403 to a token (RFC 6750 §3). Made once: refusals come in floods. */
export function createChallenge (realm: string): Challenge {
  const bearer = `Bearer realm="${realm}"`
  const missing = { 'www-authenticate': bearer }
  const invalid = { 'www-authenticate': `${bearer}, error="invalid_token"` }
  const insufficient = { 'www-authenticate': `${bearer}, error="insufficient_scope"` }
  return (statusCode, isToken) => {
    if (statusCode === 401) return isToken ? invalid : missing
    return statusCode === 403 && isToken ? insufficient : {}
  }
}

/** Sends JSON as a string with its own serializer: the host's hooks and serializers would change an object. */
function sendAsIs (reply: FastifyReply, json: string): FastifyReply {
  return reply.type('application/json; charset=utf-8').serializer(asIs).send(json)
}

/** Sends what this schema allows, whatever schemas the host gives to the route. */
export function createSendJson (schema: TSchema): (reply: FastifyReply, payload: object) => FastifyReply {
  const serialize = createSerialize(schema)
  return (reply, payload) => sendAsIs(reply, serialize(payload))
}

function createSerialize (schema: TSchema): (payload: unknown) => string {
  const compile = SerializerSelector()() as FastifySerializerCompiler<unknown>
  return compile({ schema, method: '', url: '' })
}

/** Serializes a body of the host, or an error, as Fastify does without a schema. */
export function serializeAny (body: unknown): string {
  if (!(body instanceof Error)) return JSON.stringify(body)
  const { statusCode, code, error, message } = body as FastifyError & { error?: string }
  return JSON.stringify({ statusCode, code, error, message })
}

/** The host may send another body after all, if one of its hooks has failed. */
function asIs (payload: unknown): string {
  return typeof payload === 'string' ? payload : JSON.stringify(payload)
}
