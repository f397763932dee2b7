import t from 'tap'
import { parseName, parseRole, parseValidUntil } from '../../lib/tokens/new-token.js'

t.test('a refusal names the property and says what it must be', t => {
  for (const value of [undefined, 1, '', ' ', 'a\u0000', 'a'.repeat(256), '\ud800']) t.throws(() => parseName(value), { code: 'INVALID', message: /^name must be ./ })
  for (const value of [undefined, 1, ['admin'], 'other', '', 'Admin']) t.throws(() => parseRole(value, ['admin', 'viewer']), { code: 'INVALID', message: /^role must be .*admin.*viewer/ })
  for (const value of [undefined, 1, '', 'tomorrow', '2999-01-01', '2999-02-30T00:00:00Z', '2999-01-01T24:00:00Z', '1970-01-01T00:00:01Z', '9999-12-31T23:59:59-00:01', '2999-01-01T00:00:00+24:00']) {
    t.throws(() => parseValidUntil(value, 1000), { code: 'INVALID', message: /^validUntil must be ./ }, String(value))
  }
  t.end()
})

t.test('a lifetime may be limited, and the refusal says to when', t => {
  t.equal(parseValidUntil('1970-01-01T00:01:01Z', 1000, 60), 61_000)
  t.throws(() => parseValidUntil('1970-01-01T00:01:02Z', 1000, 60), { code: 'INVALID', message: 'validUntil must be at most 60 seconds ahead, that is no later than 1970-01-01T00:01:01.000Z' })
  t.end()
})

t.test('what is good is taken: a name trimmed, a role as it is, a time cut to its second', t => {
  t.equal(parseName('  a b '), 'a b')
  t.equal(parseName(' '.repeat(300) + '😀'.repeat(255)), '😀'.repeat(255), 'code points after the trim')
  t.equal(parseRole('viewer', ['admin', 'viewer']), 'viewer')
  for (const [value, at] of [['1970-01-01T00:00:02Z', 2000], ['1970-01-01 00:00:02.999z', 2000], ['1970-01-01 00:00:02000Z', 2000], ['1970-01-01t01:30:02+01:30', 2000], ['1969-12-31T22:30:02-01:30', 2000],
    ['1970-01-01T00:00:02-00:00', 2000], ['9999-12-31T23:59:59Z', 253_402_300_799_000]] as const) t.equal(parseValidUntil(value, 1000), at, value)
  t.end()
})
