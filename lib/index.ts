import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { createApplicationTokens } from './application-tokens.js'
import { addAuthentication } from './http/authenticate.js'
import { createRequireRole, createSession } from './http/authorize.js'
import { checkHost, explainRoutes } from './http/host.js'
import { redactParameter } from './http/redact-log.js'
import { createRoutes } from './http/routes.js'
import { createSendError } from './http/send-error.js'
import { createLifecycle } from './lifecycle.js'
import { createAudit } from './operations/audit.js'
import { bootstrap } from './operations/bootstrap.js'
import { createPurge } from './operations/purge.js'
import { checkOptions } from './options.js'
import { createSigners } from './signers.js'
import { createPostgresStore } from './store/postgres.js'
import { createCache } from './tokens/cache.js'
import { deriveKey, fingerprint } from './tokens/jwt.js'
import { createTokens } from './tokens/tokens.js'
import { createUsage } from './tokens/usage.js'
import type { TokensPluginOptions } from './types.js'

export type {
  ApplicationTokens, CreateToken, Guard, Health, IssuedToken, Metrics, PostgresConfig, PostgresPool, Token, TokenEvent, TokenPrincipal,
  TokensPluginOptions
} from './types.js'

const register: FastifyPluginAsync<TokensPluginOptions> = async (app, options) => {
  checkHost(app)
  const settings = checkOptions(options, app)
  const { secrets, issuer, roles, queryParameter, prefix } = settings
  const { log } = app

  const store = createPostgresStore({ ...settings, fingerprints: secrets.map(fingerprint), log })
  const cache = createCache(store.isTrusted, () => performance.now())
  const usage = createUsage(store, log)
  const audit = createAudit({ store, onEvent: settings.onEvent, log })
  const purge = createPurge({ store, seconds: settings.purgeExpiredAfter, onPurged: audit.report, log })
  const signers = await createSigners(app, secrets.map(deriveKey), issuer)
  const tokens = createTokens({ store, cache, signers, usage, audit, issuer, roles, maxLifetime: settings.maxLifetime })

  const lifecycle = createLifecycle({
    async start () {
      await store.start(cache, audit.hear)
      await bootstrap({ store, audit, roles, log, file: settings.bootstrap, isStrict: settings.bootstrapStrict }, Date.now())
      audit.start()
      purge.start()
    },
    async stop () {
      await Promise.all([usage.close(), purge.close()])
      await audit.close()
      await store.close()
    }
  })
  const isEnabled = (): boolean => lifecycle.isEnabled

  const session = createSession(settings.session, log)
  const requireRole = createRequireRole({ session, realm: issuer, roles, log })
  const sendError = createSendError(issuer, session)
  app.decorate('tokens', createApplicationTokens({ tokens, lifecycle, store, usage, requireRole }))
  if (queryParameter !== false) redactParameter(log, queryParameter)
  addAuthentication(app, { ...settings, tokens, isEnabled, audit, sendError })
  try {
    await app.register(createRoutes({ ...settings, tokens, isEnabled, session, sendError }), { prefix })
  } catch (cause) {
    throw explainRoutes(cause, prefix)
  }

  app.addHook('onClose', lifecycle.close)
  if (!settings.enabled) return
  try {
    await lifecycle.enable()
  } catch (error) {
    // A host that lives on without the plugin keeps no connection of it.
    await lifecycle.close()
    throw error
  }
}

const plugin = fp(register, { name: 'fastify-mmc-tokens', fastify: '5.x' })

export default plugin
/** @internal For `require()`. A declaration of it is TS18057 to hosts with `module: es2020`, so tsc leaves it out. */
export { plugin as 'module.exports' }
