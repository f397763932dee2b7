import type { FastifyRequest } from 'fastify'
import type { Log } from '../types.js'
import { createRedact, type Redact } from './redact.js'

const HOOKS = Symbol.for('pino.hooks')
const SERIALIZERS = Symbol.for('pino.serializers')

type Serialize = (value: unknown) => unknown

/** What pino keeps on a logger; children inherit it. */
interface Pino {
  version?: string
  [HOOKS]?: { streamWrite?: (line: string) => string }
  [SERIALIZERS]?: Record<string | symbol, Serialize>
}

/**
 * Keeps the value of a query parameter, and tokens, out of URLs, messages and error texts in the log, for this logger
 * and its children. It uses pino's hook `streamWrite`, the last step before a line is written; a hook of the host's
 * runs before it. Pino before 9.6 has no such hook: there serializers redact properties, but not messages. Other
 * loggers can't be redacted. Both cases log a warning.
 */
export function redactParameter (log: Log, parameter: string, issuer: string): void {
  const logger = log as Log & Pino
  const redact = createRedact(parameter, issuer)

  const { [HOOKS]: hooks, [SERIALIZERS]: serializers } = logger
  if (hooks !== undefined && writesThroughHook(logger.version)) {
    const { streamWrite } = hooks
    // Its own object: pino shares one among all loggers of the process.
    const own = { streamWrite: (line: string) => redact(streamWrite?.(line) ?? line) }
    logger[HOOKS] = Object.assign(Object.create(hooks) as object, own)
    return
  }
  if (serializers !== undefined) {
    const redacted = Object.entries(serializers).map(([key, serialize]): [string, Serialize] => [
      key, value => redactMade(serialize(value), redact)
    ])
    logger[SERIALIZERS] = { ...serializers, ...Object.fromEntries(redacted) }
  }
  log.warn(`the log is not written by pino 9.6 or later, so that a value of the query parameter "${parameter}" may ` +
    'appear in it: update pino, or set the option "queryParameter" to false')
}

/**
 * Warns once, at a request with the parameter, of a logger that does not write through the host's log: that of a
 * `childLoggerFactory` or of pino-http, which nestjs-pino uses. Others can't be detected.
 */
export function createLogCheck (hostLog: Log, parameter: string | false): (request: FastifyRequest) => void {
  let isDone = parameter === false
  return request => {
    const query = request.query as Record<string, unknown> | null | undefined
    if (isDone || query?.[parameter as string] === undefined) return
    const { allLogs } = request.raw as { allLogs?: unknown }
    const { [HOOKS]: hooks } = hostLog as Log & Pino
    if (allLogs === undefined && (request.log as Log & Pino)[HOOKS] === hooks) return
    const others = [allLogs].flat() as Array<(Log & Pino) | undefined>
    const logs = [request.log as Log & Pino, ...others.filter(other => other?.[HOOKS])]
    const log = logs.find(other => other?.[HOOKS] !== hooks)
    if (log === undefined) return
    isDone = true
    // To that logger itself: the host's may be disabled, as in Nest.
    log.warn('this logger was not made from app.log (but by a childLoggerFactory, or pino-http), so that a value of ' +
      `the query parameter "${String(parameter)}" may appear in it: make it from app.log, or set the option ` +
      '"queryParameter" to false')
  }
}

function writesThroughHook (version: string | undefined): boolean {
  const [major = 0, minor = 0] = String(version).split('.').map(Number)
  return major > 9 || (major === 9 && minor >= 6)
}

/** The result of a serializer, redacted in the JSON that pino would write. */
function redactMade (made: unknown, redact: Redact): unknown {
  if (made === undefined) return made
  try {
    return JSON.parse(redact(JSON.stringify(made)))
  } catch {
    // JSON can't represent it, such as a circular structure.
    return '[Redacted]'
  }
}
