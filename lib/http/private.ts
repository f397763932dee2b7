import type { FastifyReply } from 'fastify'
import type { RequestState } from './request-state.js'

/** Responses to a URL with a token must not be cached, and the URL must not be sent as a referrer (RFC 6750 §2.3). */
const PRIVATE = { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' }

type WriteHead = (...args: unknown[]) => unknown

/**
 * Makes the response private, unless the token is restored to the URL. In `writeHead`, since hooks that run later, and
 * the headers of a `Response`, would replace earlier ones. Handlers that write the response themselves, after
 * `reply.hijack()`, keep the headers that they set.
 */
export function keepPrivate (reply: FastifyReply, state: RequestState): void {
  const response = reply.raw
  const raw = response as { writeHead: WriteHead }
  const { writeHead } = raw
  raw.writeHead = (...args) => {
    if (state.original !== null) {
      const given = args.at(-1)
      const headers = typeof given === 'object' && given !== null ? given : {}
      // Those that Fastify passes are the reply's. `setHeader` beside them would double the cost of a response.
      if (reply.sent) setMissing(response, headers)
      else if (headers === given) Object.assign(headers, PRIVATE)
      else for (const [name, value] of Object.entries(PRIVATE)) response.setHeader(name, value)
    }
    return writeHead.apply(response, args)
  }
}

function setMissing (response: FastifyReply['raw'], headers: object): void {
  for (const [name, value] of Object.entries(PRIVATE)) {
    if (!(name in headers || response.hasHeader(name))) response.setHeader(name, value)
  }
}
