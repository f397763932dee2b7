import type { FastifyRequest } from 'fastify'
import Negotiator from 'negotiator'
import { NotAcceptableError, type TokensError } from '../errors.js'

/**
 * Checks that `Accept` asks for a version of the representation that is served (RFC 9110 §12.5.1); without a version it is the newest.
 * @throws NotAcceptableError, whose message lists the versions
 */
export function checkVersion (request: FastifyRequest, versions: readonly number[]): void {
  const { accept } = request.headers
  if (accept === undefined || accept.trim() === '') return
  const served = mediaTypes(versions)
  if (new Negotiator({ headers: { accept: withoutOthers(accept) } }).mediaTypes(served).length > 0) return
  throw notAcceptable(served)
}

const PARAMETER = /;\s*([^\s=;,"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)/g

/** What `Accept` says without parameters that pick no representation, such as `charset`, which are ignored. */
function withoutOthers (accept: string): string {
  return accept.replace(PARAMETER, (_parameter, name: string, value: string) => /^(version|q)$/i.test(name) ? `;${name}=${value}` : '')
}

/** What is served, the newest version first. */
export function mediaTypes (versions: readonly number[]): string[] {
  return versions.toSorted((a, b) => b - a).map(version => `application/json;version=${version}`)
}

/** 406: names what is served. */
export function notAcceptable (served: string[]): TokensError {
  return new NotAcceptableError(`Accept must allow one of: ${served.join(', ')}`)
}
