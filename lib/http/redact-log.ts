import type { FastifyRequest } from 'fastify'
import type { Log } from '../types.js'

const HOOKS = Symbol.for('pino.hooks')
const SERIALIZERS = Symbol.for('pino.serializers')

type Serialize = (value: unknown) => unknown

/** What pino keeps on a logger; children inherit it. */
interface Pino {
  version?: string
  [HOOKS]?: { streamWrite?: (line: string) => string }
  [SERIALIZERS]?: Record<string | symbol, Serialize>
}

/** The value of a parameter in a log line, where `\` begins an escape of JSON; and all that follows it in the same text. */
const VALUE = /(?:[^& "\\]|\\["\\])*/y
const REST = /(?:[^ "\\]|\\["\\])*/y

/** The rest of a key such as `token[0][a]`. */
const KEY_END = /[^?&#;= "\\]*=/y

/** Values in one line that are redacted one by one; the next goes with all that follows it, so that a flood costs little. */
const MANY = 32

/** A text, a bracket or what is between them, in JSON. */
const JSON_PART = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]]|[^"{}[\],]+|,/y

/** The bytes of a request that is no HTTP, as numbers, which Fastify logs at level `trace`. */
const BYTES = /"rawPacket":\{"type":"Buffer","data":\[[\d,]*\]\}/g

/**
 * Keeps the value of a query parameter out of the log: out of URLs, messages and error texts, of all loggers made from this one. It is
 * pino's last step before a line is written, for this logger and its children alone; a step of the host's own still runs before it.
 * Pino before 9.6 lacks that step: there the serializers do it, which messages don't pass. Other loggers can't be helped. Both are warned of.
 */
export function redactParameter (log: Log, parameter: string): void {
  const logger = log as Log & Pino
  const redact = createRedact(parameter)

  const { [HOOKS]: hooks, [SERIALIZERS]: serializers } = logger
  if (hooks !== undefined && writesThroughHook(logger.version)) {
    const { streamWrite } = hooks
    // Its own object: pino shares the one it has among all loggers of the process.
    logger[HOOKS] = Object.assign(Object.create(hooks), { streamWrite: (line: string) => redact(streamWrite?.(line) ?? line) })
    return
  }
  if (serializers !== undefined) {
    const redacted = Object.entries(serializers).map(([key, serialize]): [string, Serialize] => [key, value => redactMade(serialize(value), redact)])
    logger[SERIALIZERS] = { ...serializers, ...Object.fromEntries(redacted) }
  }
  log.warn(`the log is not written by pino 9.6 or later, so that a value of the query parameter "${parameter}" may appear in it: update pino, or set the option "queryParameter" to false`)
}

/**
 * Warns once of a logger that does not write through the host's log, when a request with the parameter comes: that of a
 * `childLoggerFactory` or of pino-http, on which nestjs-pino stands. Others can't be seen.
 */
export function createLogCheck (hostLog: Log, parameter: string | false): (request: FastifyRequest) => void {
  let isDone = parameter === false
  return request => {
    if (isDone || (request.query as Record<string, unknown>)[parameter as string] === undefined) return
    const { allLogs } = request.raw as { allLogs?: unknown }
    const others = [allLogs].flat() as Array<(Log & Pino) | undefined>
    const { [HOOKS]: hooks } = hostLog as Log & Pino
    const log = [request.log as Log & Pino, ...others.filter(other => other?.[HOOKS])].find(other => other?.[HOOKS] !== hooks)
    if (log === undefined) return
    isDone = true
    // In the log that it is about: the host's may be off, as that of Nest is.
    log.warn(`this logger was not made from app.log (but by a childLoggerFactory, or pino-http), so that a value of the query parameter "${String(parameter)}" may appear in it: make it from app.log, or set the option "queryParameter" to false`)
  }
}

function writesThroughHook (version: string | undefined): boolean {
  const [major = 0, minor = 0] = String(version).split('.').map(Number)
  return major > 9 || (major === 9 && minor >= 6)
}

/** What a serializer made, redacted in the form that pino gives it. */
function redactMade (made: unknown, redact: (text: string) => string): unknown {
  if (made === undefined) return made
  try {
    return JSON.parse(redact(JSON.stringify(made)))
  } catch {
    // What JSON can't hold, such as a circle.
    return '[Redacted]'
  }
}

/**
 * Takes the values of a query parameter out of a line. Its work is linear, without exceptions, and about that of a native search:
 * anybody may send a URL that was made to be slow.
 */
export function createRedact (parameter: string): (text: string) => string {
  const name = `(?:${formsOf(parameter).join('|')})`
  // Fastify's router takes `#` and `;` for a `?`, too.
  const inUrl = new RegExp(`[?&#;]${name}(?:=|\\[|%5[bB])`, 'g')
  // Some serializers of requests write the query as an object. A text of JSON that follows a bracket or a comma begins there.
  const inQuery = new RegExp(`[{,]"${name}(?:(?:\\[|%5[bB])[^"\\\\]*(?:\\\\.[^"\\\\]*)*)?":`, 'g')

  return text => {
    let line = redactUrls(text, inUrl)
    // To look for text is several times as fast as for a pattern.
    if (line.includes('rawPacket":{')) line = line.replace(BYTES, '"rawPacket":"[Redacted]"')
    const query = line.indexOf('query":{')
    return query === -1 ? line : redactMembers(line, inQuery, query)
  }
}

function redactUrls (text: string, names: RegExp): string {
  let [redacted, from, count] = ['', 0, 0]
  names.lastIndex = 0
  while (names.test(text)) {
    const at = names.lastIndex
    const isMuch = ++count > MANY
    // Such as `token[0][a]=`.
    const start = isMuch || text[at - 1] === '=' ? at : endOf(KEY_END, text, at)
    if (start === -1) continue
    const end = endOf(isMuch ? REST : VALUE, text, start)
    names.lastIndex = end
    if (end === start) continue
    redacted += `${text.slice(from, start)}[Redacted]`
    from = end
  }
  return from === 0 ? text : redacted + text.slice(from)
}

function redactMembers (line: string, names: RegExp, start: number): string {
  let [redacted, from] = ['', 0]
  names.lastIndex = start
  while (names.test(line)) {
    redacted += `${line.slice(from, names.lastIndex)}"[Redacted]"`
    names.lastIndex = from = endOfJson(line, names.lastIndex)
  }
  return redacted + line.slice(from)
}

/** Where the value that begins here ends. */
function endOfJson (line: string, start: number): number {
  let [at, depth] = [start, 0]
  do {
    const end = endOf(JSON_PART, line, at)
    // No JSON: nothing of it is known.
    if (end === -1) return line.length
    const first = line[at]
    if (first === '{' || first === '[') depth++
    else if (first === '}' || first === ']') depth--
    at = end
  } while (depth > 0)
  return at
}

/** Where what matches here ends, or -1. */
function endOf (pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at
  return pattern.test(text) ? pattern.lastIndex : -1
}

/**
 * A name in every percent-encoding, as regular expressions that rarely go back: one for each of the first characters that may be
 * encoded, and one for what follows them.
 */
function formsOf (name: string): string[] {
  const head = name.slice(0, 8)
  const forms = [...head].map((char, index) => plain(head.slice(0, index)) + encoded(char) + [...name.slice(index + 1)].map(either).join(''))
  return [plain(head) + [...name.slice(8)].map(either).join(''), ...forms]
}

function plain (text: string): string {
  return text.replaceAll('.', '\\.')
}

function encoded (char: string): string {
  return `%${char.charCodeAt(0).toString(16).replace(/[a-f]/, digit => `[${digit}${digit.toUpperCase()}]`)}`
}

function either (char: string): string {
  return `(?:${plain(char)}|${encoded(char)})`
}
