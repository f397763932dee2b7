import type { FastifyRequest } from 'fastify'
import type { Origin } from '../types.js'

/**
 * Who makes this request, for those who read what happened. The address is as trustworthy as the host's option `trustProxy`; a Unix
 * socket has none. The host's `genReqId` may return anything.
 */
export function originOf ({ ip, id }: FastifyRequest, actor: string | null): Origin {
  return { actor, address: ip ?? null, requestId: String(id) }
}
