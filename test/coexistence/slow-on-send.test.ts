import { setTimeout as wait } from 'node:timers/promises'
import cookie from '@fastify/cookie'
import express from '@fastify/express'
import session from '@fastify/session'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const AT_ONCE = 20

/** How often each kind of error is provoked, some at once. */
const TIMES = Number(process.env.ERROR_ANSWERS ?? AT_ONCE)

const TOKEN = { role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }

interface Counted { address: string, secret: string, sends: Map<string, number> }

/**
 * A host that listens, whose user is who the header `x-user` says, and that counts how often `onSend` runs for each
 * request.
 */
async function listen (t: Test, prepare: (app: FastifyInstance) => Promise<void>): Promise<Counted> {
  const { url, schema } = await createDatabase(t)
  const app = Fastify({ bodyLimit: 10_000 })
  const sends = new Map<string, number>()
  app.addHook('onSend', async ({ headers: { 'x-id': id } }) => {
    sends.set(String(id), (sends.get(String(id)) ?? 0) +
    1)
  })
  await prepare(app)
  await app.register(tokensPlugin, {
    postgres: url,
    schema,
    secret: SECRET,
    session ({ headers }) {
      const user = headers['x-user']
      if (user === 'broken') throw new Error('no session')
      return user === undefined ? null : { username: String(user), roles: [String(user)] }
    }
  })
  t.teardown(() => app.close())
  const address = await app.listen({ host: '127.0.0.1', port: 0 })
  const { token } = await app.tokens.issue({ ...TOKEN, name: 'taken', requestedBy: 'test' })
  return { address, secret: token, sends }
}

const JSON_TYPE = { 'content-type': 'application/json' }
const ADMIN = { 'x-user': 'admin', ...JSON_TYPE }
const errors = (secret: string): Array<[status: number, path: string, RequestInit]> => [
  [400, '', { method: 'POST', headers: ADMIN, body: '{' }],
  [400, `?token=${secret}`, { headers: bearer(secret) }],
  [401, '', {}],
  [401, `/${'0'.repeat(64)}`, { method: 'DELETE' }],
  [401, '', { headers: bearer(secret.slice(0, -9) + 'AAAAAAAAA') }],
  [403, '', { headers: { 'x-user': 'viewer' } }],
  [403, '', { headers: bearer(secret) }],
  [404, `/${'0'.repeat(64)}`, { headers: { 'x-user': 'admin' } }],
  [404, `/${'0'.repeat(64)}`, { method: 'DELETE', headers: { 'x-user': 'admin', prefer: 'return=minimal' } }],
  [406, '', { headers: { 'x-user': 'admin', accept: 'text/html' } }],
  [409, '', { method: 'POST', headers: ADMIN, body: JSON.stringify({ ...TOKEN, name: 'taken' }) }],
  [413, '', { method: 'POST', headers: ADMIN, body: ' '.repeat(20_000) }],
  [415, '', { method: 'POST', headers: { ...ADMIN, 'content-type': 'text/plain' }, body: 'x' }],
  [500, '', { headers: { 'x-user': 'broken' } }],
  [500, '', { method: 'POST', headers: { ...ADMIN, 'x-user': 'broken' }, body: '{}' }]
]

/** Provokes every kind of error, and the answers that are none. */
async function areWhole (t: Test, { address, secret, sends }: Counted): Promise<void> {
  let id = 0
  async function ask (
    path: string, init: RequestInit
  ): Promise<{ status: number, text: string, times: number | undefined }> {
    const own = String(++id)
    try {
      const answer = await fetch(`${address}/api/tokens${path}`, {
        ...init, headers: { ...init.headers as Record<string, string>, 'x-id': own }
      })
      const text = await answer.text()
      return { status: answer.status, text, times: sends.get(own) }
    } catch (error) {
      return { status: 0, text: String(error), times: sends.get(own) }
    }
  }
  for (const [status, path, init] of errors(secret)) {
    const answers: Array<Awaited<ReturnType<typeof ask>>> = []
    while (answers.length < TIMES) {
      answers.push(
        ...await Promise.all(Array.from({ length: AT_ONCE }, async () => await ask(path, init)))
      )
    }
    const bad = answers.filter(answer =>
      answer.status !== status || answer.times !== 1 || !/^\{"code":".*"message":".*\}$/.test(answer.text))
    t.strictSame(bad, [], `${TIMES} × ${status} ${init.method ?? 'GET'} ${path.slice(0, 9)}`)
  }
  const admin = { 'x-user': 'admin' }
  const unknown = `/${'0'.repeat(64)}`
  t.match(await ask('', { headers: admin }), { status: 200, text: /"taken"/, times: 1 })
  t.match(await ask(unknown, { method: 'DELETE', headers: admin }), { status: 200, text: /"taken"/, times: 1 })
  const created = await ask('', { method: 'POST', headers: ADMIN, body: JSON.stringify({ ...TOKEN, name: 'new' }) })
  t.match(created, { status: 200, times: 1 })
  const { hash } = JSON.parse(created.text) as { hash: string }
  t.match(await ask(`/${hash}`, { method: 'DELETE', headers: { ...admin, prefer: 'return=minimal' } }), {
    status: 204, text: '', times: 1
  })
}

t.test('every error is sent once and complete in a host with a slow asynchronous onSend hook', async t => {
  await areWhole(t, await listen(t, async app => {
    app.addHook('onSend', async () => { await wait(50) })
  }))
})

t.test('every error is sent once with @fastify/session, which stores every new session before it sends', async t => {
  await areWhole(t, await listen(t, async app => {
    const sessions = new Map<string, unknown>()
    await app.register(cookie)
    await app.register(session, {
      secret: 'a secret of the session, long enough: 0123456789',
      saveUninitialized: true,
      cookie: { secure: false },
      store: {
        set (id, value, callback) {
          sessions.set(id, value)
          setTimeout(callback, 1 + sessions.size % 10)
        },
        get (id, callback) { setTimeout(() => { callback(null, sessions.get(id) as never) }, 1 + sessions.size % 10) },
        destroy (id, callback) {
          sessions.delete(id)
          setTimeout(callback, 1)
        }
      }
    })
  }))
})

t.test('every error is sent once with @fastify/express', async t => {
  await areWhole(t, await listen(t, async app => {
    await app.register(express)
    app.addHook('onSend', async () => { await wait(5) })
  }))
})
