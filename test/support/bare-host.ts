import Fastify, { type FastifyInstance, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import tokensPlugin, { type IssuedToken, type TokensPluginOptions } from '../../lib/index.js'
import { issueInOrder, SECRET } from './build-host.js'
import { createDatabase } from './database.js'

export interface BareHost {
  app: FastifyInstance
  /** Registers the plugin, where it is its turn. */
  addTokens: (options?: Partial<TokensPluginOptions>) => Promise<void>
  issue: (token?: Partial<{ name: string, role: string }>) => Promise<IssuedToken>
}

/** A host with nothing in it, for a test to add what its host has; closed when the test ends. */
export async function createBareHost (t: Test, options: FastifyServerOptions = {}): Promise<BareHost> {
  const { url: postgres, schema } = await createDatabase(t)
  // A copy: Fastify 5.0 writes its logger into it, which it then refuses as an option of the next host.
  const app = Fastify({ ...options })
  t.teardown(() => app.close())
  let count = 0
  return {
    app,
    addTokens: async options => { await app.register(tokensPlugin, { postgres, schema, secret: SECRET, ...options }) },
    issue: async token => await issueInOrder(app, { name: `t${++count}`, ...token })
  }
}

/** When the host registers its own, seen from us. */
export const ORDERS = ['before the plugin', 'after the plugin'] as const

export async function inOrder (
  order: typeof ORDERS[number], own: () => Promise<unknown>, us: () => Promise<unknown>
): Promise<void> {
  for (const step of order === 'before the plugin' ? [own, us] : [us, own]) await step()
}

/** Who a host finds in a request. */
export function who (request: FastifyRequest): { user: unknown, token: string | null } {
  return {
    user: (request as { user?: unknown }).user ??
    null,
    token: request.applicationToken && request.applicationToken.name
  }
}

/** A body that creates a token. */
export const NEW_TOKEN = { name: 'new', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }

/** Claims to be ours and is not. */
export const FORGED = ['{"alg":"HS256","typ":"JWT"}', '{"iss":"cedalo"}', 'x'].map(part =>
  Buffer.from(part).toString('base64url')).join('.')
