import Fastify from 'fastify'
import tokensPlugin, { type IssuedToken, type Metrics, type Token, type TokenEvent, type TokenPrincipal, type TokensPluginOptions } from 'fastify-mmc-tokens'
import pg from 'pg'

type Is<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const yes = <T extends true>(): T | undefined => undefined

const app = Fastify()
const options: TokensPluginOptions = { postgres: 'postgres://localhost/mmc', secret: 'secret' }
await app.register(tokensPlugin, options)
await app.register(tokensPlugin, { ...options, postgres: new pg.Pool(), listen: { host: 'localhost', ssl: true } })
const config: pg.PoolConfig = { host: 'localhost', max: 2 }
const direct: pg.ClientConfig = { host: 'localhost' }
await app.register(tokensPlugin, { ...options, postgres: config, listen: direct })
await app.register(tokensPlugin, { ...options, session: async request => ({ username: request.id, roles: [] }), prefix: '/mmc', logLevel: 'warn' })

// @ts-expect-error the option is called prefix
await app.register(tokensPlugin, { postgres: 'postgres://localhost/mmc', secret: 'secret', prefixx: '/mmc' })
// @ts-expect-error postgres is required
await app.register(tokensPlugin, { secret: 'secret' })
// @ts-expect-error a hook of another name
await app.register(tokensPlugin, { ...options, hook: 'onSend' })
// @ts-expect-error a user has roles
await app.register(tokensPlugin, { ...options, session: () => ({ username: 'me' }) })

app.get('/hello', { config: { applicationTokens: false }, preHandler: app.tokens.requireRole('editor') }, async request => {
  yes<Is<typeof request.applicationToken, Token | null>>()
  // @ts-expect-error there may be none
  return request.applicationToken.name
})
// @ts-expect-error it is true or false
app.get('/none', { config: { applicationTokens: 'no' } }, async () => {})

const issued = await app.tokens.issue({ name: 'ci', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'me' })
yes<Is<typeof issued, IssuedToken>>()
yes<Is<typeof issued.token, string>>()
const listed = await app.tokens.list()
yes<Is<typeof listed, Token[]>>()
yes<Is<keyof Token, 'name' | 'hash' | 'validUntil' | 'role' | 'requestedBy' | 'issueDate' | 'lastUsed'>>()
yes<Is<ReturnType<typeof app.tokens.revoke>, Promise<boolean>>>()
// @ts-expect-error who requests it is required
await app.tokens.issue({ name: 'ci', role: 'viewer', validUntil: '2099-01-01T00:00:00Z' })

yes<Is<ReturnType<typeof app.tokens.metrics>, Promise<Metrics>>>()
yes<Is<keyof ReturnType<typeof app.tokens.mint>, 'token' | 'entry'>>()
await app.tokens.revoke(issued.hash, { revokedBy: 'me' })
await app.register(tokensPlugin, { ...options, maxLifetime: 60, purgeExpiredAfter: 0, bootstrap: 'tokens.json', onEvent: event => { yes<Is<typeof event, TokenEvent>>() } })
// @ts-expect-error seconds are a number
await app.register(tokensPlugin, { ...options, maxLifetime: '90d' })

const principal: TokenPrincipal = { username: 'token:ci', roles: ['viewer'] }
app.log.info(principal.username)
