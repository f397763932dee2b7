import Fastify, { type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import tokensPlugin, { type TokensPluginOptions } from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'

const GOOD = { postgres: 'postgres://localhost/none', secret: SECRET, enabled: false }

/** What a start with these options says; nothing where they are taken. */
async function refusal (t: Test, options: object, server: FastifyServerOptions = {}): Promise<string> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  return await Promise.resolve(app.register(tokensPlugin, { ...GOOD, ...options } as TokensPluginOptions)).then(() => '', ({ message }: Error) => message)
}

t.test('what is no connection string of Postgres is refused, in whatever option it stands', async t => {
  for (const bad of ['localhost:5432/mmc', 'not a url', 'mysql://me@here/mmc', 'postgres', 'postgres:', 'postgres://', 'postgresql:///', 'postgres:here', ' postgres://here/mmc', 'host=here dbname=mmc', 'socket:', new URL('postgres://here/mmc'), []]) {
    t.match(await refusal(t, { postgres: bad }), /^option "postgres" must be a connection string such as/, String(bad))
    t.match(await refusal(t, { listen: bad }), /^option "listen" must be a connection string/, String(bad))
    t.match(await refusal(t, { postgres: { connectionString: bad } }), /^option "postgres" must be a connection string such as/, String(bad))
  }
  for (const good of ['postgres://here/mmc', 'postgresql://me:pass@here:5433/mmc?sslmode=verify-full', 'POSTGRES://here', 'postgres:///mmc', 'socket:/var/run/postgresql?db=mmc', '/var/run/postgresql mmc']) {
    t.equal(await refusal(t, { postgres: good, listen: good }), '', good)
    t.equal(await refusal(t, { postgres: { connectionString: good } }), '', good)
  }
  for (const config of [{}, { connectionString: undefined, host: 'here' }]) t.equal(await refusal(t, { postgres: config }), '')
})

t.test('times that were meant in milliseconds are refused', async t => {
  for (const name of ['maxLifetime', 'purgeExpiredAfter']) {
    for (const seconds of [90 * 86_400_000, 3_155_760_001]) t.match(await refusal(t, { [name]: seconds }), new RegExp(`^option "${name}" must be a whole number of seconds from .*, and at most 100 years$`))
    t.equal(await refusal(t, { [name]: 3_155_760_000 }), '')
  }
})

t.test('a misspelt option is refused with the one that was meant', async t => {
  for (const [misspelt, meant] of [['secert', 'secret'], ['secrets', 'secret'], ['prefixx', 'prefix'], ['maxLifeTime', 'maxLifetime'], ['onevent', 'onEvent'], ['postgress', 'postgres'], ['queryParam', undefined], ['somethingElse', undefined]]) {
    const said = await refusal(t, { [misspelt as string]: 'x' })
    t.ok(said.startsWith(`there is no option "${misspelt}": the options are postgres, `), said)
    t.equal(/did you mean "(.*)"\?$/.exec(said)?.[1], meant, said)
  }
})

t.test('what fastify-cli hands to every plugin stops no start: skipOverride and the options of the server', async t => {
  const server: FastifyServerOptions = {
    logger: false,
    bodyLimit: 1000,
    trustProxy: true,
    pluginTimeout: 5000,
    genReqId: () => 'x',
    disableRequestLogging: true,
    requestTimeout: 1,
    keepAliveTimeout: 1,
    connectionTimeout: 1,
    exposeHeadRoutes: false,
    ajv: { customOptions: {} },
    requestIdHeader: 'x-id',
    forceCloseConnections: true,
    frameworkErrors: () => {},
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 200 }
  }
  t.equal(await refusal(t, { ...server, skipOverride: true, prefix: '/mmc' }, server), '')
})
