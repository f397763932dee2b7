import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { createSession as create } from '../../lib/http/authorize.js'
import type { Log, TokensPluginOptions } from '../../lib/types.js'

const log = { warn () {} } as unknown as Log
const createSession = (ask?: TokensPluginOptions['session']) => create(ask, log)
const ME = { username: 'me', roles: ['viewer'] }

t.test('a session that the host answers at once is there at once, and one that it promises is a promise', async t => {
  for (const user of [ME, null]) {
    t.equal(createSession(() => user)({} as FastifyRequest), user)
    const promised = createSession(async () => user)({} as FastifyRequest)
    t.ok(promised instanceof Promise)
    t.equal(await promised, user)
    const thenable = { then: (tell: (answer: typeof user) => void) => { tell(user) } } as Promise<typeof user>
    t.equal(await createSession(() => thenable)({} as FastifyRequest), user, 'also a promise of another make')
  }
})

t.test('without the option "session" it is request.user', async t => {
  t.equal(createSession()({ user: ME } as never), ME)
  t.equal(createSession()({} as never), null)
})

t.test('who has no name, an empty one, or no list of roles is nobody', async t => {
  for (const user of [undefined, null, 'me', 1, {}, { roles: [] }, { username: '', roles: [] }, { username: 1, roles: [] }, { username: 'me' }, { username: 'me', roles: 'admin' }]) {
    t.equal(createSession(() => user as never)({} as FastifyRequest), null, JSON.stringify(user))
    t.equal(await createSession(async () => user as never)({} as FastifyRequest), null)
  }
})
