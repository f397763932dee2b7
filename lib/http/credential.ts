import type { FastifyRequest } from 'fastify'
import type { Tokens } from '../tokens/tokens.js'
import type { Credential } from '../types.js'
import { type RequestState, stateFor, stateOf } from './request-state.js'
import { type Query, urlWithout, urlWithoutQuery, withoutSecrets } from './remove-secret.js'

type Recognize = Tokens['recognize']

const NONE: readonly string[] = []

const BEARER = 'bearer '

/**
 * Finds the plugin's credential in a request, without I/O. A credential in the query is removed from it and from the
 * URL, so that nothing that runs later sees it.
 */
export function findCredential (request: FastifyRequest, parameter: string | false, recognize: Recognize): void {
  // Runs for every request of the host, so the route's options are read last.
  const authorizations = authorizationsOf(request)
  const value = parameter === false ? undefined : (request.query as Query | null | undefined)?.[parameter]
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

/** All Authorization headers. `headers` has the first of them only, and what the host replaced or deleted. */
function authorizationsOf ({ raw }: FastifyRequest): readonly string[] {
  const { rawHeaders } = raw
  // Simulated requests, such as those of `injectWS` of @fastify/websocket, have no raw headers.
  if (rawHeaders === undefined) return raw.headers.authorization === undefined ? NONE : [raw.headers.authorization]
  let found: string[] | undefined
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string
    if (name.length !== 13 || name.toLowerCase() !== 'authorization') continue
    found ??= []
    found.push(rawHeaders[index + 1] as string)
  }
  if (found === undefined || raw.headers.authorization === undefined) return NONE
  return found[0] === raw.headers.authorization ? found : [raw.headers.authorization]
}

/** Restores the request to what it would be without the plugin. */
export function restoreCredential (request: FastifyRequest): void {
  const original = stateOf(request)?.original
  Object.assign(stateFor(request), { credential: null, original: null })
  if (!original) return
  // Only these: the host's schema may have converted other members of the query since.
  Object.assign(request.query as object, original.members)
  setUrls(request, original.url, original.originalUrl)
}

/**
 * A proxy may join headers with commas. A token of the plugin together with any other bearer counts as several. Other
 * schemes, such as Digest, have commas in their parameters.
 */
function addBearers (authorizations: readonly string[], recognize: Recognize, found: Credential[]): void {
  let count = 0
  for (const authorization of authorizations) {
    for (const part of authorization.includes(',') ? authorization.split(',') : [authorization]) {
      const secret = bearerOf(part)
      if (secret === '') continue
      // Two are enough to refuse the request.
      const credential = found.length < 2 ? recognize(secret) : null
      // Last, since it reads every character. A token has no whitespace.
      if (credential === null && /\s/.test(secret)) continue
      count++
      if (credential !== null) found.push(credential)
    }
  }
  if (count > 1) found.push(...found.slice(0, 1))
}

/**
 * The secret of a bearer header, or an empty string. HTTP allows whitespace around list members (RFC 9110 §5.6.3). A
 * regular expression, for the scheme alone, would make a hit 1.03 times as expensive.
 */
function bearerOf (part: string): string {
  let [start, end] = [0, part.length]
  while (part[start] === ' ' || part[start] === '\t') start++
  if (part.slice(start, start + BEARER.length).toLowerCase() !== BEARER) return ''
  start += BEARER.length
  while (part[start] === ' ') start++
  while (part[end - 1] === ' ' || part[end - 1] === '\t') end--
  return part.slice(start, end)
}

function takeFromQuery (
  request: FastifyRequest, parameter: string, value: unknown, recognize: Recognize, found: Credential[]
): RequestState['original'] {
  const { url, originalUrl } = request.raw as { url: string, originalUrl?: string }
  const given = request.query as Query
  // The usual query. The general way, below, would make a hit 1.4 times as expensive.
  if (typeof value === 'string' && originalUrl === undefined && Object.keys(given).length === 1) {
    const path = urlWithoutQuery(url, parameter, value)
    if (path !== null) {
      const credential = recognize(value)
      if (credential === null) return null
      found.push(credential)
      request.query = {}
      setUrls(request, path, undefined)
      return { members: given, url, originalUrl }
    }
  }
  const values = typeof value === 'string' ? [value] : [value].flat().filter(given => typeof given === 'string')
  const secrets = new Set(values.filter(secret => {
    const credential = recognize(secret)
    if (credential !== null) found.push(credential)
    return credential !== null
  }))
  if (secrets.size === 0) return null
  const { [parameter]: _taken, ...others } = given
  const [first, ...more] = values.filter(value => !secrets.has(value))
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
  // HTTP/2 has the URL as a header, too. For HTTP/1.1, reading `headers` would make Node.js build the whole object.
  if (request.raw.httpVersionMajor === 2) {
    const { headers, rawHeaders } = request.raw
    headers[':path'] = url
    rawHeaders[rawHeaders.findIndex((name, index) => index % 2 === 0 && name === ':path') + 1] = url
  }
  // Fastify caches `originalUrl` once a hook has read it.
  const value = originalUrl ?? url
  if (request.originalUrl === value) return
  Object.defineProperty(request, 'originalUrl', { value, configurable: true, enumerable: true })
}
