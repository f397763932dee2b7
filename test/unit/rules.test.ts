import t from 'tap'
import { createCache, type CachedToken } from '../../lib/tokens/cache.js'
import { createTokens, type Refusal, type Tokens } from '../../lib/tokens/tokens.js'
import type { Claims, Credential, Signer, Store, Token } from '../../lib/types.js'

interface Rules {
  tokens: Tokens
  rows: Map<string, Token>
  /** What was asked of the store, the signer and the usage. */
  calls: string[]
  trust: (yes: boolean) => void
  fail: (yes: boolean) => void
  /** What happens, one after the other, between a row being read and its arrival. */
  meanwhile: Array<() => unknown>
  /** A change was notified. */
  forget: (hash: string) => void
}

const encode = (text: string): string => Buffer.from(text).toString('base64url')

/** The rules alone: a store in memory, and signatures that hold unless they are `bad`. */
function createRules (): Rules {
  const rows = new Map<string, Token>()
  const calls: string[] = []
  const meanwhile: Rules['meanwhile'] = []
  let [isTrusted, isFailing] = [true, false]
  const ask = (what: string): void => {
    calls.push(what)
    if (isFailing) throw new Error('out of reach')
  }
  const store = {
    async insert (token: Token) {
      ask('insert')
      if ([...rows.values()].some(({ name }) => name === token.name)) return false
      rows.set(token.hash, token)
      return true
    },
    async find (hash: string) {
      ask('find')
      const row = rows.get(hash) ?? null
      await meanwhile.shift()?.()
      return row
    },
    async * list () { yield [...rows.values()] },
    async remove (hash: string) {
      ask('remove')
      return rows.delete(hash)
    }
  } as unknown as Store
  const signer: Signer = {
    sign: claims => `${encode('{"alg":"HS256","typ":"JWT"}')}.${encode(JSON.stringify(claims))}.x`,
    verify (secret) {
      calls.push('verify')
      if (secret.endsWith('bad')) throw new Error('bad signature')
      return JSON.parse(Buffer.from(secret.split('.')[1] ?? '', 'base64url').toString()) as Claims
    }
  }
  const never: Signer = { sign: () => 'signed with the second', verify () { throw new Error('another key') } }
  const usage = {
    note (hash: string, now: number) { calls.push(`note ${hash.slice(0, 2)} ${now}`) },
    apply: (token: Token): Token => ({ ...token, requestedBy: `${token.requestedBy}, applied` }),
    async close () {},
    lag: () => ({ waiting: 0, lagSeconds: 0 })
  }
  const events = { report () { calls.push('report') } }
  const cache = createCache(() => isTrusted, () => 0)
  const tokens = createTokens({
    store,
    cache,
    signers: [signer, never],
    usage,
    audit: events,
    connections: { end () {}, forget () {} },
    issuer: 'cedalo',
    roles: ['viewer']
  })
  return {
    tokens,
    rows,
    calls,
    trust: yes => { isTrusted = yes },
    fail: yes => { isFailing = yes },
    meanwhile,
    forget: cache.forget
  }
}

/** A token that is good from 10.25 s to 20 s. */
async function issueOne ({ tokens }: Rules): Promise<Credential> {
  const { token } = await tokens.issue(
    { name: ' a ', role: 'viewer', validUntil: '1970-01-01T00:00:20Z', requestedBy: 'me' }, 10_250
  )
  return tokens.recognize(token) as Credential
}

const reasonOf = (outcome: unknown): unknown => (outcome as Refusal).reason

t.test('a token is issued as requested, signed with the first key, and its name is then in use', async t => {
  const rules = createRules()
  const { tokens, rows } = rules
  const issued = await tokens.issue(
    { name: ' a ', role: 'viewer', validUntil: '1970-01-01T00:00:20.9Z', requestedBy: 'me' }, 10_250
  )
  const { token, ...record } = issued
  t.strictSame(Object.keys(issued), [
    'token', 'name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed'
  ])
  t.match(record, {
    name: 'a', validUntil: '1970-01-01T00:00:20.000Z', role: 'viewer', requestedBy: 'me', issueDate: '1970-01-01T00:00:10.250Z', lastUsed: '1970-01-01T00:00:10.250Z'
  })
  t.match(JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()), {
    role: 'viewer', iat: 10, exp: 20, iss: 'cedalo', jti: /^[0-9a-f-]{36}$/
  })
  t.strictSame(rows.get(record.hash), record, 'stored without the secret')
  await t.rejects(issueOne(rules), { code: 'CONFLICT' })
})

t.test('a token is looked up once; later it is accepted synchronously, without verifying the signature again', async t => {
  const rules = createRules()
  const { tokens, calls } = rules
  const credential = await issueOne(rules)
  calls.length = 0
  const looking = tokens.authenticate(credential, () => 11_000)
  t.ok(looking instanceof Promise)
  t.match(await looking, {
    token: { name: 'a', role: 'viewer', requestedBy: 'me, applied', lastUsed: '1970-01-01T00:00:11.000Z' },
    httpDate: 'Thu, 01 Jan 1970 00:00:20 GMT'
  })
  t.equal(Object.isFrozen((await looking as CachedToken).token), true, 'many requests share it')
  const known = tokens.authenticate(credential, () => 12_000)
  t.notOk(known instanceof Promise)
  t.match(known, { token: { name: 'a', lastUsed: '1970-01-01T00:00:12.000Z' } })
  t.match(
    tokens.authenticate(credential, () => 11_500), { token: { lastUsed: '1970-01-01T00:00:12.000Z' } }, 'never backwards'
  )
  const short = credential.hash.slice(0, 2)
  t.strictSame(calls, ['verify', 'find', `note ${short} 11000`, `note ${short} 12000`, `note ${short} 11500`])

  rules.trust(false)
  calls.length = 0
  await tokens.authenticate(credential, () => 13_000)
  t.strictSame(calls, ['find', `note ${short} 13000`], 'its signature held once')
})

t.test('a token expires by its row or its claim, whichever is earlier, to the millisecond, cached or not, and its use is not recorded then', async t => {
  for (const [row, end] of [
    ['1970-01-01T00:00:20.000Z', 20_000], ['1970-01-01T00:00:15.000Z', 15_000], ['1970-01-01T00:00:30.000Z', 20_000]
  ] as const) {
    for (const isTrusted of [true, false]) {
      const rules = createRules()
      const { tokens, rows, calls } = rules
      rules.trust(isTrusted)
      const credential = await issueOne(rules)
      Object.assign(rows.get(credential.hash) as Token, { validUntil: row })
      t.match(await tokens.authenticate(credential, () => end - 1), { token: { name: 'a' } })
      calls.length = 0
      t.equal(reasonOf(await tokens.authenticate(credential, () => end)), 'expired')
      t.equal(reasonOf(await tokens.authenticate(credential, () => end + 1)), 'expired')
      t.notMatch(calls.join(), 'note')
      if (end === 20_000 && !isTrusted) t.strictSame(calls, [], 'the claim alone says so')
    }
  }
})

t.test('a token that expires while it is looked up is refused, and its use is not recorded', async t => {
  const rules = createRules()
  const { tokens, calls } = rules
  rules.trust(false)
  const credential = await issueOne(rules)
  const times = [19_999, 20_000]
  t.equal(reasonOf(await tokens.authenticate(credential, () => Number(times.shift()))), 'expired')
  t.notMatch(calls.join(), 'note')
})

t.test('a token that is unsigned, unknown, revoked or without expiry is refused, with a reason for the log', async t => {
  const rules = createRules()
  const { tokens, calls } = rules
  const credential = await issueOne(rules)
  const forge = (secret: string): Credential => tokens.recognize(secret) as Credential
  calls.length = 0
  t.equal(reasonOf(tokens.authenticate(forge(credential.secret.replace(/x$/, 'bad')), () => 11_000)), 'another key')
  t.strictSame(calls, ['verify'], 'a forgery does not reach the store')
  t.equal(
    reasonOf(tokens.authenticate(forge(`${encode('{}')}.${encode('{"iss":"cedalo"}')}.x`), () => 11_000)), 'foreign header'
  )
  t.equal(reasonOf(tokens.authenticate(
    forge(`${encode('{"alg":"HS256","typ":"JWT"}')}.${encode('{"iss":"cedalo","exp":"never"}')}.x`), () => 11_000
  )), 'expired')
  t.equal(reasonOf(await tokens.authenticate(forge(`${credential.secret}y`), () => 11_000)), 'unknown or revoked')
  t.equal(await tokens.revoke(credential.hash), true)
  t.equal(reasonOf(await tokens.authenticate(credential, () => 11_000)), 'unknown or revoked')
})

t.test("the plugin's tokens are recognized by their issuer", async t => {
  const rules = createRules()
  const credential = await issueOne(rules)
  t.match(credential, { hash: /^[0-9a-f]{64}$/, secret: /\.x$/ })
  await rules.tokens.authenticate(credential, () => 11_000)
  t.strictSame(rules.tokens.recognize(credential.secret), credential, 'also once it was verified')
  t.equal(rules.tokens.recognize('opaque'), null)
  t.equal(rules.tokens.recognize(`${encode('{}')}.${encode('{"iss":"other"}')}.x`), null)
})

t.test('a token is refused from its revocation on, even if the store could not confirm it', async t => {
  const rules = createRules()
  const { tokens, calls } = rules
  const credential = await issueOne(rules)
  await tokens.authenticate(credential, () => 11_000)
  rules.fail(true)
  await t.rejects(tokens.revoke(credential.hash), { message: 'out of reach' })
  calls.length = 0
  await t.rejects(
    tokens.authenticate(credential, () => 11_000) as Promise<unknown>,
    { message: 'out of reach' },
    'asked again, not believed'
  )
  t.strictSame(calls, ['find'])
  rules.fail(false)
  calls.length = 0
  t.equal(await tokens.revoke(credential.hash), true)
  t.equal(await tokens.revoke(credential.hash), false)
  t.strictSame(calls, ['remove', 'report', 'remove'], 'of what was not there nobody is told')
})

for (const [what, clock] of [['clock', performance], ['wall clock', Date]] as const) {
  t.test(`a row that took two seconds to arrive, by the ${what}, is read again: the process was stopped, and the token may be gone`, async t => {
    const rules = createRules()
    const { tokens, rows, calls, meanwhile } = rules
    const credential = await issueOne(rules)
    const now = clock.now.bind(clock)
    let passed = 0
    t.intercept(clock, 'now', { value: () => now() + passed })
    calls.length = 0
    meanwhile.push(() => { passed += 2000 }, () => {
      passed += 2000
      rows.clear()
    })
    t.equal(reasonOf(await tokens.authenticate(credential, () => 11_000)), 'unknown or revoked')
    t.strictSame(calls, ['verify', 'find', 'find', 'find'])
  })
}

t.test('a row that was read before this node revoked the token is refused, however often it was read before', async t => {
  const rules = createRules()
  const { tokens, meanwhile, forget } = rules
  const credential = await issueOne(rules)
  meanwhile.push(() => { forget(credential.hash) }, async () => { await tokens.revoke(credential.hash) })
  t.equal(reasonOf(await tokens.authenticate(credential, () => 11_000)), 'unknown or revoked')
})

t.test('a record and the list have the latest use; an invalid hash never reaches the store', async t => {
  const rules = createRules()
  const { tokens, rows, calls } = rules
  const { hash } = await issueOne(rules)
  t.match(await tokens.get(hash), { name: 'a', requestedBy: 'me, applied' })
  const pages: Token[][] = []
  for await (const page of tokens.list({}, 0)) pages.push(page)
  t.match(pages, [[{ name: 'a', requestedBy: 'me, applied' }]])
  const unusedSince = async (time: string): Promise<number> => {
    let count = 0
    for await (const page of tokens.list({ unusedSince: time }, 0)) count += page.length
    return count
  }
  t.equal(await unusedSince('1970-01-01T00:00:10.251Z'), 1)
  t.equal(await unusedSince('1970-01-01T00:00:10.250Z'), 0, 'used at that very time')
  calls.length = 0
  for (const odd of [`${hash}0`, hash.slice(1), `0${hash}`, '', `${hash}\n`]) {
    await t.rejects(tokens.get(odd), { code: 'INVALID' })
    await t.rejects(tokens.revoke(odd), { code: 'INVALID' })
  }
  t.strictSame(calls, [])
  rows.clear()
  t.equal(await tokens.get(hash), null)
})
