import { createHmac, hkdfSync, randomUUID } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import jwt, { type JWT } from '@fastify/jwt'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createPostgresStore } from '../../lib/store/postgres.js'
import { createCache } from '../../lib/tokens/cache.js'
import { digest, fingerprint, isOurs, verify } from '../../lib/tokens/jwt.js'
import { createTokens } from '../../lib/tokens/tokens.js'
import { createUsage } from '../../lib/tokens/usage.js'
import type { Claims, Signer, Store, Token } from '../../lib/types.js'
import { createBareHost } from '../support/bare-host.js'
import { SECRET, bearer, buildHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { createSigners } from '../../lib/signers.js'
import { createMutator, createRandom } from '../support/mutate-token.js'

const MUTATIONS = Number(process.env.MUTATIONS ?? 20_000)
const SEED = Number(process.env.SEED ?? 1)
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))

/** The signers as the plugin makes them, taken from the child of the host that it makes them in. */
async function realSigners (t: Test): Promise<[Signer]> {
  const { app, addTokens } = await createBareHost(t)
  const children: FastifyInstance[] = []
  app.addHook('onRegister', child => { children.push(child) })
  await addTokens({ enabled: false })
  const made = children.map(child =>
    child.jwt as unknown as Record<string, JWT> | undefined).find(made => made?.mmcTokens0)
  const { sign, verify } = made?.mmcTokens0 as JWT
  return [{ sign: claims => sign(claims), verify: secret => verify<Claims>(secret) }]
}

/** Whether a string has our header and was signed with our key, whatever the unused bits of the signature are. */
function isRightlySigned (credential: string): boolean {
  const [, input = '', signature = ''] = /^(eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.[\w-]+)\.([\w-]{43})$/.exec(credential) ??
    []
  return createHmac('sha256', KEY).update(input).digest().equals(Buffer.from(signature, 'base64url'))
}

interface Outcome { accepted: string[], forgeriesLookedUp: string[], lookedUp: number, kinds: Set<string> }

/**
 * What a careless author would have written, to see that the test notices: other signers, another way to the row of the
 * credential at hand.
 */
interface Plant { signers?: [Signer], find?: (store: Store, credential: string) => Promise<Token | null> }

/** Presents mutations of five tokens to the rules, on a real store, and these tokens between them. */
async function attack (t: Test, count: number, plant: Plant = {}): Promise<Outcome> {
  const { url: postgres, schema } = await createDatabase(t)
  const log = Fastify().log
  const real = createPostgresStore({
    postgres, schema, listen: undefined, migrate: true, fingerprints: [], beats: ['beat'], log
  })
  t.teardown(() => real.close())
  let presented = ''
  const outcome: Outcome = { accepted: [], forgeriesLookedUp: [], lookedUp: 0, kinds: new Set() }
  const store: Store = {
    ...real,
    async find (hash) {
      outcome.lookedUp++
      return plant.find === undefined ? await real.find(hash) : await plant.find(real, presented)
    }
  }
  const cache = createCache(real.isTrusted, () => performance.now())
  await store.start(cache, () => {})
  const usage = createUsage(store, log)
  t.teardown(() => usage.close())
  const events = { report () {} }
  const rules = createTokens({
    store,
    cache,
    signers: plant.signers ?? await realSigners(t),
    usage,
    audit: events,
    connections: { end () {}, forget () {} },
    issuer: 'cedalo',
    roles: ['admin', 'viewer']
  })

  const tokens: string[] = []
  for (const role of ['viewer', 'admin', 'viewer', 'admin', 'viewer']) {
    tokens.push((await rules.issue(
      { name: `token ${tokens.length}`, role, validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test' }, Date.now()
    )).token)
  }
  const mutate = createMutator(createRandom(SEED), tokens, KEY)
  for (let n = 0; n < count; n++) {
    if (n % 10_000 === 0) {
      // Heartbeats of the lease need a turn.
      await turn()
      for (presented of tokens) {
        if ('refused' in await rules.authenticate(
          { secret: presented, hash: digest(presented) }, Date.now
        )) throw new Error('refused')
      }
    }
    const { kind, credential } = mutate()
    presented = credential
    outcome.kinds.add(kind)
    const before = outcome.lookedUp
    const judged = rules.authenticate({ secret: credential, hash: digest(credential) }, Date.now)
    if (!('refused' in (judged instanceof Promise
      ? await judged
      : judged))) outcome.accepted.push(`${kind}: ${credential}`)
    if (outcome.lookedUp > before &&
      !isRightlySigned(credential)) outcome.forgeriesLookedUp.push(`${kind}: ${credential}`)
  }
  return outcome
}

t.test(`of ${MUTATIONS} changed tokens none is accepted, and none without a valid signature is looked up`, async t => {
  const started = performance.now()
  const { accepted, forgeriesLookedUp, lookedUp, kinds } = await attack(t, MUTATIONS)
  t.comment(
    `SEED=${SEED}: ${MUTATIONS} strings of ${kinds.size} kinds in ${Math.round(performance.now() - started)} ms, ${lookedUp} lookups`
  )
  t.strictSame(accepted, [])
  t.strictSame(forgeriesLookedUp, [])
  t.ok(lookedUp > MUTATIONS / 1000, `${lookedUp} lookups: what we signed is refused since the store does not know it`)
})

t.test('the same attack succeeds against a store that finds tokens by their claims, and signers that do not verify', async t => {
  const find = async (store: Store, credential: string): Promise<Token | null> =>
    await store.find(digest(credential.split('.').map(part =>
      Buffer.from(part, 'base64url').toString('base64url')).join('.')))
  t.ok((await attack(t, 4000, { find })).accepted.length > 0, 'the unused bits of a signature')
  const [{ sign, verify }] = await realSigners(t)
  const claims: Claims = { role: 'viewer', iat: 0, exp: 33e9, iss: 'cedalo', jti: '' }
  const reader: Signer = {
    sign,
    verify: secret => ({
      ...claims,
      ...JSON.parse(Buffer.from(secret.split('.')[1] ?? '', 'base64url').toString()) as object
    })
  }
  const unverified = await attack(t, 500, { signers: [reader] })
  t.ok(unverified.forgeriesLookedUp.length > 0)
  t.strictSame(unverified.accepted, [], 'the digest still stands in the way')
  t.ok((await attack(t, 500, { signers: [reader], find })).accepted.length > 0)
  const trimming: Signer = { sign, verify: secret => verify(secret.trim().replace(/=+$/, '')) }
  t.ok((await attack(t, 2000, { signers: [trimming] })).forgeriesLookedUp.length > 0)
})

const part = (text: string): string => Buffer.from(text).toString('base64url')

function sign (header: string, payload: string, algorithm = 'sha256'): string {
  const input = `${part(header)}.${part(payload)}`
  return `${input}.${createHmac(algorithm, KEY).update(input).digest('base64url')}`
}

const HEADER = '{"alg":"HS256","typ":"JWT"}'
const REFUSED = { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } }
const LEFT_ALONE = { code: 'UNAUTHORIZED', message: 'Unauthorized', data: { session: false } }

/** A host with a token, and @fastify/jwt as it is by default, with our key and issuer. */
async function createSubject (t: Test) {
  const { app, database, issue } = await buildHost(t)
  const other = Fastify()
  await other.register(jwt, { secret: KEY, verify: { allowedIss: 'cedalo' } })
  const { token } = await issue({ role: 'admin', validUntil: '2998-01-01T00:00:00Z' })
  const payload = Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()

  async function is (credential: string, expected: object): Promise<void> {
    for (const request of [{ headers: bearer(credential) }, { query: { token: credential } }]) {
      t.strictSame((await app.inject({ url: '/api/profile', ...request })).json(), expected)
    }
  }
  return {
    token,
    payload,
    claims: JSON.parse(payload) as Claims,
    is,
    /**
     * What by default is taken; with us it is refused, also if somebody had got its hash into the store, so that the
     * verifier stands alone.
     */
    async isTakenByDefaultOnly (credential: string, { expected = REFUSED, isStored = true } = {}): Promise<void> {
      t.ok(other.jwt.verify(credential), 'by default')
      if (isStored) {
        await database.query(`INSERT INTO tokens SELECT $1, $2, role, requested_by, issue_date, '2999-01-01Z', last_used FROM tokens
          ORDER BY issue_date LIMIT 1 ON CONFLICT DO NOTHING`, [digest(credential), randomUUID()])
      }
      await is(credential, expected)
    }
  }
}

t.test('another HMAC algorithm is refused, although the library accepts it by default', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  await isTakenByDefaultOnly(sign('{"alg":"HS384","typ":"JWT"}', payload, 'sha384'))
  await isTakenByDefaultOnly(sign('{"alg":"HS512","typ":"JWT"}', payload, 'sha512'))
})

t.test('any other header is refused, although the library accepts it by default', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  for (const header of ['{"alg":"HS256"}', '{"typ":"JWT","alg":"HS256"}', '{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}', '{"alg":"HS256","typ":"JWT","jku":"http://127.0.0.1/"}',
    '{"alg":"none","alg":"HS256"}', '{"alg":"HS256","typ":"JWT","crit":null}', '{"alg":"HS256","typ":"JWT"} ']) {
    await isTakenByDefaultOnly(sign(header, payload))
  }
})

t.test('a token without an issuer is ignored, although the library accepts it by default', async t => {
  const { claims: { iss, ...claims }, isTakenByDefaultOnly } = await createSubject(t)
  t.equal(iss, 'cedalo')
  await isTakenByDefaultOnly(sign(HEADER, JSON.stringify(claims)), { expected: LEFT_ALONE })
})

t.test('every claim is required, although the library accepts missing ones by default', async t => {
  const { claims, isTakenByDefaultOnly } = await createSubject(t)
  for (const name of ['role', 'iat', 'exp', 'jti']) {
    await isTakenByDefaultOnly(sign(HEADER, JSON.stringify({ ...claims, [name]: undefined })))
  }
})

t.test('a token is refused from the first millisecond of its expiry, although the library accepts that second by default', async t => {
  const { token, claims, is, isTakenByDefaultOnly } = await createSubject(t)
  let now = claims.exp * 1000 - 1
  t.intercept(Date, 'now', { value: () => now })
  await is(token, { username: 'token:token 1', roles: ['admin'] })
  now++
  await isTakenByDefaultOnly(token, { isStored: false })
})

t.test('an expiry of 1e999 is an unknown token even if signed, although the library accepts it by default', async t => {
  const { payload, claims, isTakenByDefaultOnly } = await createSubject(t)
  await isTakenByDefaultOnly(sign(HEADER, payload.replace(`"exp":${claims.exp}`, '"exp":1e999')), { isStored: false })
})

t.test('a token with other unused bits in its signature is refused, although the library accepts it by default', async t => {
  const { token, is, isTakenByDefaultOnly } = await createSubject(t)
  const last = Buffer.from(token.slice(-1), 'base64url')
  t.equal(last.length, 0, 'a character alone is no byte')
  const same = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'].map(character =>
    token.slice(0, -1) + character)
    .filter(variant => variant !== token &&
      Buffer.from(variant.slice(-43), 'base64url').equals(Buffer.from(token.slice(-43), 'base64url')))
  t.equal(same.length, 3)
  for (const variant of same) await isTakenByDefaultOnly(variant, { isStored: false })
  await is(token, { username: 'token:token 1', roles: ['admin'] })
})

t.test('duplicate members make an unknown token even if signed, although the library accepts them by default', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  for (const member of ['"role":"viewer"', '"exp":99999999999', '"iss":"other"', '"jti":"x"']) {
    await isTakenByDefaultOnly(sign(HEADER, `{${member},${payload.slice(1)}`), { isStored: false })
  }
})

t.test('a secret of one character is rejected, although the library accepts it by default', async t => {
  await Fastify().register(jwt, { secret: 'x' })
  await t.rejects(buildHost(t, { tokens: { secret: 'x' } }), { code: 'MMC_TOKENS_INVALID_OPTION' })
})

const TOKEN = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x'
const CLAIMS: Claims = { role: 'viewer', iat: 1, exp: 2, iss: 'cedalo', jti: 'x' }

function refusing (reason: string): Signer {
  return { sign: () => '', verify () { throw new Error(reason) } }
}

t.test('each key is tried until one verifies; the reason is that of the last', async t => {
  const accepting: Signer = { sign: () => '', verify: () => CLAIMS }
  const foreign: Signer = { sign: () => '', verify: () => null }
  const never: Signer = { sign: () => '', verify: () => t.fail('not asked') as never }
  t.equal(verify(TOKEN, [accepting, never]), CLAIMS)
  t.equal(verify(TOKEN, [refusing('one'), accepting]), CLAIMS)
  t.equal(verify(TOKEN, [foreign, accepting]), CLAIMS)
  t.equal(verify(TOKEN, [refusing('one'), refusing('two')]), 'two')
  t.equal(verify(TOKEN, [foreign]), 'invalid signature')
  t.equal(verify(TOKEN, []), 'invalid signature', 'no key, no claims')
  t.equal(verify(`x${TOKEN}`, [never]), 'foreign header', 'no key is tried on a header that is not ours')
})

t.test('another key is no exception', async t => {
  const [{ sign, verify }] = await createSigners(Fastify(), [KEY], 'cedalo')
  const token = sign(CLAIMS)
  t.match(verify(token), CLAIMS)
  const [header, payload, signature] = token.split('.') as [string, string, string]
  const others = ['', 'x', signature.slice(1), `${signature}A`, `A${signature.slice(1)}`, signature.toLowerCase()]
  for (const other of others) t.equal(verify(`${header}.${payload}.${other}`), null, other)
  t.equal(verify(`${header}.${payload.slice(1)}.${signature}`), null)
  t.equal(verify(signature), null, 'no parts')
})

t.test('the fingerprint of a secret is the same in every version', async t => {
  t.equal(fingerprint('a secret of the tests, long enough: 0123456789'), '7f3f29ad0e196a85')
})

t.test('the plugin handles whole JWTs with its issuer, signed or not, and nothing else', async t => {
  const payload = Buffer.from('{"iss":"cedalo"}').toString('base64url')
  for (const credential of [`h.${payload}.s`, `h.${payload}.`]) t.equal(isOurs(credential, 'cedalo'), true)
  for (const credential of [
    `h.${payload}`, `x.h.${payload}.s`, `h.${payload}.s.x`, `.${payload}.s`, `h.${payload}.s `, ` h.${payload}.s`,
    'h.e30.s', 'h.bnVsbA.s', 'h.x.s', 'opaque', ''
  ]) {
    t.equal(isOurs(credential, 'cedalo'), false, credential)
  }
  t.equal(isOurs(`h.${payload}.s`, 'other'), false)
})
