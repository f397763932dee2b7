import type { FastifyRequest } from 'fastify'
import type { Tokens } from '../tokens/tokens.js'
import type { Credential } from '../types.js'
import { remember, type RequestState, stateOf } from './request-state.js'
import { urlWithout, withoutSecrets } from './remove-secret.js'

type Recognize = Tokens['recognize']

/** With the whitespace that HTTP allows around list members (RFC 9110 §5.6.3). */
const BEARER = /^[ \t]*bearer +(\S+)[ \t]*$/i

/**
 * Finds the plugin's credential in a request, without I/O. A credential in the query is removed from it and from the
 * URL, so that nothing that runs later sees it.
 */
export function findCredential (request: FastifyRequest, parameter: string | false, recognize: Recognize): void {
  // Runs for every request of the host: this check is cheap, the route's options are not.
  if (!mayPresent(request, parameter) || request.routeOptions.config.applicationTokens === false) return
  const found: Credential[] = []
  // Requests that are made up, such as by `injectWS` of @fastify/websocket, have no raw headers.
  const { headers, rawHeaders = ['authorization', String(headers.authorization)] } = request.raw
  addBearers(rawHeaders, recognize, found)
  const original = parameter === false ? null : takeFromQuery(request, parameter, recognize, found)
  const [credential, second] = found
  if (credential === undefined) return
  remember(request, { credential: second === undefined ? credential : 'several', original })
}

function mayPresent ({ raw, query }: FastifyRequest, parameter: string | false): boolean {
  if (raw.headers.authorization !== undefined) return true
  return parameter !== false && (query as Record<string, unknown>)[parameter] !== undefined
}

/** Makes the request what it would be without the plugin. */
export function restoreCredential (request: FastifyRequest): void {
  const original = stateOf(request)?.original
  remember(request, { credential: null, original: null })
  if (!original) return
  // The rest of the query may have been converted by the host's schema since.
  Object.assign(request.query as object, original.members)
  setUrls(request, original.url, original.originalUrl)
}

/**
 * `headers` holds only the first Authorization header, and a proxy joins several with commas. One of the plugin's
 * beside any other bearer is several. Other schemes, such as Digest, have commas in their parameters.
 */
function addBearers (rawHeaders: string[], recognize: Recognize, found: Credential[]): void {
  let count = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string
    if (name.length !== 13 || name.toLowerCase() !== 'authorization') continue
    for (const part of String(rawHeaders[index + 1]).split(',')) {
      const secret = BEARER.exec(part)?.[1]
      if (secret === undefined) continue
      count++
      // A third changes nothing.
      const credential = found.length < 2 ? recognize(secret) : null
      if (credential !== null) found.push(credential)
    }
  }
  if (count > 1) found.push(...found.slice(0, 1))
}

function takeFromQuery (
  request: FastifyRequest, parameter: string, recognize: Recognize, found: Credential[]
): RequestState['original'] {
  const value = (request.query as Record<string, unknown>)[parameter]
  if (value === undefined) return null
  const values = [value].flat().filter(given => typeof given === 'string')
  const secrets = new Set<string>()
  for (const secret of values) {
    const credential = recognize(secret)
    if (credential === null) continue
    found.push(credential)
    secrets.add(secret)
  }
  if (secrets.size === 0) return null

  const { [parameter]: _taken, ...others } = request.query as Record<string, unknown>
  const [first, ...more] = values.filter(given => !secrets.has(given))
  if (first !== undefined) others[parameter] = more.length > 0 ? [first, ...more] : first
  const { query, members } = withoutSecrets(others, secrets)
  request.query = query
  const { url, originalUrl } = request.raw as { url: string, originalUrl?: string }
  setUrls(request, urlWithout(url, secrets), originalUrl === undefined ? undefined : urlWithout(originalUrl, secrets))
  return { members: { ...members, [parameter]: value }, url, originalUrl }
}

function setUrls (request: FastifyRequest, url: string, originalUrl: string | undefined): void {
  const raw: { url?: string | undefined, originalUrl?: string, headers: Record<string, unknown> } = request.raw
  raw.url = url
  if (originalUrl !== undefined) raw.originalUrl = originalUrl
  // HTTP/2 has it as a header, too.
  if (raw.headers[':path'] !== undefined) raw.headers[':path'] = url
  // Fastify keeps what an earlier hook has read.
  const value = originalUrl ?? url
  if (request.originalUrl === value) return
  Object.defineProperty(request, 'originalUrl', { value, configurable: true, enumerable: true })
}
