import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { CachedToken } from '../tokens/cache.js'
import type { Closable, Credential, Origin, TokenPrincipal } from '../types.js'

/** All that the plugin remembers of a request. */
export interface RequestState {
  /** Whether tokens were disabled when the request arrived. They stay disabled for it. */
  isDisabled: boolean
  /** The plugin's credential that it presents; `several` is refused. */
  credential: Credential | 'several' | null
  /** The original query members and URLs, if a credential was removed from them. */
  original: { members: Record<string, unknown>, url: string, originalUrl: string | undefined } | null
  /** How often its credential was judged; 0 if a guard that runs earlier has answered. */
  judged: number
  /** `request.user` before it became the token's principal, and after. */
  users: { before: unknown, after: unknown } | null
  /** The token that was accepted; the response, whose `close` ends the request; how often tokens were disabled then. */
  accepted: { cached: CachedToken, response: Closable, disables: number } | null
  /** The signal that the host asked for. */
  signal: AbortSignal | null
  /** The admin who calls one of the four routes. */
  admin: TokenPrincipal | null
}

const NOTHING: RequestState = {
  isDisabled: false,
  credential: null,
  original: null,
  judged: 0,
  users: null,
  accepted: null,
  signal: null,
  admin: null
}

const STATE = Symbol('fastify-mmc-tokens.request')

/** A child that the host made before it registered the plugin has requests without the decorator. */
type Decorated = FastifyRequest & { [STATE]?: RequestState | null }

export function decorateState (app: FastifyInstance): void {
  app.decorateRequest(STATE, null)
}

/** The state of a request, or `null` if it has none. */
export function stateOf (request: FastifyRequest): RequestState | null {
  return (request as Decorated)[STATE] ?? null
}

/** The state of a request, created if it has none. */
export function stateFor (request: FastifyRequest): RequestState {
  const decorated = request as Decorated
  decorated[STATE] ??= { ...NOTHING }
  return decorated[STATE]
}

/** Whether a request presents a credential of the plugin's, valid or not. */
export function presentsToken (request: FastifyRequest): boolean {
  return Boolean(stateOf(request)?.credential)
}

/**
 * The origin of a request, for events. The address is as trustworthy as the host's `trustProxy`; Unix sockets have
 * none. The host's `genReqId` may return any type.
 */
export function originOf ({ ip, id }: FastifyRequest, actor: string | null): Origin {
  return { actor, address: ip ?? null, requestId: String(id) }
}
