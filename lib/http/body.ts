import type { TObject } from '@sinclair/typebox'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { InvalidError, mustBe, type TokensError, UnsupportedMediaTypeError } from '../errors.js'

/** Stands in for a body that can't be read, until it is its turn to be judged. */
class Unreadable {
  constructor (readonly reason: TokensError) {}
}

const UNREADABLE_JSON = 'The body must be valid JSON, without the properties __proto__ and constructor.prototype'

/**
 * Makes the parsers of `app` never fail. Fastify parses before a session is restored, so an error of theirs would tell anybody what
 * only an admin may know.
 */
export function deferBodyErrors (app: FastifyInstance): void {
  // A malformed content type is refused before any parser runs.
  app.addHook('onRequest', (request, _reply, done) => {
    const type = request.raw.headers['content-type']
    if (type !== undefined) request.raw.headers['content-type'] = isJson(type) ? 'application/json' : 'application/octet-stream'
    done()
  })
  app.removeAllContentTypeParsers()
  const parse = app.getDefaultJsonParser('error', 'error')
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body: string, done) => {
    parse(request, body, (failure, value) => {
      done(null, failure === null ? value : new Unreadable(new InvalidError(UNREADABLE_JSON)))
    })
  })
  app.addContentTypeParser('*', (_request, _payload, done) => {
    done(null, new Unreadable(new UnsupportedMediaTypeError()))
  })
}

function isJson (contentType: string): boolean {
  return /^\s*application\/json\s*(;|$)/i.test(contentType)
}

/**
 * Judges the body of a request for a new token.
 * @throws UnsupportedMediaTypeError, InvalidError, which names the property and says what it must be
 */
export function checkBody (request: FastifyRequest, schema: TObject): void {
  if (request.body instanceof Unreadable) throw request.body.reason
  checkInput(request, schema)
}

/**
 * Throws what validation found, now that it is its turn.
 * @throws InvalidError
 */
export function checkInput ({ validationError }: FastifyRequest, schema: TObject): void {
  if (validationError === undefined) return
  const [error] = validationError.validation as [{ instancePath: string }]
  const property = error.instancePath.slice(1)
  const properties: Record<string, { description?: string }> = schema.properties
  throw mustBe(property === '' ? 'The body' : property, properties[property] ?? schema)
}
