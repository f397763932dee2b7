import type { FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction as Done } from 'fastify'
import { InternalError, InvalidTokenError, NotEnabledError, TwoCredentialsError } from '../errors.js'
import type { CachedToken } from '../tokens/cache.js'
import type { Outcome, Refusal, Tokens } from '../tokens/tokens.js'
import type { ReportRejection } from '../types.js'
import type { Connections } from './connections.js'
import { findCredential, restoreCredential } from './credential.js'
import { createGuardCheck } from './host.js'
import { becomePrincipal, withdrawPrincipal } from './principal.js'
import { keepPrivate } from './private.js'
import { createLogCheck } from './redact-log.js'
import { decorateState, originOf, type RequestState, stateFor, stateOf } from './request-state.js'
import type { SendError } from './send-error.js'

interface Parts {
  tokens: Pick<Tokens, 'authenticate' | 'count' | 'recognize'>
  isEnabled: () => boolean
  /** How often tokens were disabled. */
  disables: () => number
  hook: 'preHandler' | 'onRequest'
  queryParameter: string | false
  audit: { reportRejection: ReportRejection }
  /** Whether responses carry the token's expiry. */
  expiryHeader: boolean
  sendError: SendError
  connections: Pick<Connections, 'cut'>
  /** The base path of the four routes. */
  prefix?: string
}

/** A credential that could not be checked, because Postgres can't be queried: 500, never anonymous. */
interface Failure { refused: 'failed', reason: unknown }

type Verdict = Outcome | Failure

/**
 * When the token of a request expires. GitHub sends a similar header; the format is that of all HTTP dates (RFC 9110
 * §5.6.7).
 */
const EXPIRY_HEADER = 'application-token-expires'

const SEVERAL: Refusal = { refused: 'several', reason: 'several tokens in one request' }
const DISABLED: Refusal = { refused: 'invalid', reason: 'tokens were disabled while the request arrived' }
const CHANGED: Refusal = { refused: 'invalid', reason: 'its name or role changed while the request arrived' }

/**
 * Adds the hooks that every request of the host passes: credential → principal. An invalid credential is refused even
 * if the request also has a valid session. A request without a credential is not changed.
 */
export function addAuthentication (app: FastifyInstance, parts: Parts): void {
  const { tokens, isEnabled, disables, audit, connections, sendError } = parts
  const { hook, queryParameter, expiryHeader, prefix = '' } = parts
  const fourRoutes = [`${prefix}/api/tokens`, `${prefix}/api/tokens/:tokenHash`]
  const find = (request: FastifyRequest): void => { findCredential(request, queryParameter, tokens.recognize) }
  const checkLog = createLogCheck(app.log, queryParameter)
  const checkGuard = createGuardCheck(hook, find)
  app.decorateRequest('applicationToken', null)
  decorateState(app)

  app.addHook('onRequest', (request, reply, done) => {
    // Requests of a child that was created before the plugin was registered lack the decorator.
    request.applicationToken ??= null
    checkLog(request)
    if (isEnabled()) find(request)
    else stateFor(request).isDisabled = true
    const state = stateOf(request)
    if (state?.original) keepPrivate(reply, state)
    done()
  })

  app.addHook(hook as 'preHandler', (request: FastifyRequest, reply: FastifyReply, done: Done) => {
    const state = stateOf(request)
    // `reply.callNotFound()` runs preHandler hooks again.
    if (!state?.credential || state.judged > 0) {
      done()
      return
    }
    state.judged = 1
    const { credential } = state
    const outcome = credential === 'several' ? SEVERAL : tokens.authenticate(credential, Date.now)
    settleOrFail(outcome, verdict => { settle(request, reply, verdict, done) }, done)
  })

  // Checks again after the body has arrived: the client may have sent it slowly.
  if (hook === 'onRequest') {
    app.addHook('preHandler', (request, reply, done) => {
      const state = stateOf(request)
      const credential = state?.credential
      if (!credential || credential === 'several' || request.applicationToken === null || state.judged > 1) {
        done()
        return
      }
      state.judged = 2
      const outcome = isEnabled() ? tokens.authenticate(credential, Date.now, true) : DISABLED
      settleOrFail(outcome, verdict => { settleAgain(request, reply, verdict, done) }, done)
    })
  }

  app.addHook('onSend', (request, reply, payload, done) => {
    checkLog(request) // again: a middleware may have added its logger since
    if (isEnabled()) checkGuard(request, reply)
    done(null, payload)
  })

  function settle (request: FastifyRequest, reply: FastifyReply, outcome: Verdict, done: Done): void {
    if (!isEnabled()) {
      restoreCredential(request)
      stateFor(request).isDisabled = true
    } else if ('refused' in outcome) {
      refuse(request, reply, outcome).catch(done)
      return
    } else {
      if (!accept(request, reply, outcome, done)) return
      tokens.count('accepted')
      if (isUpgrade(request)) connections.cut(outcome, reply.raw, () => { request.raw.socket.destroy() })
    }
    done()
  }

  /** For a request that was accepted and counted before its body arrived. A guard may have let it in already. */
  function settleAgain (request: FastifyRequest, reply: FastifyReply, outcome: Verdict, done: Done): void {
    if (!isEnabled() && fourRoutes.includes(String(request.routeOptions.url))) {
      sendError(request, reply, new NotEnabledError()).catch(done)
      return
    }
    const refusal = isEnabled() ? endOf(request, outcome) : DISABLED
    if (refusal !== null) {
      withdrawPrincipal(request)
      reply.removeHeader(EXPIRY_HEADER)
      if (!reply.raw.headersSent) reply.raw.removeHeader(EXPIRY_HEADER)
      refuse(request, reply, refusal, true).catch(done)
      return
    }
    // A session that was restored after `onRequest` does not replace the token.
    if (accept(request, reply, outcome as CachedToken, done, true)) done()
  }

  /** Returns false, and responds, if the token can't become the user. */
  function accept (
    request: FastifyRequest, reply: FastifyReply, cached: CachedToken, done: Done, isCounted = false
  ): boolean {
    try {
      becomePrincipal(request, cached)
    } catch (reason) {
      refuse(request, reply, { refused: 'failed', reason }, isCounted).catch(done)
      return false
    }
    const { token, httpDate } = cached
    const state = stateOf(request) as RequestState
    request.applicationToken = token
    state.accepted = { cached, response: reply.raw, disables: disables() }
    if (expiryHeader) {
      reply.header(EXPIRY_HEADER, httpDate)
      // For a response that a handler writes itself, such as after `reply.hijack()`.
      if (!reply.raw.headersSent) reply.raw.setHeader(EXPIRY_HEADER, httpDate)
    }
    return true
  }

  async function refuse (
    request: FastifyRequest, reply: FastifyReply, refusal: Refusal | Failure, isCounted = false
  ): Promise<void> {
    // @fastify/websocket may not have seen this upgrade yet, and so would never close its socket.
    if (isUpgrade(request)) reply.raw.once('finish', () => { request.raw.socket.destroySoon() })
    if (!isCounted) tokens.count(refusal.refused)
    if (refusal.refused === 'failed') {
      await sendError(request, reply, new InternalError({ cause: refusal.reason }))
      return
    }
    const { credential } = stateOf(request) as RequestState
    const hash = credential === null || credential === 'several' ? null : credential.hash
    audit.reportRejection(refusal.reason, { hash, ...refusal.token }, originOf(request, null))
    await sendError(request, reply, refusal.refused === 'several' ? new TwoCredentialsError() : new InvalidTokenError())
  }
}

/** Settles at once where the outcome is known. A lookup that fails is a 500. */
function settleOrFail (
  outcome: Outcome | Promise<Outcome>, onVerdict: (verdict: Verdict) => void, done: Done
): void {
  if (!(outcome instanceof Promise)) onVerdict(outcome)
  else outcome.catch((reason: unknown): Failure => ({ refused: 'failed', reason })).then(onVerdict).catch(done)
}

/** Why a token that was accepted before is refused now, or `null`. */
function endOf ({ applicationToken }: FastifyRequest, outcome: Verdict): Refusal | Failure | null {
  if ('refused' in outcome) return outcome
  const { name, role } = outcome.token
  return name === applicationToken?.name && role === applicationToken.role ? null : CHANGED
}

/** Whether this is an HTTP/1.1 upgrade, whose socket serves no other request. */
function isUpgrade ({ raw }: FastifyRequest): boolean {
  return (raw as { upgrade?: boolean }).upgrade === true
}
