import type { FastifyReply } from 'fastify'

/** Responses to a URL with a token must not be cached, and the URL must not be sent as a referrer (RFC 6750 §2.3). */
const PRIVATE = Object.entries({ 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })

type WriteHead = (...args: unknown[]) => unknown

/**
 * For handlers that write the response themselves, such as after `reply.hijack()`. Their own headers take precedence.
 * Sets the headers in `writeHead`: set earlier, they would double the cost of a response that Fastify writes.
 */
export function keepRawPrivate (response: FastifyReply['raw']): void {
  const raw = response as unknown as { writeHead: WriteHead }
  const { writeHead } = raw
  raw.writeHead = (...args) => {
    const headers = args.at(-1)
    const isPrivate = typeof headers === 'object' && headers !== null && PRIVATE.every(([name]) => name in headers)
    if (!isPrivate) for (const [name, value] of PRIVATE) if (!response.hasHeader(name)) response.setHeader(name, value)
    return writeHead.apply(response, args)
  }
}

/** For what Fastify sends; returns the payload to send. */
export function keepPrivate (reply: FastifyReply, payload: unknown): unknown {
  for (const [name, value] of PRIVATE) reply.header(name, value)
  if (Object.prototype.toString.call(payload) !== '[object Response]') return payload
  // Fastify copies the headers of a `Response` after all hooks; those of a fetched one are immutable.
  const { body, status, headers } = payload as Response
  const response = new Response(body, { status, headers })
  for (const [name, value] of PRIVATE) response.headers.set(name, value)
  return response
}
