import type { FastifyRequest } from 'fastify'
import { InternalError, NotEnabledError, SignalError, TokensDisabledError } from './errors.js'
import { toPrincipal } from './http/authorize.js'
import type { Connections } from './http/connections.js'
import { stateOf } from './http/request-state.js'
import type { Lifecycle } from './lifecycle.js'
import type { Audit } from './operations/audit.js'
import type { CachedToken } from './tokens/cache.js'
import { parseActor } from './tokens/new-token.js'
import { type Outcome, type Tokens, UNKNOWN_ORIGIN } from './tokens/tokens.js'
import type { ApplicationTokens, Closable, Credential, Metrics, Store, Token } from './types.js'

interface Parts {
  tokens: Tokens
  connections: Pick<Connections, 'signal' | 'endAll'>
  audit: Pick<Audit, 'reportRejection'>
  lifecycle: Lifecycle
  store: Pick<Store, 'isTrusted' | 'lease' | 'count'>
  usage: { lag: () => Metrics['usage'] }
  requireRole: ApplicationTokens['requireRole']
}

/** Builds `app.tokens`. */
export function createApplicationTokens (parts: Parts): ApplicationTokens {
  const { tokens, connections, audit, lifecycle, store, usage, requireRole } = parts
  /** The results of `authenticate`, and how often tokens were disabled before. */
  const results = new WeakMap<object, { cached: CachedToken, disables: number }>()

  function requireEnabled (): void {
    if (!lifecycle.isEnabled) throw new NotEnabledError()
  }

  async function authenticate (credential: Credential): Promise<Outcome | null> {
    try {
      return await tokens.authenticate(credential, Date.now)
    } catch (cause) {
      if (!lifecycle.isEnabled) return null
      tokens.count('failed')
      throw new InternalError({ cause })
    }
  }

  function signalOf (request: FastifyRequest): AbortSignal | null {
    const state = stateOf(request)
    if (!state?.accepted) return null
    state.signal ??= open(state.accepted, state.accepted.response)
    return state.signal
  }

  function open ({ cached, disables }: { cached: CachedToken, disables: number }, closable: Closable): AbortSignal {
    // Tokens may have been enabled again since.
    if (disables !== lifecycle.disables) return AbortSignal.abort(new TokensDisabledError())
    return connections.signal(cached, closable)
  }

  return {
    get enabled () { return lifecycle.isEnabled },
    health: () => ({ enabled: lifecycle.isEnabled, lease: store.isTrusted() ? 'held' : 'lost' }),
    enable: lifecycle.enable,
    async disable () {
      lifecycle.disable()
      connections.endAll()
    },
    requireRole,
    async authenticate (secret, { address = null, requestId = null } = {}) {
      const credential = lifecycle.isEnabled && typeof secret === 'string' ? tokens.recognize(secret) : null
      if (credential === null) return null
      const outcome = await authenticate(credential)
      if (outcome === null || !lifecycle.isEnabled) return null
      if ('refused' in outcome) {
        const { refused, reason, token } = outcome
        tokens.count(refused)
        audit.reportRejection(reason, { hash: credential.hash, ...token }, { actor: null, address, requestId })
        return null
      }
      tokens.count('accepted')
      const { token } = outcome
      const result = { user: toPrincipal(token), token }
      results.set(result, { cached: outcome, disables: lifecycle.disables })
      return result
    },
    signal (of, closable) {
      const accepted = results.get(of)
      if (accepted === undefined) return signalOf(of as FastifyRequest)
      if (closable !== undefined) return open(accepted, closable)
      throw new SignalError('signal(result, closable) requires an object that emits "close", such as the socket, ' +
        'to release the signal')
    },
    async issue (token) {
      requireEnabled()
      return await tokens.issue(token, Date.now())
    },
    mint: token => tokens.mint(token, Date.now()),
    async list () {
      requireEnabled()
      const list: Token[] = []
      for await (const page of tokens.list({}, Date.now())) list.push(...page)
      return list
    },
    async get (hash) {
      requireEnabled()
      return await tokens.get(hash)
    },
    async revoke (hash, by) {
      requireEnabled()
      return await tokens.revoke(hash, by && { ...UNKNOWN_ORIGIN, actor: parseActor('revokedBy', by.revokedBy) })
    },
    async metrics () {
      return {
        ...structuredClone(tokens.counts),
        lease: store.lease(),
        usage: usage.lag(),
        tokens: lifecycle.isEnabled ? await store.count(Date.now()).catch(() => null) : null
      }
    }
  }
}
