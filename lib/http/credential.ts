import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Credential } from '../types.js'

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

interface Taken { parameter: string, value: unknown, url: string, originalUrl: string | undefined }

/** The credential that a string is, or `null` where it does not claim to be ours. */
export type Recognize = (secret: string) => Credential | null

const PRESENTED = Symbol('mmc-tokens.presented')

// A child of the host that was there before us has requests of its own, without what we decorate.
type State = Partial<Record<typeof PRESENTED, Presented | null>>

/** What `findPresented` found; `null` too where nobody looked, on a route that opts out or while the plugin is disabled. */
export function presentedBy (request: FastifyRequest): Presented | null {
  return (request as unknown as State)[PRESENTED] ?? null
}

const BEARER = /^bearer +(\S+)$/i

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
  const { parameter, value, url, originalUrl } = taken
  // The rest of the query may have been converted by the host's schema meanwhile.
  Object.assign(request.query as object, { [parameter]: value })
  Object.assign(request.raw, { url, originalUrl })
}

// `headers` holds the first Authorization header only.
function addBearers (rawHeaders: string[], recognize: Recognize, found: Credential[]): void {
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string
    if (name.length !== 13 || name.toLowerCase() !== 'authorization') continue
    const secret = BEARER.exec(String(rawHeaders[index + 1]))?.[1]
    const credential = secret === undefined ? null : recognize(secret)
    if (credential !== null) found.push(credential)
  }
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

  const { [parameter]: _taken, ...query } = request.query as Record<string, unknown>
  const [first, ...more] = values.filter(given => !ours.has(given))
  if (first !== undefined) query[parameter] = more.length > 0 ? [first, ...more] : first
  request.query = query
  const { raw } = request as { raw: { url: string, originalUrl?: string } }
  const { url, originalUrl } = raw
  raw.url = withoutValues(url, ours)
  if (originalUrl !== undefined) raw.originalUrl = withoutValues(originalUrl, ours)
  return { parameter, value, url, originalUrl }
}

/** The URL without the parameters that have one of these values, in whatever encoding. Fastify's router takes `#` and `;` for a `?`, too. */
function withoutValues (url: string, values: ReadonlySet<string>): string {
  const mark = url.search(/[?#]/)
  const start = (mark === -1 ? url.indexOf(';') : mark) + 1
  const rest = url.slice(start).split('&').filter(pair => isOther(pair.slice(pair.indexOf('=') + 1), values))
  return rest.length > 0 ? url.slice(0, start) + rest.join('&') : url.slice(0, start - 1)
}

function isOther (value: string, values: ReadonlySet<string>): boolean {
  try {
    return !values.has(decodeURIComponent(value))
  } catch {
    // Malformed, so it is not a token.
    return true
  }
}
