import { createHmac, hkdfSync, randomUUID } from 'node:crypto'
import jwt from '@fastify/jwt'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { digest } from '../../lib/tokens/jwt.js'
import type { Claims } from '../../lib/types.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'

// What @fastify/jwt, that is fast-jwt, takes where nobody tells it otherwise. Each test first sees that it does.

const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
const part = (text: string): string => Buffer.from(text).toString('base64url')

function sign (header: string, payload: string, algorithm = 'sha256'): string {
  const input = `${part(header)}.${part(payload)}`
  return `${input}.${createHmac(algorithm, KEY).update(input).digest('base64url')}`
}

const HEADER = '{"alg":"HS256","typ":"JWT"}'
const REFUSED = { code: 'UNAUTHORIZED', message: 'The token is not valid', data: { session: false } }
const LEFT_ALONE = { code: 'UNAUTHORIZED', message: 'Log in', data: { session: false } }

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
    /** What by default is taken; with us it is refused, also if somebody had got its hash into the store, so that the verifier stands alone. */
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

t.test('by default another algorithm of the family passes, rightly signed: not here', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  await isTakenByDefaultOnly(sign('{"alg":"HS384","typ":"JWT"}', payload, 'sha384'))
  await isTakenByDefaultOnly(sign('{"alg":"HS512","typ":"JWT"}', payload, 'sha512'))
})

t.test('by default any header passes that names the algorithm: not here', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  for (const header of ['{"alg":"HS256"}', '{"typ":"JWT","alg":"HS256"}', '{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}', '{"alg":"HS256","typ":"JWT","jku":"http://127.0.0.1/"}',
    '{"alg":"none","alg":"HS256"}', '{"alg":"HS256","typ":"JWT","crit":null}', '{"alg":"HS256","typ":"JWT"} ']) {
    await isTakenByDefaultOnly(sign(header, payload))
  }
})

t.test('by default a token without issuer passes, also where issuers are listed: here it is not ours', async t => {
  const { claims: { iss, ...claims }, isTakenByDefaultOnly } = await createSubject(t)
  t.equal(iss, 'cedalo')
  await isTakenByDefaultOnly(sign(HEADER, JSON.stringify(claims)), { expected: LEFT_ALONE })
})

t.test('by default a claim may be missing: here each of ours is required', async t => {
  const { claims, isTakenByDefaultOnly } = await createSubject(t)
  for (const name of ['role', 'iat', 'exp', 'jti']) {
    await isTakenByDefaultOnly(sign(HEADER, JSON.stringify({ ...claims, [name]: undefined })))
  }
})

t.test('by default a token passes in the second that it expires: here it is refused from the first millisecond', async t => {
  const { token, claims, is, isTakenByDefaultOnly } = await createSubject(t)
  let now = claims.exp * 1000 - 1
  t.intercept(Date, 'now', { value: () => now })
  await is(token, { username: 'token:token 1', roles: ['admin'] })
  now++
  await isTakenByDefaultOnly(token, { isStored: false })
})

t.test('by default an expiry of 1e999 is for ever: here whoever could sign it finds it unknown', async t => {
  const { payload, claims, isTakenByDefaultOnly } = await createSubject(t)
  await isTakenByDefaultOnly(sign(HEADER, payload.replace(`"exp":${claims.exp}`, '"exp":1e999')), { isStored: false })
})

t.test('by default the unused bits of the signature may be any: here the string is the token, or nothing is', async t => {
  const { token, is, isTakenByDefaultOnly } = await createSubject(t)
  const last = Buffer.from(token.slice(-1), 'base64url')
  t.equal(last.length, 0, 'a character alone is no byte')
  const same = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'].map(character => token.slice(0, -1) + character)
    .filter(variant => variant !== token && Buffer.from(variant.slice(-43), 'base64url').equals(Buffer.from(token.slice(-43), 'base64url')))
  t.equal(same.length, 3)
  for (const variant of same) await isTakenByDefaultOnly(variant, { isStored: false })
  await is(token, { username: 'token:token 1', roles: ['admin'] })
})

t.test('by default the last of two members counts: here whoever could sign them finds them unknown', async t => {
  const { payload, isTakenByDefaultOnly } = await createSubject(t)
  for (const member of ['"role":"viewer"', '"exp":99999999999', '"iss":"other"', '"jti":"x"']) {
    await isTakenByDefaultOnly(sign(HEADER, `{${member},${payload.slice(1)}`), { isStored: false })
  }
})

t.test('by default a secret of one character will do: not here', async t => {
  await Fastify().register(jwt, { secret: 'x' })
  await t.rejects(buildHost(t, { tokens: { secret: 'x' } }), { code: 'MMC_TOKENS_INVALID_OPTION' })
})
