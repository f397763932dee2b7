import type { FastifyInstance, FastifyRequest } from 'fastify'

/** What a request presents of ours. */
export interface Presented {
  /** The credential; `null` where there are several, which is refused. */
  credential: string | null
  /** Whether one stood in the query. */
  isInQuery: boolean
  /** Makes the request what it would be without us. */
  forget: () => void
}

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

/**
 * Finds the credential of ours that a request presents. One in the query is taken out of it and of the URL, so that nothing that runs
 * later meets it. No I/O.
 */
export function findPresented (request: FastifyRequest, parameter: string | false, isOurs: (credential: string) => boolean): void {
  const inHeaders = request.raw.headers.authorization === undefined ? [] : bearerTokens(request.raw.rawHeaders).filter(isOurs)
  const { query, raw } = request as { query: Record<string, unknown>, raw: { url?: string, originalUrl?: string } }
  const { url, originalUrl } = raw
  const inQuery = parameter === false ? [] : takeFromQuery(request, parameter, isOurs)
  const [credential = null, ...others] = inHeaders.concat(inQuery)
  if (credential === null) return
  (request as unknown as State)[PRESENTED] = {
    credential: others.length > 0 ? null : credential,
    isInQuery: inQuery.length > 0,
    forget () {
      (request as unknown as State)[PRESENTED] = null
      if (parameter === false || inQuery.length === 0) return
      // The rest of the query may have been converted by the host's schema meanwhile.
      Object.assign(request.query as object, { [parameter]: query[parameter] })
      Object.assign(raw, { url, originalUrl })
    }
  }
}

// `headers` holds the first Authorization header only.
function bearerTokens (rawHeaders: string[]): string[] {
  return rawHeaders.flatMap((name, index) => {
    if (index % 2 !== 0 || name.toLowerCase() !== 'authorization') return []
    return BEARER.exec(String(rawHeaders[index + 1]))?.slice(1) ?? []
  })
}

function isString (value: unknown): value is string {
  return typeof value === 'string'
}

function takeFromQuery (request: FastifyRequest, parameter: string, isOurs: (credential: string) => boolean): string[] {
  const { [parameter]: given, ...query } = request.query as Record<string, unknown>
  const values = [given].flat().filter(isString)
  const credentials = values.filter(isOurs)
  if (credentials.length === 0) return credentials
  const [first, ...more] = values.filter(value => !credentials.includes(value))
  if (first !== undefined) query[parameter] = more.length > 0 ? [first, ...more] : first
  request.query = query
  const { raw } = request as { raw: { url?: string, originalUrl?: string } }
  for (const property of ['url', 'originalUrl'] as const) {
    const url = raw[property]
    if (url !== undefined) raw[property] = withoutValues(url, credentials)
  }
  return credentials
}

/** The URL without the parameters that have one of these values, in whatever encoding. Fastify's router takes `#` and `;` for a `?`, too. */
function withoutValues (url: string, values: string[]): string {
  const mark = url.search(/[?#]/)
  const start = (mark === -1 ? url.indexOf(';') : mark) + 1
  const rest = url.slice(start).split('&').filter(pair => !values.includes(decode(pair.slice(pair.indexOf('=') + 1))))
  return rest.length > 0 ? url.slice(0, start) + rest.join('&') : url.slice(0, start - 1)
}

function decode (value: string): string {
  try {
    return decodeURIComponent(value)
  } catch {
    // Malformed, so it is not a token.
    return value
  }
}
