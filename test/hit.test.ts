import Fastify from 'fastify'
import t from 'tap'
import { addAuthentication } from '../lib/http/authenticate.js'
import type { Tokens } from '../lib/tokens/tokens.js'
import { bearer } from './host/build-host.js'

t.test('a token that is known is authenticated at once, without a promise', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const record = { name: 'known', hash: 'h', validUntil: '', role: 'viewer', requestedBy: 'x', issueDate: '', lastUsed: '' }
  const tokens = { isOurs: () => true, authenticate: () => record } as unknown as Tokens
  addAuthentication(app, { tokens, isEnabled: () => true, hook: 'preHandler', parameter: 'token', sendError: async () => {} })
  let turns = 0
  app.addHook('preValidation', (_request, _reply, done) => {
    queueMicrotask(() => { turns++ })
    done()
  })
  app.get('/', (request, reply) => { reply.send({ name: request.applicationToken?.name, turns }) })
  t.strictSame((await app.inject({ url: '/', headers: bearer('x') })).json(), { name: 'known', turns: 0 })
})
