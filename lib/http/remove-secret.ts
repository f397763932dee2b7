const ESCAPE = /%[\da-f]{2}/gi
/** Characters that need no escape (RFC 3986 §2.3); JWTs consist of them. */
const UNRESERVED = /[\w.~-]/
/** An escape, or what may be a JWT. */
const RUN = /%[\da-f]{2}|[\w.-]+/gi
/** A part of a URL with the delimiter before it. */
const PART = /[?&;#]?[^?&;#]*/g

/** Removes secrets from text. Each is found by its payload, between dots, whatever text surrounds the secret. */
type Strip = (text: string) => string

function createStrip (secrets: Iterable<string>): Strip {
  const payloads = new Set<string>()
  for (const secret of secrets) {
    const [first, payload = first] = secret.split('.')
    payloads.add(payload as string)
  }
  return text => text.replace(RUN, run => run.split('.').some(part => payloads.has(part)) ? '' : run)
}

/**
 * A fast form of `urlWithout` for the usual URL, `/path?token=…`. Returns `null` if the URL is unusual: if it has an
 * escape or another parameter, or may contain the secret elsewhere, too.
 */
export function urlWithoutQuery (url: string, parameter: string, secret: string): string | null {
  const start = url.indexOf('?')
  // `endsWith` would cost several times as much.
  const isUsual = url.length === start + `?${parameter}=`.length + secret.length && url.slice(-secret.length) === secret
  if (!isUsual) return null
  const path = url.slice(0, start)
  const payload = secret.slice(secret.indexOf('.') + 1, secret.lastIndexOf('.'))
  return path.includes('%') || path.includes(payload) ? null : path
}

/**
 * A URL without these secrets, in any percent-encoding, and without parameters that held nothing else. Removes the
 * whole query if it finds none: the host's parser may decode the query in its own way.
 */
export function urlWithout (url: string, secrets: Iterable<string>): string {
  const strip = createStrip(secrets)
  let [left, mark] = ['', '']
  for (const [part] of url.matchAll(PART)) {
    const plain = part.replace(ESCAPE, escape => {
      const char = String.fromCharCode(Number.parseInt(escape.slice(1), 16))
      return UNRESERVED.test(char) ? char : escape
    })
    const stripped = strip(plain)
    if (stripped !== plain && /^[?&;#][^=]*=$/.test(stripped)) {
      mark ||= stripped.charAt(0)
      continue
    }
    const kept = stripped === plain ? part : stripped
    left += mark !== '' && /^[&;]/.test(kept) ? mark + kept.slice(1) : kept
    mark = ''
  }
  return left === url ? url.replace(/[?#;].*/s, '') : left
}

export type Query = Record<string, unknown>

/** A query without these secrets, and the original members that had one. */
export function withoutSecrets (given: Query, secrets: Iterable<string>): { query: Query, members: Query } {
  const strip = createStrip(secrets)
  const query = { ...given }
  // A member may be called `__proto__`.
  const members = Object.create(null) as Query
  for (const [key, value] of Object.entries(given)) {
    const stripped = stripDeeply(value, strip)
    const isKept = strip(key) === key
    if (isKept) query[key] = stripped
    else delete query[key]
    if (!isKept || stripped !== value) members[key] = value
  }
  return { query, members }
}

/** Returns the same value if it has none. */
function stripDeeply (value: unknown, strip: Strip): unknown {
  if (typeof value === 'string') return strip(value)
  if (typeof value !== 'object' || value === null) return value
  const before = Object.entries(value)
  const after = before.map(([key, member]) => [strip(key), stripDeeply(member, strip)] as const)
  if (after.every(([key, member], index) => key === before[index]?.[0] && member === before[index][1])) return value
  return Array.isArray(value) ? after.map(([, member]) => member) : Object.fromEntries(after)
}
