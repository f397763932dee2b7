import type { FastifyRequest } from 'fastify'
import type { Origin } from '../types.js'

/**
 * The origin of a request, for events. The address is as trustworthy as the host's `trustProxy`; Unix sockets have
 * none. The host's `genReqId` may return any type.
 */
export function originOf ({ ip, id }: FastifyRequest, actor: string | null): Origin {
  return { actor, address: ip ?? null, requestId: String(id) }
}
