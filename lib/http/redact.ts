import type { FastifyBaseLogger } from 'fastify'

const HOOKS = Symbol.for('pino.hooks')

interface Hooks { streamWrite?: (line: string) => string }

/** A query parameter in a log line, where `\` begins an escape of JSON. Fastify's router takes `#` and `;` for a `?`, too. */
const PARAMETER = /([?&#;])([^?&#;=\s"\\]+)=((?:\\.|[^&\s"\\])*)/g

/**
 * Keeps the value of a query parameter out of the log: out of URLs, messages and error texts, of all loggers made from this one. It is
 * pino's last step before a line is written, for this logger and its children alone: the host's own step, if any, still runs.
 */
export function redactParameter (log: FastifyBaseLogger, parameter: string): void {
  const logger = log as FastifyBaseLogger & { [HOOKS]?: Hooks }
  const hooks = logger[HOOKS]
  if (hooks === undefined) return
  const { streamWrite } = hooks
  const clean = (line: string): string => line.includes('=') ? line.replace(PARAMETER, (pair, mark: string, key: string) => names(key, parameter) ? `${mark}${key}=[Redacted]` : pair) : line
  logger[HOOKS] = Object.assign(Object.create(hooks), { streamWrite: (line: string) => clean(streamWrite?.(line) ?? line) })
}

/** Whether a key of a query names the parameter, in any encoding, alone or as the list `parameter[]`. */
function names (key: string, parameter: string): boolean {
  let name = key
  try {
    name = decodeURIComponent(key)
  } catch {
    // Malformed: taken as it stands, as the query parser does.
  }
  return name === parameter || name.startsWith(`${parameter}[`)
}
