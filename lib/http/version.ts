import type { FastifyRequest } from 'fastify'
import Negotiator from 'negotiator'
import { NotAcceptableError, type TokensError } from '../errors.js'

/**
 * Checks that `Accept` allows a version that is served (RFC 9110 §12.5.1); without a version it is the newest.
 * @throws NotAcceptableError, which lists the versions
 */
export function checkVersion (request: FastifyRequest, versions: readonly number[]): void {
  const { accept } = request.headers
  if (accept === undefined || accept.trim() === '') return
  const served = mediaTypes(versions)
  if (new Negotiator({ headers: { accept: withoutOthers(accept) } }).mediaTypes(served).length > 0) return
  throw notAcceptable(served)
}

const PARAMETER = /;\s*([^\s=;,"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)/g

/** The wildcards of Negotiator that HTTP does not have: a type alone, and the value of a parameter. */
const TYPE_WILDCARD = /(^|,)(\s*)\*\/(?!\*)/g
const VALUE_WILDCARD = /^"?\*"?$/

/** Removes the parameters that are ignored, such as `charset`. */
function withoutOthers (accept: string): string {
  return accept.replace(PARAMETER, (_parameter, name: string, value: string) => {
    if (!/^(version|q)$/i.test(name)) return ''
    return VALUE_WILDCARD.test(value) ? ';version=' : `;${name}=${value}`
  }).replace(TYPE_WILDCARD, '$1$2x/')
}

/** The media types that are served, newest version first. */
export function mediaTypes (versions: readonly number[]): string[] {
  return versions.toSorted((a, b) => b - a).map(version => `application/json;version=${version}`)
}

export function notAcceptable (served: string[]): TokensError {
  return new NotAcceptableError(`Accept must allow one of: ${served.join(', ')}`)
}
