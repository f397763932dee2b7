import t from 'tap'
import { fingerprint, isOurs, verify } from '../../lib/tokens/jwt.js'
import type { Claims, Signer } from '../../lib/types.js'

const TOKEN = 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x'
const CLAIMS: Claims = { role: 'viewer', iat: 1, exp: 2, iss: 'cedalo', jti: 'x' }

/** A signer, and the stack of the error with which it refuses. */
function refusing (reason: string, stacks: string[]): Signer {
  return {
    sign: () => '',
    verify () {
      const error = new Error(reason)
      stacks.push(error.stack ?? '')
      throw error
    }
  }
}

t.test('each key is tried until one verifies; why the last did not is the reason', async t => {
  const accepting: Signer = { sign: () => '', verify: () => CLAIMS }
  const never: Signer = { sign: () => '', verify: () => t.fail('not asked') as never }
  t.equal(verify(TOKEN, [accepting, never]), CLAIMS)
  t.equal(verify(TOKEN, [refusing('one', []), accepting]), CLAIMS)
  t.equal(verify(TOKEN, [refusing('one', []), refusing('two', [])]), 'two')
  t.equal(verify(TOKEN, []), '', 'no key, no claims')
  t.equal(verify(`x${TOKEN}`, [never]), 'foreign header', 'no key is tried on a header that is not ours')
})

t.test('a refusal captures no stack, which would cost more than the signature; whoever fails next has one as before', async t => {
  const { stackTraceLimit } = Error
  t.teardown(() => { Error.stackTraceLimit = stackTraceLimit })
  Error.stackTraceLimit = 7
  const stacks: string[] = []
  verify(TOKEN, [refusing('no', stacks)])
  t.strictSame(stacks, ['Error: no'])
  t.equal(Error.stackTraceLimit, 7)
  t.match(new Error('next').stack, /signature\.test/)
})

t.test('the fingerprint of a secret is the same in every version, since nodes of two may run side by side', async t => {
  t.equal(fingerprint('a secret of the tests, long enough: 0123456789'), '7f3f29ad0e196a85')
})

t.test('ours is what is a JWT as a whole, signed or not, and names our issuer', async t => {
  const payload = Buffer.from('{"iss":"cedalo"}').toString('base64url')
  for (const credential of [`h.${payload}.s`, `h.${payload}.`]) t.equal(isOurs(credential, 'cedalo'), true)
  for (const credential of [`h.${payload}`, `x.h.${payload}.s`, `h.${payload}.s.x`, `.${payload}.s`, `h.${payload}.s `, ` h.${payload}.s`, 'h.e30.s', 'h.bnVsbA.s', 'h.x.s', 'opaque', '']) {
    t.equal(isOurs(credential, 'cedalo'), false, credential)
  }
  t.equal(isOurs(`h.${payload}.s`, 'other'), false)
})
