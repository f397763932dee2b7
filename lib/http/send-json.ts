import type { FastifyError, FastifyReply } from 'fastify'

/** Sends JSON as a string with its own serializer: the host's hooks and serializers would change an object. */
export function sendAsIs (reply: FastifyReply, json: string): FastifyReply {
  return reply.type('application/json; charset=utf-8').serializer(asIs).send(json)
}

/** Sends what the schema of the route's 200 allows. */
export function sendJson (reply: FastifyReply, payload: object): FastifyReply {
  return sendAsIs(reply, reply.serializeInput(payload as Record<string, unknown>, '200') as string)
}

/** Serializes an error body of the host, or an error, as Fastify does without a schema. */
export function serializeError (body: unknown): string {
  if (!(body instanceof Error)) return JSON.stringify(body)
  const { statusCode, code, error, message } = body as FastifyError & { error?: string }
  return JSON.stringify({ statusCode, code, error, message })
}

/** The host may send another body after all, if one of its hooks has failed. */
function asIs (payload: unknown): string {
  return typeof payload === 'string' ? payload : JSON.stringify(payload)
}
