import { isUtf8 } from 'node:buffer'
import { TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import type { TObject } from '@sinclair/typebox'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { InvalidError, mustBe, type TokensError, UnsupportedMediaTypeError } from '../errors.js'

/** Replaces an invalid body until the checks that precede the body have passed. */
class Unreadable {
  constructor (readonly reason: TokensError) {}
}

const UNREADABLE_JSON =
  'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype'

/**
 * Makes the parsers of `app` never fail: Fastify parses before a session is restored, and their errors are for admins
 * only.
 */
export function deferBodyErrors (app: FastifyInstance): void {
  // Fastify refuses a malformed content type before any parser runs.
  app.addHook('onRequest', (request, _reply, done) => {
    const { 'content-type': type } = request.headers
    if (type !== undefined) {
      const replacement = isJson(type) ? 'application/json' : 'application/octet-stream'
      request.raw.headers['content-type'] = replacement
      // A host may have assigned `request.headers`, which takes precedence.
      if (request.headers['content-type'] !== replacement) {
        request.headers = { ...request.headers, 'content-type': replacement }
      }
    }
    done()
  })
  app.removeAllContentTypeParsers()
  const parse = app.getDefaultJsonParser('error', 'error')
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    // By callback, it returns no promise.
    void parse(request, body.toString(), (failure, value) => {
      done(null, failure === null && isUtf8(body) ? value : new Unreadable(new InvalidError(UNREADABLE_JSON)))
    })
  })
  app.addContentTypeParser('*', (_request, _payload, done) => {
    done(null, new Unreadable(new UnsupportedMediaTypeError()))
  })
}

const CHARSETS = /;\s*charset\s*=\s*("?)([^\s;"]*)\1/gi

/** Whether a content type is JSON in a subset of UTF-8. */
function isJson (contentType: string): boolean {
  return /^\s*application\/json\s*(;|$)/i.test(contentType) &&
    [...contentType.matchAll(CHARSETS)].every(([, , charset = '']) => /^(utf-?8|us-ascii)$/i.test(charset))
}

type Validate = (value: unknown) => { value?: unknown, error?: Array<{ instancePath: string }> }

/**
 * Makes a hook that checks the body or the query, and throws the error that parsing left for later: InvalidError, which
 * names the property and what it must be, or UnsupportedMediaTypeError. Fastify's own validation would run before the
 * other checks, and by whatever schema the host gives to the route.
 */
export function createInputCheck (part: 'body' | 'query', schema: TObject) {
  const validate = TypeBoxValidatorCompiler({ schema, method: '', url: '', httpPart: part }) as Validate
  return async (request: FastifyRequest): Promise<void> => {
    const given = request[part]
    if (given instanceof Unreadable) throw given.reason
    const { value, error: [error] = [] } = validate(given)
    if (error !== undefined) {
      const property = error.instancePath.slice(1)
      const properties: Record<string, { description?: string }> = schema.properties
      throw mustBe(property === '' ? 'The body' : property, properties[property] ?? schema)
    }
    request[part] = value
  }
}
