import { HEADER } from '../tokens/jwt.js'
import { createFinder } from './finder.js'
import { patternOf, placesOf } from './spelling.js'

/** Removes secrets from a log line. */
export type Redact = (line: string) => string

/** A query that is logged as an object: where it begins and ends (-1: unknown), and the redacted line before it. */
interface Query { start: number, end: number, before: string }

const REDACTED = '[Redacted]'
const REDACTED_JSON = `"${REDACTED}"`

/**
 * Values in a line that are redacted one by one; a token counts as four. What follows is redacted together with its
 * surroundings, so that a flood costs little.
 */
const MANY = 32
/** Escapes that are examined in a line with a token. */
const MANY_ESCAPES = 64
/** A value of this length may be a token. */
const TOKEN_LENGTH = 150

/** The marks before a key. Fastify's router accepts `#` and `;` as well as `?`. */
const MARKS = '?&#;'

/** In a log line `\` begins an escape of JSON. */
const VALUE = /[^& "\\]*(?:\\["\\][^& "\\]*)*/y
const STRING_REST = '[^"\\\\]*(?:\\\\.[^"\\\\]*)*'
/** The rest of a string, and the strings that follow it in an array. */
const STRINGS = new RegExp(`${STRING_REST}(?:","${STRING_REST}(?="[,\\]]))*`, 'y')
/** An escape and the rest of the string. */
const ESCAPED = new RegExp(`%${STRING_REST}`, 'g')

/** A string, another scalar, or the bracket that begins an object or an array. */
const JSON_VALUE = new RegExp(`"${STRING_REST}"|[{[]|[^"{}[\\],]+`, 'y')
/** Up to the next bracket. */
const TO_BRACKET = new RegExp(`[^"{}[\\]]*(?:"${STRING_REST}"[^"{}[\\]]*)*[{}[\\]]`, 'y')

/** A character that needs no escape (RFC 3986 §2.3), escaped once or more often, before many such characters. */
const HIDDEN = /%(?:25)*(?:2[DEde]|3\d|[46][1-9A-Fa-f]|[57][\dAa]|5[Ff]|7[Ee])[\w.%~-]{40}/y

/**
 * Redacts the values of a query parameter, and tokens of this issuer anywhere but after `Bearer `: a parser of the host
 * may find a token where no key is. The work is linear, without exceptions, and small for any text.
 */
export function createRedact (parameter: string, issuer: string): Redact {
  const name = patternOf(parameter)
  // `token=`, or such as `token[0][a]=`.
  const key = new RegExp(`[${MARKS}]${name}(?:=|(?:\\[|%5[bB])[^${MARKS}= "\\\\]*=)`, 'y')
  // Some serializers of requests write the query as an object. After a bracket or a comma a quote begins a string.
  const member = new RegExp(`[{,]"${name}(?:(?:\\[|%5[bB])${STRING_REST})?":`, 'y')
  const header = HEADER.slice(0, -1)
  const jwt = new RegExp(`${header}(?:\\.|%2[eE])([\\w-]+)(?:\\.|%2[eE])[\\w-]*`, 'y')
  const claim = `"iss":${JSON.stringify(issuer)}`

  const finder = createFinder([
    [MARKS, ...placesOf(parameter, '=').slice(0, 6)],
    ['{,', '"', ...placesOf(parameter, '"').slice(0, 5)],
    // Only the header of HS256 contains it.
    [...header.slice(6, 14)],
    // The ends of `query":{` and `rawPacket":{`.
    ['re', 'yt', '"', ':', '{']
  ])

  function redact (text: string): string {
    let [redacted, from, next, count, hasToken] = ['', 0, 0, 0, false]
    let query: Query | undefined

    for (let at = finder.next(0); at !== -1; at = finder.next(next)) {
      next = at + 1
      let [start, end, mark] = [at, -1, REDACTED]
      switch (text[at]) {
        case 'r':
          if (!text.startsWith('query":{', at - 3)) continue
          query ??= { start: at + 4, end: -1, before: redacted + text.slice(from, at + 4) }
          continue
        case 'e':
          // The bytes of a request that is not HTTP, as numbers, which Fastify logs at level `trace`.
          if (!text.startsWith('rawPacket":{"type":"Buffer"', at - 7)) continue
          [start, mark] = [at + 4, REDACTED_JSON]
          end = endOfJson(text, start)
          break
        case '{':
        case ',':
          start = query === undefined ? -1 : endOf(member, text, at)
          if (start === -1) continue
          count++
          mark = REDACTED_JSON
          end = endOfJson(text, start)
          break
        case 'c':
          count += 4
          start = text.startsWith(header, at - 6) ? at - 6 : at
          if (count > MANY) end = endOf(STRINGS, text, start)
          else if (query !== undefined || !isHeader(text, start)) end = endOfToken(text, start)
          break
        default:
          count++
          start = endOf(key, text, at)
          if (count > MANY) start = Math.max(start, next)
          if (start !== -1) end = endOf(count > MANY ? STRINGS : VALUE, text, start)
      }
      if (count > MANY && query !== undefined) {
        if (query.end === -1) query.end = endOfJson(text, query.start)
        if (at < query.end) {
          [redacted, from] = [query.before, query.start];
          [start, end, mark] = [query.start, query.end, REDACTED_JSON]
        }
      }
      if (end <= start) continue
      hasToken ||= end - start >= TOKEN_LENGTH
      redacted += text.slice(from, start) + mark
      from = next = end
    }
    if (from === 0) return text
    redacted += text.slice(from)
    return hasToken ? withoutHidden(redacted) : redacted
  }

  /** Where a token of this issuer that begins here ends, or -1. It may be forged. */
  function endOfToken (text: string, start: number): number {
    jwt.lastIndex = start
    const payload = jwt.exec(text)?.[1]
    return payload !== undefined && Buffer.from(payload, 'base64url').includes(claim) ? jwt.lastIndex : -1
  }

  return line => {
    finder.read(line)
    const redacted = redact(line)
    if (redacted !== line) finder.clear()
    return redacted
  }
}

/** Whether the token follows `Bearer `, as in an Authorization header, which the host chose to log. */
function isHeader (text: string, start: number): boolean {
  return text.slice(Math.max(0, start - 7), start).toLowerCase() === 'bearer '
}

/**
 * Redacts further copies of a token, hidden in escapes that no client needs. From the first such escape on, or after
 * `MANY_ESCAPES` escapes, each string is redacted from its first escape to its end.
 */
function withoutHidden (line: string): string {
  let count = 0
  for (let at = line.indexOf('%'); at !== -1; at = line.indexOf('%', at + 1)) {
    if (++count <= MANY_ESCAPES && endOf(HIDDEN, line, at) === -1) continue
    return line.slice(0, at) + line.slice(at).replace(ESCAPED, REDACTED)
  }
  return line
}

/** Where the value that begins here ends: at the end of the line if it is not JSON. */
function endOfJson (line: string, start: number): number {
  let end = endOf(JSON_VALUE, line, start)
  for (let depth = depthOf(line[start]); depth > 0 && end !== -1; depth += depthOf(line[end - 1])) {
    end = endOf(TO_BRACKET, line, end)
  }
  return end === -1 ? line.length : end
}

function depthOf (character: string | undefined): number {
  if (character === '{' || character === '[') return 1
  return character === '}' || character === ']' ? -1 : 0
}

/** Where the text that matches here ends, or -1. */
function endOf (pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at
  return pattern.test(text) ? pattern.lastIndex : -1
}
