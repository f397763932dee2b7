import jwt, { type JWT } from '@fastify/jwt'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { ROLES } from '../schemas/token.js'
import { NotEnabledError } from './errors.js'
import { addAuthentication } from './http/authenticate.js'
import { createSession } from './http/authorize.js'
import { redactParameter } from './http/redact.js'
import { createRoutes } from './http/routes.js'
import { createSendError } from './http/send-error.js'
import { checkOptions } from './options.js'
import { createPostgresStore } from './store/postgres.js'
import { deriveKey } from './tokens/jwt.js'
import { createTokens } from './tokens/tokens.js'
import { createUsage } from './tokens/usage.js'
import type { ApplicationTokens, Claims, Signer, TokensPluginOptions } from './types.js'

export type { ApplicationTokens, CreateToken, IssuedToken, PostgresConfig, PostgresPool, Token, TokenPrincipal, TokensPluginOptions } from './types.js'

const PARAMETER = 'token'
const VERSIONS = [1]

const register: FastifyPluginAsync<TokensPluginOptions> = async (app, options) => {
  const { postgres, schema, secret, issuer, enabled, prefix, session: ask } = checkOptions(options)

  const store = createPostgresStore({ postgres, schema, log: app.log })
  const usage = createUsage(store, app.log)
  const signer = await createSigner(app, deriveKey(secret), issuer)
  const tokens = createTokens({ store, signer, usage, issuer, roles: ROLES })

  let isWanted = false
  let isEnabled = false
  let isReady = false
  async function enable (): Promise<void> {
    isWanted = true
    if (!isReady) await store.migrate()
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

  const applicationTokens: ApplicationTokens = {
    get enabled () { return isEnabled },
    enable,
    disable,
    async issue (token) {
      requireEnabled()
      return await tokens.issue(token, Date.now())
    },
    async list () {
      requireEnabled()
      return await tokens.list()
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

  const session = createSession(ask)
  const sendError = createSendError(issuer, session)
  redactParameter(app.log, PARAMETER)
  addAuthentication(app, { tokens, isEnabled: () => isEnabled, parameter: PARAMETER, sendError })
  await app.register(createRoutes({ tokens, isEnabled: () => isEnabled, session, roles: ROLES, versions: VERSIONS, sendError }), { prefix })

  app.addHook('onClose', async () => {
    await usage.close()
    await store.close()
  })
  if (enabled) await enable()
}

/**
 * HS256 with our key (RFC 7515). It is made in a child and under a name of its own, so that the host may have its own @fastify/jwt,
 * before or after us. Expiry is judged by the rules, to which time is an argument.
 */
async function createSigner (app: FastifyInstance, key: Buffer, issuer: string): Promise<Signer> {
  const namespace = 'mmcTokens'
  let signer: Signer | undefined
  await app.register(async child => {
    await child.register(jwt, {
      namespace,
      decoratorName: 'mmcTokensUser',
      secret: key,
      sign: { algorithm: 'HS256' },
      verify: { algorithms: ['HS256'], allowedIss: issuer, requiredClaims: ['role', 'iat', 'exp', 'iss', 'jti'], ignoreExpiration: true }
    })
    const { sign, verify } = (child.jwt as unknown as Record<typeof namespace, JWT>)[namespace]
    signer = { sign: claims => sign(claims), verify: secret => verify<Claims>(secret) }
  })
  return signer as unknown as Signer
}

const plugin = fp(register, { name: 'fastify-mmc-tokens', fastify: '5.x' })

export default plugin
export { plugin as 'module.exports' }
