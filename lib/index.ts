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
import { bootstrap as addBootstrap } from './tokens/bootstrap.js'
import { createCache } from './tokens/cache.js'
import { createEvents, NOBODY } from './tokens/events.js'
import { deriveKey, fingerprint } from './tokens/jwt.js'
import { parseActor } from './tokens/new-token.js'
import { createPurge } from './tokens/purge.js'
import { createTokens } from './tokens/tokens.js'
import { createUsage } from './tokens/usage.js'
import type { ApplicationTokens, Claims, Signer, Token, TokensPluginOptions } from './types.js'

export type { ApplicationTokens, CreateToken, Guard, Health, IssuedToken, Metrics, PostgresConfig, PostgresPool, Token, TokenEvent, TokenPrincipal, TokensPluginOptions } from './types.js'

const register: FastifyPluginAsync<TokensPluginOptions> = async (app, options) => {
  checkHost(app)
  const {
    postgres, listen, migrate, schema, secrets, issuer, roles, hook, queryParameter, versions, enabled, prefix, session: ask,
    bootstrap, bootstrapStrict, onEvent, maxLifetime, tokensMayManageTokens, purgeExpiredAfter, expiryHeader
  } = checkOptions(options, app)

  const store = createPostgresStore({ postgres, listen, migrate, schema, fingerprints: secrets.map(fingerprint), log: app.log })
  const usage = createUsage(store, app.log)
  const signers = await createSigners(app, secrets.map(deriveKey), issuer)
  const cache = createCache(store.isTrusted, () => performance.now())
  const events = createEvents(store, onEvent, app.log)
  const purge = createPurge(store, purgeExpiredAfter, events.ended, app.log)
  const tokens = createTokens({ store, cache, signers, usage, events, issuer, roles, maxLifetime })

  let isWanted = enabled
  let isEnabled = false
  let isReady = false
  async function enable (): Promise<void> {
    isWanted = true
    if (!isReady) {
      await store.start(cache, events.ended)
      if (bootstrap !== undefined) await addBootstrap({ store, events, roles, log: app.log, file: bootstrap, isStrict: bootstrapStrict }, Date.now())
      events.start()
      purge.start()
    }
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

  const session = createSession(ask, app.log)
  const applicationTokens: ApplicationTokens = {
    get enabled () { return isEnabled },
    health: () => ({ enabled: isEnabled, lease: store.isTrusted() ? 'held' : 'lost' }),
    enable,
    disable,
    requireRole: createRequireRole({ session, realm: issuer, roles, log: app.log }),
    async issue (token) {
      requireEnabled()
      return await tokens.issue(token, Date.now())
    },
    sign: token => tokens.sign(token, Date.now()),
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
      return await tokens.revoke(hash, by && { ...NOBODY, actor: parseActor('revokedBy', by.revokedBy) })
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
        tokens: isEnabled ? await store.count(Date.now()).catch(() => null) : null
      }
    }
  }
  app.decorate('tokens', applicationTokens)

  const sendError = createSendError(issuer, session)
  if (queryParameter !== false) redactParameter(app.log, queryParameter)
  addAuthentication(app, { tokens, isEnabled: () => isEnabled, hook, parameter: queryParameter, events, expiryHeader, sendError })
  try {
    await app.register(createRoutes({ tokens, isEnabled: () => isEnabled, session, roles, versions, tokensMayManageTokens, sendError }), { prefix })
  } catch (cause) {
    throw explainRoutes(cause, prefix)
  }

  let closing: Promise<void> | undefined
  async function close (): Promise<void> {
    await Promise.all([usage.close(), purge.close()])
    await events.close()
    await store.close()
  }
  app.addHook('onClose', async () => { await (closing ??= close()) })
  if (!enabled) return
  try {
    await enable()
  } catch (error) {
    // A host that lives on without us keeps no connection of ours.
    await (closing ??= close())
    throw error
  }
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
/** @internal For `require()`. A declaration of it is TS18057 to hosts with `module: es2020`, so tsc leaves it out. */
export { plugin as 'module.exports' }
