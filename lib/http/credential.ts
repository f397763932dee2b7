import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Credential } from '../types.js'
import { urlWithout, withoutSecrets } from './url.js'

/** What a request presents of ours. */
export interface Presented {
  /** `null` where there are several, which is refused. */
  readonly credential: Credential | null
  /** The query and the URLs as they were, where a credential stood in them. */
  readonly taken: Taken | null
  /** Whether our hook came to it: a guard that runs earlier may have answered. */
  isJudged: boolean
  /** `request.user` as it was before the token took its place, and since. */
  users?: { before: unknown, token: unknown }
}

interface Taken { members: Record<string, unknown>, url: string, originalUrl: string | undefined }

/** The credential that a string is, or `null` where it does not claim to be ours. */
export type Recognize = (secret: string) => Credential | null

const PRESENTED = Symbol('mmc-tokens.presented')

// A child of the host that was there before us has requests of its own, without what we decorate.
type State = Partial<Record<typeof PRESENTED, Presented | null>>

/** What `findPresented` found; `null` too where nobody looked, on a route that opts out or while the plugin is disabled. */
export function presentedBy (request: FastifyRequest): Presented | null {
  return (request as unknown as State)[PRESENTED] ?? null
}

/** With the white space that HTTP allows around a part of a list (RFC 9110 §5.6.3), and no other. */
const BEARER = /^[ \t]*bearer +(\S+)[ \t]*$/i

const LEFT_ALONE = new WeakSet<FastifyRequest>()

/** Says that tokens were switched off when the request came by: they stay so for it. */
export function leaveAlone (request: FastifyRequest): void {
  LEFT_ALONE.add(request)
}

export function isLeftAlone (request: FastifyRequest): boolean {
  return LEFT_ALONE.has(request)
}

/** Makes room on every request for what it presents. */
export function decoratePresented (app: FastifyInstance): void {
  app.decorateRequest(PRESENTED, null)
}

// Every request of the host passes here, so it is written to allocate little.
/**
 * Finds the credential of ours that a request presents. One in the query is taken out of it and of the URL, so that nothing that runs
 * later meets it. No I/O.
 */
export function findPresented (request: FastifyRequest, parameter: string | false, recognize: Recognize): void {
  const found: Credential[] = []
  // A request that a test made up, such as by `injectWS` of @fastify/websocket, has no raw headers.
  const { headers, rawHeaders = ['authorization', String(headers.authorization)] } = request.raw
  addBearers(rawHeaders, recognize, found)
  const taken = parameter === false ? null : takeFromQuery(request, parameter, recognize, found)
  const [credential, second] = found
  if (credential !== undefined) (request as unknown as State)[PRESENTED] = { credential: second === undefined ? credential : null, taken, isJudged: false }
}

/** Makes the request what it would be without us. */
export function withdraw (request: FastifyRequest): void {
  const taken = presentedBy(request)?.taken
  const state = request as unknown as State
  state[PRESENTED] = null
  if (taken === undefined || taken === null) return
  const { members, url, originalUrl } = taken
  // The rest of the query may have been converted by the host's schema meanwhile.
  Object.assign(request.query as object, members)
  setUrls(request, url, originalUrl)
}

/**
 * `headers` holds the first Authorization header only, and a proxy joins several with commas. One of ours beside any other bearer is
 * several; a comma may also stand in the parameters of another scheme, such as Digest.
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
      // What is ours is known by the first two: a third changes nothing.
      const credential = found.length < 2 ? recognize(secret) : null
      if (credential !== null) found.push(credential)
    }
  }
  if (count > 1) found.push(...found.slice(0, 1))
}

function takeFromQuery (request: FastifyRequest, parameter: string, recognize: Recognize, found: Credential[]): Taken | null {
  const value = (request.query as Record<string, unknown>)[parameter]
  if (value === undefined) return null
  const values = [value].flat().filter(given => typeof given === 'string')
  const ours = new Set<string>()
  for (const secret of values) {
    const credential = recognize(secret)
    if (credential === null) continue
    found.push(credential)
    ours.add(secret)
  }
  if (ours.size === 0) return null

  const { [parameter]: _taken, ...others } = request.query as Record<string, unknown>
  const [first, ...more] = values.filter(given => !ours.has(given))
  if (first !== undefined) others[parameter] = more.length > 0 ? [first, ...more] : first
  const { query, members } = withoutSecrets(others, ours)
  request.query = query
  const { url, originalUrl } = request.raw as { url: string, originalUrl?: string }
  setUrls(request, urlWithout(url, ours), originalUrl === undefined ? undefined : urlWithout(originalUrl, ours))
  return { members: { ...members, [parameter]: value }, url, originalUrl }
}

function setUrls (request: FastifyRequest, url: string, originalUrl: string | undefined): void {
  const raw: { url?: string | undefined, originalUrl?: string, headers: Record<string, unknown> } = request.raw
  raw.url = url
  if (originalUrl !== undefined) raw.originalUrl = originalUrl
  // HTTP/2 has it there as well.
  if (raw.headers[':path'] !== undefined) raw.headers[':path'] = url
  // A hook that ran before may have asked for it, and so have fixed it.
  const value = originalUrl ?? url
  if (request.originalUrl !== value) Object.defineProperty(request, 'originalUrl', { value, configurable: true, enumerable: true })
}
