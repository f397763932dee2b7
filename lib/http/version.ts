import type { FastifyRequest } from 'fastify'
import Negotiator from 'negotiator'
import { NotAcceptableError } from '../errors.js'

/**
 * Checks that `Accept` asks for a version of the representation that is served (RFC 9110 §12.5.1); without a version it is the newest.
 * @throws NotAcceptableError, whose message lists the versions
 */
export function checkVersion (request: FastifyRequest, versions: readonly number[]): void {
  const { accept } = request.headers
  if (accept === undefined || accept.trim() === '') return
  const served = versions.toSorted((a, b) => b - a).map(version => `application/json;version=${version}`)
  if (new Negotiator(request.raw).mediaTypes(served).length > 0) return
  throw new NotAcceptableError(`Accept must allow one of: ${served.join(', ')}`)
}
