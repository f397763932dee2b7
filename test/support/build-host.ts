import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { CreateToken, IssuedToken, TokensPluginOptions } from '../../lib/index.js'
import { createDatabase, type Database } from './database.js'
import { createHost, type HostOptions } from './host.js'

export const SECRET = 'a secret of the tests, long enough: 0123456789'

export interface TestHostOptions extends Partial<Omit<HostOptions, 'tokens'>> {
  tokens?: Partial<TokensPluginOptions>
  /** Another host's database: they are two nodes then. */
  database?: Database
}

export interface TestHost {
  app: FastifyInstance
  database: Database
  /** Headers of a session of this user. */
  login: (username?: string) => Promise<{ cookie: string }>
  /** A token that an admin made. */
  issue: (token?: Partial<{ name: string, role: string, validUntil: string }>) => Promise<IssuedToken>
}

/** A fresh host in a database schema of its own, closed when the test ends. */
export async function buildHost (t: Test, { tokens, database, ...options }: TestHostOptions = {}): Promise<TestHost> {
  const { url, schema } = database ??= await createDatabase(t)
  const app = await createHost({
    sessionKey: Buffer.alloc(32, 7), tokens: { postgres: url, schema, secret: SECRET, ...tokens }, ...options
  })
  t.teardown(() => app.close())
  await app.ready()
  const base = options.basePath ?? ''

  async function login (username = 'cedalo'): Promise<{ cookie: string }> {
    const response = await app.inject({
      method: 'POST',
      url: `${base}/auth?json=true`,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      payload: `username=${username}&password=secret`
    })
    return { cookie: String(response.headers['set-cookie']).split(';', 1)[0] ?? '' }
  }

  let count = 0
  async function issue (token = {}): Promise<IssuedToken> {
    return await issueInOrder(app, { name: `token ${++count}`, ...token })
  }

  return { app, database, login, issue }
}

/** A token that later ones follow in a list, where those of one millisecond are sorted by their hash. */
export async function issueInOrder (
  app: FastifyInstance, token: { name: string } & Partial<CreateToken>
): Promise<IssuedToken> {
  const issued = await app.tokens.issue({
    role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test', ...token
  })
  // A test may have Date.now in its hands.
  const made = new Date().getTime()
  while (new Date().getTime() === made) await turn()
  return issued
}

/** The header with which a program presents its token. */
export function bearer (token: string): { authorization: string } {
  return { authorization: `Bearer ${token}` }
}
