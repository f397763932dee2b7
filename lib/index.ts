import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { createApplicationTokens } from './application-tokens.js'
import { addAuthentication } from './http/authenticate.js'
import { createRequireRole, createSession } from './http/authorize.js'
import { createConnections } from './http/connections.js'
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
import { type CachedToken, createCache } from './tokens/cache.js'
import { beatChannel, deriveKey, fingerprint } from './tokens/jwt.js'
import { createTokens } from './tokens/tokens.js'
import { createUsage } from './tokens/usage.js'
import type { TokensPluginOptions } from './types.js'

export type {
  ApplicationTokens, Authenticated, BootstrapEntry, Closable, CreateToken, Guard, Health, IssuedToken, Metrics,
  PostgresConfig, PostgresPool, Token, TokenEvent, TokenPrincipal, TokensPluginOptions
} from './types.js'

const register: FastifyPluginAsync<TokensPluginOptions> = async (app, options) => {
  checkHost(app)
  const settings = checkOptions(options, app)
  const { secrets, issuer, roles, queryParameter, prefix, schema } = settings
  const { log } = app

  const beats = secrets.map(secret => beatChannel(secret, schema))
  const store = createPostgresStore({ ...settings, fingerprints: secrets.map(fingerprint), beats, log })
  const cache = createCache(store.isTrusted, () => performance.now())
  const usage = createUsage(store, log)
  const audit = createAudit({ store, onEvent: settings.onEvent, log })
  const purge = createPurge({ store, seconds: settings.purgeExpiredAfter, onPurged: audit.report, log })
  const signers = await createSigners(app, secrets.map(deriveKey), issuer)
  const isEnabled = (): boolean => lifecycle.isEnabled
  const isCurrent = (cached: CachedToken): boolean => cache.get(cached.token.hash) === cached
  const connections = createConnections({ isCurrent, isTrusted: store.isTrusted, findAll: store.findAll })
  const tokens = createTokens({ ...settings, store, cache, signers, usage, audit, connections })

  const lifecycle = createLifecycle({
    async start () {
      await store.start(cache, audit.onEventsWaiting, [connections])
      const { bootstrap: file, bootstrapStrict: isStrict } = settings
      await bootstrap({ store, audit, roles, log, file, isStrict }, Date.now())
      audit.start()
      purge.start()
    },
    async stop () {
      connections.close()
      await Promise.all([usage.close(), purge.close()])
      await audit.close()
      await store.close()
    }
  })

  const session = createSession(settings.session, log)
  const requireRole = createRequireRole({ session, realm: issuer, roles, log })
  const sendError = createSendError(issuer, session)
  app.decorate('tokens', createApplicationTokens({ tokens, connections, audit, lifecycle, store, usage, requireRole }))
  if (queryParameter !== false) redactParameter(log, queryParameter, issuer)
  addAuthentication(app, {
    ...settings, tokens, isEnabled, disables: () => lifecycle.disables, audit, connections, sendError
  })
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
    // A host that continues without the plugin must not keep the plugin's connections.
    await lifecycle.close()
    throw error
  }
}

const plugin = fp(register, { name: 'fastify-mmc-tokens', fastify: '5.x' })

export default plugin
/** @internal For `require()`. tsc omits its declaration, which is error TS18057 in hosts with `module: es2020`. */
export { plugin as 'module.exports' }
