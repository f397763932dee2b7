import jwt, { type JWT } from '@fastify/jwt'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { NotEnabledError } from './errors.js'
import { addAuthentication } from './http/authenticate.js'
import { createRequireRole, createSession } from './http/authorize.js'
import { checkHost, explainRoutes } from './http/host.js'
import { redactParameter } from './http/redact.js'
import { createRoutes } from './http/routes.js'
import { createSendError } from './http/send-error.js'
import { checkOptions } from './options.js'
import { createPostgresStore } from './store/postgres.js'
import { createCache } from './tokens/cache.js'
import { deriveKey, fingerprint } from './tokens/jwt.js'
import { createTokens } from './tokens/tokens.js'
import { createUsage } from './tokens/usage.js'
import type { ApplicationTokens, Claims, Signer, Token, TokensPluginOptions } from './types.js'

export type { ApplicationTokens, CreateToken, Guard, Health, IssuedToken, PostgresConfig, PostgresPool, Token, TokenPrincipal, TokensPluginOptions } from './types.js'

const register: FastifyPluginAsync<TokensPluginOptions> = async (app, options) => {
  checkHost(app)
  const { postgres, listen, migrate, schema, secrets, issuer, roles, hook, queryParameter, versions, enabled, prefix, session: ask } = checkOptions(options)

  const store = createPostgresStore({ postgres, listen, migrate, schema, fingerprints: secrets.map(fingerprint), log: app.log })
  const usage = createUsage(store, app.log)
  const signers = await createSigners(app, secrets.map(deriveKey), issuer)
  const cache = createCache(store.isTrusted, () => performance.now())
  const tokens = createTokens({ store, cache, signers, usage, issuer, roles })

  let isWanted = false
  let isEnabled = false
  let isReady = false
  async function enable (): Promise<void> {
    isWanted = true
    if (!isReady) await store.start(cache)
    isReady = true
    // Somebody may have called `disable` meanwhile.
    isEnabled = isWanted
  }
  async function disable (): Promise<void> {
    isWanted = isEnabled = false
  }
  function requireEnabled (): void {
    if (!isEnabled) throw new NotEnabledError()
  }

  const session = createSession(ask)
  const applicationTokens: ApplicationTokens = {
    get enabled () { return isEnabled },
    health: () => ({ enabled: isEnabled, lease: store.isTrusted() ? 'held' : 'lost' }),
    enable,
    disable,
    requireRole: createRequireRole(session, issuer),
    async issue (token) {
      requireEnabled()
      return await tokens.issue(token, Date.now())
    },
    async list () {
      requireEnabled()
      const list: Token[] = []
      for await (const page of tokens.list()) list.push(...page)
      return list
    },
    async get (hash) {
      requireEnabled()
      return await tokens.get(hash)
    },
    async revoke (hash) {
      requireEnabled()
      return await tokens.revoke(hash)
    }
  }
  app.decorate('tokens', applicationTokens)

  const sendError = createSendError(issuer, session)
  if (queryParameter !== false) redactParameter(app.log, queryParameter)
  addAuthentication(app, { tokens, isEnabled: () => isEnabled, hook, parameter: queryParameter, sendError })
  try {
    await app.register(createRoutes({ tokens, isEnabled: () => isEnabled, session, roles, versions, sendError }), { prefix })
  } catch (cause) {
    throw explainRoutes(cause, prefix)
  }

  app.addHook('onClose', async () => {
    await usage.close()
    await store.close()
  })
  if (enabled) await enable()
}

/**
 * HS256 with our keys (RFC 7515): the first signs, all verify. They are made in a child and under names of their own, so that the host
 * may have its own @fastify/jwt, before or after us. Expiry is judged by the rules, to which time is an argument.
 */
async function createSigners (app: FastifyInstance, keys: Buffer[], issuer: string): Promise<[Signer, ...Signer[]]> {
  const signers: Signer[] = []
  await app.register(async child => {
    // Hides the host's own, whatever it is, from a plugin that would add to it.
    child.decorate('jwt', Object.create(null) as JWT)
    for (const [index, secret] of keys.entries()) {
      const namespace = `mmcTokens${index}`
      await child.register(jwt, {
        namespace,
        secret,
        sign: { algorithm: 'HS256' },
        verify: { algorithms: ['HS256'], allowedIss: issuer, requiredClaims: ['role', 'iat', 'exp', 'iss', 'jti'], ignoreExpiration: true }
      })
      const { sign, verify } = (child.jwt as unknown as Record<string, JWT>)[namespace] as JWT
      signers.push({ sign: claims => sign(claims), verify: secret => verify<Claims>(secret) })
    }
  })
  return signers as [Signer, ...Signer[]]
}

const plugin = fp(register, { name: 'fastify-mmc-tokens', fastify: '5.x' })

export default plugin
export { plugin as 'module.exports' }
