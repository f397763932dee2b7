import type { FastifyRequest } from 'fastify'
import type { Tokens } from '../tokens/tokens.js'
import type { Credential } from '../types.js'
import { type RequestState, stateFor, stateOf } from './request-state.js'
import { type Query, urlWithout, urlWithoutPair, withoutSecrets } from './remove-secret.js'

type Recognize = Tokens['recognize']

const NONE: readonly string[] = []

/** With the whitespace that HTTP allows before list members (RFC 9110 §5.6.3). */
const BEARER = /^[ \t]*bearer +/i

/**
 * Finds the plugin's credential in a request, without I/O. A credential in the query is removed from it and from the
 * URL, so that nothing that runs later sees it.
 */
export function findCredential (request: FastifyRequest, parameter: string | false, recognize: Recognize): void {
  // Runs for every request of the host: the route's options are asked last.
  const authorizations = authorizationsOf(request)
  const value = parameter === false ? undefined : (request.query as Query)[parameter]
  if (authorizations === NONE && value === undefined) return
  if (request.routeOptions.config.applicationTokens === false) return
  const found: Credential[] = []
  if (authorizations !== NONE) addBearers(authorizations, recognize, found)
  const original = value === undefined ? null : takeFromQuery(request, String(parameter), value, recognize, found)
  const [credential, second] = found
  if (credential === undefined) return
  const state = stateFor(request)
  state.credential = second === undefined ? credential : 'several'
  state.original = original
}

/** All Authorization headers: `headers` has the first alone, and not those of `rawHeaders` that the host deleted. */
function authorizationsOf ({ raw }: FastifyRequest): readonly string[] {
  const { rawHeaders } = raw
  // Requests that are made up, such as by `injectWS` of @fastify/websocket, have no raw headers.
  if (rawHeaders === undefined) return raw.headers.authorization === undefined ? NONE : [raw.headers.authorization]
  let found: string[] | undefined
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string
    if (name.length !== 13 || name.toLowerCase() !== 'authorization') continue
    found ??= []
    found.push(rawHeaders[index + 1] as string)
  }
  return found === undefined || raw.headers.authorization === undefined ? NONE : found
}

/** Makes the request what it would be without the plugin. */
export function restoreCredential (request: FastifyRequest): void {
  const original = stateOf(request)?.original
  Object.assign(stateFor(request), { credential: null, original: null })
  if (!original) return
  // The rest of the query may have been converted by the host's schema since.
  Object.assign(request.query as object, original.members)
  setUrls(request, original.url, original.originalUrl)
}

/**
 * A proxy joins several headers with commas. One of the plugin's beside any other bearer is several. Other schemes,
 * such as Digest, have commas in their parameters.
 */
function addBearers (authorizations: readonly string[], recognize: Recognize, found: Credential[]): void {
  let count = 0
  for (const authorization of authorizations) {
    for (const part of authorization.includes(',') ? authorization.split(',') : [authorization]) {
      const secret = bearerOf(part)
      if (secret === undefined) continue
      count++
      // A third changes nothing.
      const credential = found.length < 2 ? recognize(secret) : null
      if (credential !== null) found.push(credential)
    }
  }
  if (count > 1) found.push(...found.slice(0, 1))
}

/** The secret; one expression for all of it would cost as much as the rest of a hit. */
function bearerOf (part: string): string | undefined {
  const scheme = BEARER.exec(part)?.[0]
  if (scheme === undefined) return undefined
  let end = part.length
  while (part[end - 1] === ' ' || part[end - 1] === '\t') end--
  const secret = part.slice(scheme.length, end)
  return secret === '' || /\s/.test(secret) ? undefined : secret
}

function takeFromQuery (
  request: FastifyRequest, parameter: string, value: unknown, recognize: Recognize, found: Credential[]
): RequestState['original'] {
  const values = typeof value === 'string' ? [value] : [value].flat().filter(given => typeof given === 'string')
  const taken = values.filter(secret => {
    const credential = recognize(secret)
    if (credential !== null) found.push(credential)
    return credential !== null
  })
  if (taken.length === 0) return null

  const { url, originalUrl } = request.raw as { url: string, originalUrl?: string }
  const rest = typeof value === 'string' && originalUrl === undefined ? urlWithoutPair(url, parameter, value) : null
  if (rest !== null && Object.keys(request.query as Query).length === 1) {
    request.query = {}
    setUrls(request, rest, undefined)
    return { members: { [parameter]: value }, url, originalUrl }
  }
  const secrets = new Set(taken)
  const { [parameter]: _taken, ...others } = request.query as Query
  const [first, ...more] = values.filter(given => !secrets.has(given))
  if (first !== undefined) others[parameter] = more.length > 0 ? [first, ...more] : first
  const { query, members } = withoutSecrets(others, secrets)
  request.query = query
  setUrls(request, urlWithout(url, secrets), originalUrl === undefined ? undefined : urlWithout(originalUrl, secrets))
  return { members: { ...members, [parameter]: value }, url, originalUrl }
}

function setUrls (request: FastifyRequest, url: string, originalUrl: string | undefined): void {
  const raw: { url?: string | undefined, originalUrl?: string } = request.raw
  raw.url = url
  if (originalUrl !== undefined) raw.originalUrl = originalUrl
  // HTTP/2 has it as a header, too. Reading them makes Node.js build the whole object.
  if (request.raw.httpVersionMajor === 2) request.raw.headers[':path'] = url
  // Fastify keeps what an earlier hook has read.
  const value = originalUrl ?? url
  if (request.originalUrl === value) return
  Object.defineProperty(request, 'originalUrl', { value, configurable: true, enumerable: true })
}
