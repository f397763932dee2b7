import type { FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction } from 'fastify'
import { InternalError, InvalidTokenError, NotEnabledError, TokensError, TwoCredentialsError } from '../errors.js'
import type { Known } from '../tokens/cache.js'
import { EXPIRED, type Outcome, type Tokens, UNKNOWN } from '../tokens/tokens.js'
import type { Origin, Token } from '../types.js'
import { toPrincipal } from './authorize.js'
import { decoratePresented, findPresented, leaveAlone, type Presented, presentedBy, withdraw } from './credential.js'
import { originOf } from './origin.js'
import { keepPrivate, keepRawPrivate } from './private.js'
import { createLogCheck } from './redact-log.js'
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
  /** The base path of the four routes. */
  prefix?: string
}

/** Tells when the token of a request expires. GitHub has one like it; the form is that of all dates in HTTP (RFC 9110 §5.6.7). */
const EXPIRY_HEADER = 'application-token-expires'

/** What guards answer, a redirect to the login page included. 301 and 308 lead to `https:` or a slash, with the token or without. */
const GUARDED = new Set([401, 403, 302, 303, 307])

/**
 * Adds the hooks through which every request of the host passes: credential → principal. A credential of ours that does not hold is
 * refused whatever stands beside it; without one the request goes on as it came.
 */
export function addAuthentication (app: FastifyInstance, parts: Parts): void {
  const { tokens, isEnabled, hook, queryParameter: parameter, audit, expiryHeader, sendError, prefix = '' } = parts
  const fourRoutes = [`${prefix}/api/tokens`, `${prefix}/api/tokens/:tokenHash`]
  app.decorateRequest('applicationToken', null)
  decoratePresented(app)
  const checkLog = createLogCheck(app.log, parameter)

  app.addHook('onRequest', (request, _reply, done) => {
    // Undecorated in a child of the host that was there before us.
    request.applicationToken ??= null
    checkLog(request)
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
    whenKnown(outcome, found => { settle(request, reply, found, done) }, done)
  })

  // The body has arrived meanwhile, as slowly as the client pleased.
  if (hook === 'onRequest') {
    app.addHook('preHandler', (request, reply, done) => {
      const credential = presentedBy(request)?.credential
      if (!credential || request.applicationToken === null) {
        done()
        return
      }
      const outcome = isEnabled() ? tokens.authenticate(credential, Date.now(), true) : new NotEnabledError()
      whenKnown(outcome, found => { settleAgain(request, reply, found, done) }, done)
    })
  }

  function whenKnown (outcome: Outcome | Promise<Outcome>, settle: (outcome: Outcome) => void, done: HookHandlerDoneFunction): void {
    if (outcome instanceof Promise) outcome.catch((cause: unknown) => new InternalError({ cause })).then(settle).catch(done)
    else settle(outcome)
  }

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
      const before = userOf(request)
      try {
        becomeUser(request, outcome.token)
      } catch (cause) {
        refuse(request, reply, new InternalError({ cause })).catch(done)
        return
      }
      if (hook === 'onRequest') (presentedBy(request) as Presented).users = { before, token: userOf(request) }
      tokens.counts.authentications.accepted++
      accept(request, reply, outcome)
    }
    done()
  }

  /** Of a request that was accepted and counted before its body arrived. A guard may have let it in already. */
  function settleAgain (request: FastifyRequest, reply: FastifyReply, outcome: Outcome, done: HookHandlerDoneFunction): void {
    const { name, role } = request.applicationToken as Token
    if (!isEnabled() && fourRoutes.includes(String(request.routeOptions.url))) {
      sendError(request, reply, new NotEnabledError()).catch(done)
    } else if (!isEnabled()) {
      refuseAgain(new InvalidTokenError({ cause: 'tokens were disabled while the request arrived' }))
    } else if (outcome instanceof TokensError) {
      refuseAgain(outcome)
    } else if (outcome.token.name !== name || outcome.token.role !== role) {
      refuseAgain(new InvalidTokenError({ cause: 'its name or role changed while the request arrived' }))
    } else {
      // A session that is restored after `onRequest` does not take the token's place.
      becomeUser(request, outcome.token)
      accept(request, reply, outcome)
      done()
    }

    function refuseAgain (error: TokensError): void {
      const { users } = presentedBy(request) as Presented
      // A session that was restored meanwhile stays.
      if (userOf(request) === users?.token) setUser(request, users?.before)
      request.applicationToken = null
      refuse(request, reply, error, true).catch(done)
    }
  }

  function accept (request: FastifyRequest, reply: FastifyReply, { token, expires }: Known): void {
    request.applicationToken = token
    if (expiryHeader) reply.header(EXPIRY_HEADER, expires)
    // What a handler writes itself, as after `reply.hijack()`, passes no `onSend`.
    if (reply.raw.headersSent) return
    if (expiryHeader) reply.raw.setHeader(EXPIRY_HEADER, expires)
    if (presentedBy(request)?.taken) keepRawPrivate(reply.raw)
  }

  async function refuse (request: FastifyRequest, reply: FastifyReply, error: TokensError, isCounted = false): Promise<void> {
    // @fastify/websocket may not have seen this upgrade yet, and so would leave its socket open for ever.
    if ((request.raw as { upgrade?: boolean }).upgrade === true) reply.raw.once('finish', () => { request.raw.socket.destroySoon() })
    const kind = kindOf(error)
    if (!isCounted) tokens.counts.authentications[kind]++
    if (kind !== 'failed') report(request, error, kind === 'several' ? 'several tokens in one request' : String(error.cause))
    await sendError(request, reply, error)
  }

  function report (request: FastifyRequest, error: TokensError, reason: string): void {
    const { credential } = presentedBy(request) as Presented
    audit.rejected(reason, { hash: credential?.hash ?? null, ...error.token }, originOf(request, null))
  }

  /** Whether a guard of the host refused before our hook came to the token, which nobody can tell from its answer. */
  function isOverlooked (request: FastifyRequest): boolean {
    if (isEnabled() && presentedBy(request) === null) look(request)
    return presentedBy(request)?.isJudged === false
  }

  let isWarned = false
  app.addHook('onSend', (request, reply, payload, done) => {
    checkLog(request) // once more: a middleware may have added its logger
    const kept = presentedBy(request)?.taken ? keepPrivate(reply, payload) : payload
    if (!isWarned && GUARDED.has(reply.statusCode) && isOverlooked(request)) {
      isWarned = true
      request.log.warn(`a request with a token was answered ${reply.statusCode} before the token was looked at, in the hook "${hook}": register fastify-mmc-tokens with await before guards are added at the root, and set the option "hook" to "onRequest" for guards that run before preHandler`)
    }
    done(null, kept)
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
  setUser(request, toPrincipal(token))
}

function userOf (request: FastifyRequest): unknown {
  return (request as { user?: unknown }).user
}

function setUser (request: FastifyRequest, user: unknown): void {
  (request as { user?: unknown }).user = user
}

/** Cheap, since it is asked for every request of the host. */
function mayPresent (request: FastifyRequest, parameter: string | false): boolean {
  return request.raw.headers.authorization !== undefined || (parameter !== false && (request.query as Record<string, unknown>)[parameter] !== undefined)
}
