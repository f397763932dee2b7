import { NotEnabledError } from './errors.js'
import type { Lifecycle } from './lifecycle.js'
import { parseActor } from './tokens/new-token.js'
import { type Tokens, UNKNOWN_ORIGIN } from './tokens/tokens.js'
import type { ApplicationTokens, Metrics, Store, Token } from './types.js'

interface Parts {
  tokens: Tokens
  lifecycle: Lifecycle
  store: Pick<Store, 'isTrusted' | 'lease' | 'count'>
  usage: { lag: () => Metrics['usage'] }
  requireRole: ApplicationTokens['requireRole']
}

/** Builds `app.tokens`. */
export function createApplicationTokens ({ tokens, lifecycle, store, usage, requireRole }: Parts): ApplicationTokens {
  function requireEnabled (): void {
    if (!lifecycle.isEnabled) throw new NotEnabledError()
  }

  return {
    get enabled () { return lifecycle.isEnabled },
    health: () => ({ enabled: lifecycle.isEnabled, lease: store.isTrusted() ? 'held' : 'lost' }),
    enable: lifecycle.enable,
    async disable () { lifecycle.disable() },
    requireRole,
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
      const { authentications, cacheHits, lookups } = tokens.counts
      const { isHeld, losses } = store.lease()
      return {
        authentications: { ...authentications },
        cacheHits,
        lookups,
        lease: { held: Number(isHeld), losses },
        usage: usage.lag(),
        tokens: lifecycle.isEnabled ? await store.count(Date.now()).catch(() => null) : null
      }
    }
  }
}
