import type { FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction } from 'fastify'
import { InternalError, TokensError, TwoCredentialsError } from '../errors.js'
import { EXPIRED, type Outcome, type Tokens, UNKNOWN } from '../tokens/tokens.js'
import type { Origin, Token } from '../types.js'
import { toPrincipal } from './authorize.js'
import { decoratePresented, findPresented, leaveAlone, type Presented, presentedBy, withdraw } from './credential.js'
import { originOf } from './origin.js'
import type { SendError } from './send-error.js'

interface Parts {
  tokens: Tokens
  isEnabled: () => boolean
  hook: 'preHandler' | 'onRequest'
  queryParameter: string | false
  audit: { rejected: (reason: string, token: { hash: string | null, name?: string, role?: string }, origin: Origin) => void }
  /** Whether an answer tells when the token expires. */
  expiryHeader: boolean
  sendError: SendError
}

/** Tells when the token of a request expires. GitHub has one like it; the form is that of all dates in HTTP (RFC 9110 §5.6.7). */
const EXPIRY_HEADER = 'application-token-expires'

/**
 * Adds the hooks through which every request of the host passes: credential → principal. A credential of ours that does not hold is
 * refused whatever stands beside it; without one the request goes on as it came.
 */
export function addAuthentication (app: FastifyInstance, { tokens, isEnabled, hook, queryParameter: parameter, audit, expiryHeader, sendError }: Parts): void {
  app.decorateRequest('applicationToken', null)
  decoratePresented(app)

  app.addHook('onRequest', (request, _reply, done) => {
    // Undecorated in a child of the host that was there before us.
    request.applicationToken ??= null
    if (!isEnabled()) leaveAlone(request)
    else look(request)
    done()
  })

  app.addHook(hook as 'preHandler', (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction) => {
    const presented = presentedBy(request)
    if (presented === null) {
      done()
      return
    }
    presented.isJudged = true
    const outcome = presented.credential === null ? new TwoCredentialsError() : tokens.authenticate(presented.credential, Date.now())
    if (outcome instanceof Promise) {
      outcome.catch((cause: unknown) => new InternalError({ cause })).then(found => { settle(request, reply, found, done) }).catch(done)
    } else {
      settle(request, reply, outcome, done)
    }
  })

  function look (request: FastifyRequest): void {
    if (mayPresent(request, parameter) && request.routeOptions.config.applicationTokens !== false) findPresented(request, parameter, tokens.recognize)
  }

  function settle (request: FastifyRequest, reply: FastifyReply, outcome: Outcome, done: HookHandlerDoneFunction): void {
    if (!isEnabled()) {
      // Who switches tokens off meanwhile finds the request as it would be without us.
      withdraw(request)
      leaveAlone(request)
    } else if (outcome instanceof TokensError) {
      refuse(request, reply, outcome).catch(done)
      return
    } else {
      try {
        becomeUser(request, outcome.token)
      } catch (cause) {
        refuse(request, reply, new InternalError({ cause })).catch(done)
        return
      }
      tokens.counts.authentications.accepted++
      request.applicationToken = outcome.token
      if (expiryHeader) reply.header(EXPIRY_HEADER, outcome.expires)
    }
    done()
  }

  async function refuse (request: FastifyRequest, reply: FastifyReply, error: TokensError): Promise<void> {
    // @fastify/websocket may not have seen this upgrade yet, and so would leave its socket open for ever.
    if ((request.raw as { upgrade?: boolean }).upgrade === true) reply.raw.once('finish', () => { request.raw.socket.destroySoon() })
    note(request, error)
    await sendError(request, reply, error)
  }

  function note (request: FastifyRequest, error: TokensError): void {
    const kind = kindOf(error)
    tokens.counts.authentications[kind]++
    if (kind === 'failed') return
    const reason = kind === 'several' ? 'several tokens in one request' : String(error.cause)
    const { credential } = presentedBy(request) as Presented
    audit.rejected(reason, { hash: credential?.hash ?? null, ...error.token }, originOf(request, null))
  }

  /** Whether a guard of the host refused before our hook came to the token, which nobody can tell from its answer. */
  function isOverlooked (request: FastifyRequest): boolean {
    if (isEnabled() && presentedBy(request) === null) look(request)
    return presentedBy(request)?.isJudged === false
  }

  // A session that is restored after `onRequest` does not take the token's place.
  if (hook === 'onRequest') {
    app.addHook('preHandler', (request, _reply, done) => {
      if (request.applicationToken !== null) becomeUser(request, request.applicationToken)
      done()
    })
  }

  let isWarned = false
  app.addHook('onSend', (request, reply, payload, done) => {
    if (presentedBy(request)?.taken) keepToItself(reply)
    if (reply.statusCode === 401 && !isWarned && isOverlooked(request)) {
      isWarned = true
      request.log.warn(`a request with a token was answered 401 before the token was looked at, in the hook "${hook}": register fastify-mmc-tokens with await before guards are added at the root, and set the option "hook" to "onRequest" for guards that run before preHandler`)
    }
    done(null, payload)
  })
}

/** What became of a request whose token was refused. */
function kindOf (error: TokensError): 'unknown' | 'expired' | 'invalid' | 'several' | 'failed' {
  if (error.statusCode === 500) return 'failed'
  if (error.statusCode === 400) return 'several'
  if (error.cause === UNKNOWN) return 'unknown'
  return error.cause === EXPIRED ? 'expired' : 'invalid'
}

function becomeUser (request: FastifyRequest, token: Token): void {
  (request as { user?: unknown }).user = toPrincipal(token)
}

/** Cheap, since it is asked for every request of the host. */
function mayPresent (request: FastifyRequest, parameter: string | false): boolean {
  return request.raw.headers.authorization !== undefined || (parameter !== false && (request.query as Record<string, unknown>)[parameter] !== undefined)
}

// A URL with a token in it must not be cached, nor sent to others as a referrer (RFC 6750 §2.3).
function keepToItself (reply: FastifyReply): void {
  reply.header('cache-control', 'no-store').header('referrer-policy', 'no-referrer')
}
