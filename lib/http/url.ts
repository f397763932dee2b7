const ESCAPE = /%[\da-f]{2}/gi
/** What needs no escape (RFC 3986 §2.3), of which a JWT is made. */
const UNRESERVED = /[\w.~-]/
/** An escape, or what could be JWTs. */
const RUN = /%[\da-f]{2}|[\w.-]+/gi
/** A part of a URL with the mark before it. */
const PART = /[?&;#]?[^?&;#]*/g

/** Takes secrets out of text: whatever stands beside one, its payload is between dots. */
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
 * A URL without these secrets, in whatever encoding, and without the parameters that had nothing else. Where a parser of the host found
 * them in another form, it has no query any more.
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

/** The members of a query without these secrets, and those that had one, as they were. */
export function withoutSecrets (query: Record<string, unknown>, secrets: Iterable<string>): { query: Record<string, unknown>, members: Record<string, unknown> } {
  const strip = createStrip(secrets)
  const kept: Record<string, unknown> = {}
  const members: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(query)) {
    const stripped = stripDeeply(value, strip)
    const isKept = strip(key) === key
    if (isKept) kept[key] = stripped
    if (!isKept || stripped !== value) members[key] = value
  }
  return { query: kept, members }
}

/** The same value where it has none. */
function stripDeeply (value: unknown, strip: Strip): unknown {
  if (typeof value === 'string') return strip(value)
  if (typeof value !== 'object' || value === null) return value
  const before = Object.entries(value)
  const after = before.map(([key, member]) => [strip(key), stripDeeply(member, strip)] as const)
  if (after.every(([key, member], index) => key === before[index]?.[0] && member === before[index][1])) return value
  return Array.isArray(value) ? after.map(([, member]) => member) : Object.fromEntries(after)
}
