import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { InternalError, InvalidTokenError, type TokensError } from '../../lib/errors.js'
import { addAuthentication } from '../../lib/http/authenticate.js'
import { isLeftAlone } from '../../lib/http/credential.js'
import type { Known } from '../../lib/tokens/cache.js'
import type { Outcome, Tokens } from '../../lib/tokens/tokens.js'
import type { Token } from '../../lib/types.js'

const TOKEN: Known = { token: { name: 'a', role: 'viewer' } as unknown as Token, endsAt: 0, expires: 'some day', lastUsed: 0 }
const NONE = { accepted: 0, unknown: 0, expired: 0, invalid: 0, several: 0, failed: 0 }
const OURS = { authorization: 'Bearer our1' }

interface Hooked {
  app: FastifyInstance
  /** What the rules say of a token, at once or later. */
  answer: (outcome: () => Outcome | Promise<Outcome>) => void
  enable: (yes: boolean) => void
  /** What was refused, each an error. */
  refused: TokensError[]
  /** What the audit is told of refusals. */
  rejections: unknown[]
  counts: Record<string, number>
  lines: string[]
  /** The URLs of requests whose raw headers were read. */
  read: string[]
}

interface Settings { hook?: 'preHandler' | 'onRequest', sendFails?: boolean, expiryHeader?: boolean, parameter?: string | false }

/** The hook alone, in a host whose log, rules and refusals we hear. */
async function createHooked (t: Test, { hook = 'preHandler', sendFails = false, expiryHeader = false, parameter = 'token' }: Settings = {}): Promise<Hooked> {
  const lines: string[] = []
  const refused: TokensError[] = []
  const rejections: unknown[] = []
  const counts = { ...NONE }
  let [decide, isEnabled]: [() => Outcome | Promise<Outcome>, boolean] = [() => TOKEN, true]
  const app = Fastify({ logger: { stream: { write (line: string) { if (!line.includes('"msg":"incoming request"') && !line.includes('"msg":"request completed"')) lines.push(line) } } } })
  t.teardown(() => app.close())
  const read: string[] = []
  app.addHook('onRequest', (request, _reply, done) => {
    const { raw, url } = request
    const { rawHeaders } = raw
    Object.defineProperty(raw, 'rawHeaders', { get () { read.push(url); return rawHeaders } })
    done()
  })
  const recognize = (secret: string) => secret.startsWith('our') ? { secret, hash: secret } : null
  addAuthentication(app, {
    tokens: { recognize, authenticate: () => decide(), counts: { authentications: counts } } as unknown as Tokens,
    isEnabled: () => isEnabled,
    hook,
    audit: { rejected: (...about: unknown[]) => { rejections.push(about) } },
    expiryHeader,
    queryParameter: parameter,
    async sendError (_request, reply, error) {
      if (sendFails) throw new Error('can not be sent')
      refused.push(error as TokensError)
      reply.code((error as TokensError).statusCode).send('refused')
    }
  })
  app.get('/', tell)
  app.get('/out', { config: { applicationTokens: false } }, tell)
  app.get('/401', async (_request, reply) => await reply.code(401).send('for a reason of its own'))
  return { app, refused, rejections, counts, lines, read, answer: outcome => { decide = outcome }, enable: yes => { isEnabled = yes } }
}

async function tell (request: FastifyRequest): Promise<unknown> {
  return { token: request.applicationToken?.name ?? null, user: (request as { user?: unknown }).user ?? null, url: request.url, isLeftAlone: isLeftAlone(request) }
}

const IN = { token: 'a', user: { username: 'token:a', roles: ['viewer'] }, url: '/', isLeftAlone: false }
const AS_IT_CAME = { token: null, user: null, url: '/', isLeftAlone: false }
const SWITCHED_OFF = { ...AS_IT_CAME, isLeftAlone: true }

t.test('what the rules say at once or later decides: in, or refused', async t => {
  const { app, refused, answer, lines, rejections, counts } = await createHooked(t)
  t.ok(app.hasRequestDecorator('applicationToken'), 'a plugin may depend on it')
  t.strictSame((await app.inject({ url: '/' })).json(), AS_IT_CAME)
  for (const outcome of [() => TOKEN, async () => TOKEN]) {
    answer(outcome)
    t.strictSame((await app.inject({ url: '/', headers: OURS })).json(), IN)
    const { headers, body } = await app.inject({ url: '/?token=our1' })
    t.strictSame(JSON.parse(body), IN)
    t.match(headers, { 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' })
  }
  t.notOk((await app.inject({ url: '/', headers: OURS })).headers['cache-control'], 'only where the URL has it')
  for (const make of [(error: TokensError) => () => error, (error: TokensError) => async () => error]) {
    const error = new InvalidTokenError({ cause: 'expired' })
    answer(make(error))
    const { statusCode, body } = await app.inject({ url: '/', headers: OURS })
    t.strictSame([statusCode, body, refused.pop()], [401, 'refused', error])
    t.match(rejections.pop(), ['expired', { hash: 'our1' }, { actor: null, address: '127.0.0.1', requestId: /^req-/ }])
  }
  t.strictSame(lines, [])
  t.strictSame(counts, { ...NONE, accepted: 5, expired: 2 })
})

t.test('each refusal is counted by its kind, and told of but for those that are a fault of ours', async t => {
  const { app, answer, rejections, counts } = await createHooked(t)
  const kinds: Array<[error: TokensError, kind: keyof typeof NONE]> = [
    [new InvalidTokenError({ cause: 'unknown or revoked' }), 'unknown'], [new InvalidTokenError({ cause: 'expired' }), 'expired'],
    [new InvalidTokenError({ cause: 'The token signature is invalid.' }), 'invalid'], [new InternalError(), 'failed']
  ]
  for (const [error, kind] of kinds) {
    answer(() => error)
    await app.inject({ url: '/', headers: OURS })
    t.strictSame(counts, { ...NONE, [kind]: 1 }, kind)
    counts[kind] = 0
  }
  t.equal(rejections.length, 3)
  await app.inject({ url: '/?token=our2', headers: OURS })
  t.strictSame(counts, { ...NONE, several: 1 })
  t.match(rejections.at(-1), ['several tokens in one request', { hash: null }])
  answer(() => Object.assign(new InvalidTokenError({ cause: 'expired' }), { token: { name: 'n', role: 'r' } }))
  await app.inject({ url: '/', headers: OURS })
  t.match(rejections.at(-1), ['expired', { hash: 'our1', name: 'n', role: 'r' }])
  await app.inject({ url: '/' })
  t.strictSame(counts, { ...NONE, several: 1, expired: 1 }, 'without a token nothing is')
})

t.test('an answer tells when the token expires where it is to', async t => {
  for (const [isTold, expected] of [[true, 'some day'], [false, undefined]] as const) {
    const { app } = await createHooked(t, { expiryHeader: isTold })
    t.equal((await app.inject({ url: '/', headers: OURS })).headers['application-token-expires'], expected)
    t.equal((await app.inject({ url: '/' })).headers['application-token-expires'], undefined)
  }
})

t.test('two tokens are refused unread, and the log is not told', async t => {
  const { app, refused, answer, lines } = await createHooked(t)
  answer(() => { throw new Error('asked') })
  t.equal((await app.inject({ url: '/?token=our1', headers: OURS })).statusCode, 400)
  t.match(refused, [{ statusCode: 400, message: 'A request must carry one token, not several' }])
  t.strictSame(lines, [])
})

t.test('a store out of reach, and a user that can not be assigned, are 500 with their cause, never let in', async t => {
  const { app, refused, answer } = await createHooked(t)
  app.addHook('onRequest', (request, _reply, done) => {
    Object.defineProperty(request, 'user', { get: () => null })
    done()
  })
  app.get('/later', tell)
  t.equal((await app.inject({ url: '/later', headers: OURS })).statusCode, 500)
  t.match(refused.pop(), { statusCode: 500, cause: { message: /only a getter/ } })
  answer(async () => { throw new Error('out of reach') })
  t.equal((await app.inject({ url: '/', headers: OURS })).statusCode, 500)
  t.match(refused.pop(), { statusCode: 500, cause: { message: 'out of reach' } })
})

t.test('a refusal that can not be sent is the host\'s error, never a request that waits', async t => {
  for (const outcome of [() => new InvalidTokenError(), async () => new InvalidTokenError()]) {
    const { app, answer } = await createHooked(t, { sendFails: true })
    answer(outcome)
    t.match((await app.inject({ url: '/', headers: OURS })).json(), { statusCode: 500, message: 'can not be sent' })
  }
  const { app } = await createHooked(t, { sendFails: true })
  app.addHook('onRequest', (request, _reply, done) => {
    Object.defineProperty(request, 'user', { get: () => null })
    done()
  })
  app.get('/later', tell)
  t.match((await app.inject({ url: '/later', headers: OURS })).json(), { statusCode: 500, message: 'can not be sent' })
})

t.test('a route that opts out, and a switch that is off or thrown meanwhile, leave the request as it came', async t => {
  const { app, answer, enable } = await createHooked(t)
  t.strictSame((await app.inject({ url: '/out?token=our1', headers: OURS })).json(), { ...AS_IT_CAME, url: '/out?token=our1' })
  enable(false)
  t.strictSame((await app.inject({ url: '/?token=our1' })).json(), { ...SWITCHED_OFF, url: '/?token=our1' })
  enable(true)
  answer(async () => {
    enable(false)
    return TOKEN
  })
  const { body, headers } = await app.inject({ url: '/?token=our1' })
  t.strictSame(JSON.parse(body), { ...SWITCHED_OFF, url: '/?token=our1' })
  t.notOk(headers['referrer-policy'])
  enable(true)
  answer(async () => {
    enable(false)
    throw new Error('out of reach')
  })
  t.strictSame((await app.inject({ url: '/', headers: OURS })).json(), SWITCHED_OFF)
})

t.test('with the hook onRequest guards there see the user, and a session that comes later does not take its place', async t => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const { app } = await createHooked(t, { hook })
    const seen: unknown[] = []
    app.addHook('onRequest', async request => { seen.push((await tell(request) as { token: unknown }).token) })
    app.addHook('preValidation', async request => { (request as { user?: unknown }).user = 'of a session' })
    app.get('/later', tell)
    t.strictSame((await app.inject({ url: '/later', headers: OURS })).json(), { ...IN, url: '/later' })
    t.strictSame((await app.inject({ url: '/later' })).json(), { ...AS_IT_CAME, user: 'of a session', url: '/later' })
    t.strictSame(seen, hook === 'onRequest' ? ['a', null] : [null, null])
  }
})

t.test('a guard that refused before the token was looked at is told of, once; no other 401 is', async t => {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    const { app, answer, enable, lines } = await createHooked(t, { hook })
    app.addHook('preValidation', async (request, reply) => { if (request.headers['x-guard'] !== undefined) await reply.code(Number(request.headers['x-guard'])).send('the guard') })
    app.get('/guarded', async () => 'in')
    const guarded = { url: '/guarded', headers: { ...OURS, 'x-guard': '401' } }
    for (const request of [{ url: '/401' }, { url: '/401', headers: OURS }, { url: '/401?token=our1' }, { url: '/guarded', headers: { 'x-guard': '401' } },
      { url: '/guarded', headers: { 'x-guard': '401', authorization: 'Bearer foreign' } }, { url: '/guarded', headers: { ...OURS, 'x-guard': '403' } }]) await app.inject(request)
    enable(false)
    await app.inject(guarded)
    enable(true)
    t.strictSame(lines, [])
    await app.inject(guarded)
    await app.inject(guarded)
    await app.inject({ url: '/guarded?token=our1', headers: { 'x-guard': '401' } })
    t.equal(lines.length, hook === 'preHandler' ? 1 : 0)
    if (hook === 'preHandler') t.match(JSON.parse(lines[0] ?? ''), { level: 40, msg: /^a request with a token was answered 401 before the token was looked at, in the hook "preHandler": register .* "onRequest"/ })
    answer(() => new InvalidTokenError())
    await app.inject({ url: '/', headers: OURS })
    t.equal(lines.filter(line => line.includes('looked at')).length, hook === 'preHandler' ? 1 : 0)
  }
})

t.test('a guard in onRequest, before ours, is told of as well', async t => {
  const lines: string[] = []
  const early = Fastify({ logger: { stream: { write (line: string) { lines.push(line) } } } })
  t.teardown(() => early.close())
  early.addHook('onRequest', async (_request, reply) => { await reply.code(401).send('the guard') })
  addAuthentication(early, { tokens: { recognize: (secret: string) => ({ secret, hash: secret }) } as unknown as Tokens, isEnabled: () => true, hook: 'preHandler', queryParameter: 'token', audit: { rejected () {} }, expiryHeader: false, sendError: async () => {} })
  early.get('/', tell)
  await early.inject({ url: '/' })
  t.notMatch(lines.join(''), 'looked at')
  await early.inject({ url: '/?token=our1' })
  t.match(lines.join(''), 'looked at')
})

t.test('the hook preHandler is the only one of ours there, and with onRequest there is one for sessions that come later', async t => {
  for (const [hook, names] of [['preHandler', ['onRequest', 'preHandler', 'onSend']], ['onRequest', ['onRequest', 'onRequest', 'preHandler', 'onSend']]] as const) {
    const app = Fastify()
    const added = t.capture(app, 'addHook')
    addAuthentication(app, { tokens: {} as unknown as Tokens, isEnabled: () => true, hook, queryParameter: 'token', audit: { rejected () {} }, expiryHeader: false, sendError: async () => {} })
    t.strictSame(added().map(({ args: [name] }) => name), names)
  }
})

t.test('a WebSocket that is refused is closed once the refusal is sent', async t => {
  const { app, answer } = await createHooked(t)
  answer(() => new InvalidTokenError())
  let ended = 0
  app.addHook('onRequest', (request, _reply, done) => {
    Object.assign(request.raw, { upgrade: request.headers['x-upgrade'] !== undefined })
    Object.assign(request.raw.socket, { destroySoon () { ended++ } })
    done()
  })
  app.get('/ws', tell)
  await app.inject({ url: '/ws', headers: OURS })
  t.equal(ended, 0, 'any other keeps its connection')
  await app.inject({ url: '/ws', headers: { ...OURS, 'x-upgrade': 'yes' } })
  t.equal(ended, 1)
})

t.test('every request has room for what it presents from the start, so that all have one shape', async t => {
  const { app } = await createHooked(t)
  const symbols = (request: object | null): symbol[] => request === null ? [] : [...Object.getOwnPropertySymbols(request), ...symbols(Object.getPrototypeOf(request) as object | null)]
  app.get('/symbols', async request => symbols(request).map(({ description }) => description))
  t.ok((await app.inject({ url: '/symbols' })).json<string[]>().includes('mmc-tokens.presented'))
})

t.test('of a request that presents nothing, the header and the parameter are asked for and no more', async t => {
  const { app, read } = await createHooked(t)
  await app.inject('/')
  await app.inject('/401?other=our1')
  await app.inject({ url: '/', headers: { cookie: 'token=our1' } })
  t.strictSame(read, [])
  await app.inject('/?token=our1')
  await app.inject({ url: '/?basic', headers: { authorization: 'Basic our1' } })
  t.strictSame(read, ['/?token=our1', '/?basic'])

  const withoutQuery = await createHooked(t, { parameter: false })
  await withoutQuery.app.inject('/?token=our1&false=our1')
  t.strictSame(withoutQuery.read, [])
})
