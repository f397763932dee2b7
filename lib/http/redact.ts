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

/** A query parameter in a log line, where `\` begins an escape of JSON. Fastify's router takes `#` and `;` for a `?`, too. */
const PARAMETER = /([?&#;])([^?&#;=\s"\\]+)=((?:\\["\\]|[^&\s"\\])*)/g

const TEXT = '"(?:\\\\.|[^"\\\\])*"'
const TEXTS = `(?:${TEXT}|\\[(?:${TEXT},?)*\\])`

/** A member of an object in a log line: some serializers of requests write the query as one. */
const MEMBER = new RegExp(`"((?:\\\\.|[^"\\\\])+)":${TEXTS}`, 'g')

/** The bytes of a request that is no HTTP, as numbers, which Fastify logs at level `trace`. */
const BYTES = /"rawPacket":\{"type":"Buffer","data":\[[\d,]*\]\}/g

/**
 * Keeps the value of a query parameter out of the log: out of URLs, messages and error texts, of all loggers made from this one. It is
 * pino's last step before a line is written, for this logger and its children alone; a step of the host's own still runs before it.
 * Pino before 9.6 lacks that step: there the serializers do it, which messages don't pass. Other loggers can't be helped. Both are warned of.
 */
export function redactParameter (log: Log, parameter: string): void {
  const logger = log as Log & Pino
  const redact = (text: string): string => {
    const line = text
      .replace(PARAMETER, (pair, mark: string, key: string) => isName(key, parameter) ? `${mark}${key}=[Redacted]` : pair)
      .replace(BYTES, '"rawPacket":"[Redacted]"')
    return line.includes('"query":{') ? line.replace(MEMBER, (pair, key: string) => isName(key, parameter) ? `"${key}":"[Redacted]"` : pair) : line
  }

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

/** Whether a key of a query names the parameter, in any encoding, alone or as the list `parameter[]`. */
function isName (key: string, parameter: string): boolean {
  let name = key
  try {
    name = decodeURIComponent(key)
  } catch {
    // Malformed: taken as it stands, as the query parser does.
  }
  return name === parameter || name.startsWith(`${parameter}[`)
}
