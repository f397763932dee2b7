import fc from 'fast-check'
import t from 'tap'
import { urlWithout, urlWithoutQuery, withoutSecrets } from '../../lib/http/remove-secret.js'

const SECRET = 'eyJh.eyJpc3MiOiJ4In0.c2ln'
/** What a URL is made of, so that each part comes next to each other. */
const PARTS = ['token=', SECRET, 'eyJpc3MiOiJ4In0', '/a', '?', '&', '=', ';', '#', '%2E', '.', 'x=1', 'token=y']

t.test('the short way to a URL without its secret ends where the long one does', async t => {
  let short = 0
  const url = fc.array(fc.constantFrom(...PARTS), { maxLength: 8 }).map(parts => `/${parts.join('')}`)
  fc.assert(fc.property(fc.oneof(url, url.map(text => `${text}?token=${SECRET}`)), url => {
    const rest = urlWithoutQuery(url, 'token', SECRET)
    if (rest === null) return
    short++
    t.notMatch(rest, SECRET)
    t.equal(rest, urlWithout(url, [SECRET]), url)
  }), { numRuns: 5000, seed: 1 })
  t.ok(short > 500, `${short} took it`)
})

t.test('the short way is taken for the usual URLs alone', async t => {
  for (const [url, rest] of [
    [`/?token=${SECRET}`, '/'],
    [`/a/b?token=${SECRET}`, '/a/b'],
    [`/a?token=${SECRET}&b=1`, null],
    [`/a?b=1&token=${SECRET}`, null],
    [`/${SECRET}?token=${SECRET}`, null],
    [`/%61?token=${SECRET}`, null],
    [`/a?mytoken=${SECRET}`, null],
    [`/a?token=${SECRET}x`, null],
    [`/a?token=${SECRET}#token=${SECRET}`, null],
    [`/a;token=${SECRET}`, null],
    [`/a?token=${SECRET}&token=${SECRET}`, null],
    ['/a?token=x', null]
  ] as const) t.equal(urlWithoutQuery(url, 'token', SECRET), rest, url)
})

t.test('a member of the query called __proto__ is kept, and has no effect', async t => {
  for (const prototype of [null, Object.prototype]) {
    for (const [value, kept] of [['x', 'x'], [`a/${SECRET}`, 'a/'], [['x', SECRET], ['x', '']]] as const) {
      const given = Object.defineProperty(Object.create(prototype) as Record<string, unknown>, '__proto__', {
        value, enumerable: true
      })
      const { query, members } = withoutSecrets(given, [SECRET])
      t.strictSame(Object.entries(query), [['__proto__', kept]])
      t.strictSame(Object.entries(members), value === kept ? [] : [['__proto__', value]])
      t.equal(Object.getPrototypeOf(query), Object.prototype)
    }
  }
})
