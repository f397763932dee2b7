import fc from 'fast-check'
import t from 'tap'
import { parseName } from '../../lib/tokens/new-token.js'
import { buildHost } from '../support/build-host.js'

// Characters of all kinds: one and two code units, white space, controls and half pairs; few and around 255 of them.
const unit = fc.oneof(
  { weight: 20, arbitrary: fc.constantFrom('a', 'B', '"', '\\', '%', '/', 'é', 'e\u0301', '😀', '👩‍👩‍👧', 'ن', '\ufffd', '\uffff', '\u{10ffff}', "'") },
  { weight: 5, arbitrary: fc.constantFrom(' ', '\u00a0', '\u2003', '\u3000', '\ufeff', '\u2028', '\u200d', '\ufe0f', '\u{e0067}', '\u2800', '\u0301') },
  { weight: 5, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }) },
  { weight: 1, arbitrary: fc.constantFrom('\u200b', '\u202e', '\u2060', '\u00ad', '\u{e0001}', '\0', '\t', '\n', '\x1f', '\x7f', '\x80', '\x9f', '\ud800', '\udbff', '\udc00', '\udfff') }
)
const edge = fc.tuple(fc.constantFrom('x', '😀', 'é', '\u{10ffff}', ' '), fc.oneof(fc.integer({ min: 253, max: 257 }), fc.integer({ min: 127, max: 129 }), fc.integer({ min: 509, max: 512 }))).map(([c, count]) => c.repeat(count))
const space = fc.string({ unit: fc.constantFrom(...' \t\n\r\v\f\u00a0\ufeff\u2029'), maxLength: 2 })
const name = fc.tuple(space, fc.oneof(fc.array(unit, { maxLength: 6 }).map(units => units.join('')), edge, fc.tuple(edge, unit).map(parts => parts.join(''))), space).map(parts => parts.join(''))

/** Code points from, to: line and paragraph separators, Bidi_Control, and Default_Ignorable_Code_Point except what names may have. */
const REFUSED = [[0x00, 0x1f], [0x7f, 0x9f], [0xad, 0xad], [0x34f, 0x34f], [0x61c, 0x61c], [0x115f, 0x1160], [0x17b4, 0x17b5], [0x180e, 0x180e], [0x200b, 0x200b], [0x200e, 0x200f], [0x2028, 0x202e],
  [0x2060, 0x206f], [0x3164, 0x3164], [0xd800, 0xdfff], [0xfeff, 0xfeff], [0xffa0, 0xffa0], [0xfff0, 0xfff8], [0x1bca0, 0x1bca3], [0x1d173, 0x1d17a], [0xe0000, 0xe001f], [0xe0080, 0xe00ff], [0xe01f0, 0xe0fff]]

/** Joiners, variation selectors, emoji tags, spaces: a name may have them, beside something that can be seen. */
const INVISIBLE = [[0x20, 0x20], [0xa0, 0xa0], [0x1680, 0x1680], [0x180b, 0x180f], [0x2000, 0x200d], [0x202f, 0x202f], [0x205f, 0x205f], [0x2800, 0x2800], [0x3000, 0x3000], [0xfe00, 0xfe0f], [0xe0020, 0xe007f], [0xe0100, 0xe01ef]]

const isIn = (ranges: number[][], code: number): boolean => ranges.some(([from = 0, to = 0]) => code >= from && code <= to)

/** The name as it is stored, or `null` where it is to be refused. */
function readName (text: string): string | null {
  const name = text.trim().normalize('NFC')
  const codes = Array.from(name, character => character.codePointAt(0) ?? 0)
  if (codes.some(code => isIn(REFUSED, code)) || codes.every(code => isIn(INVISIBLE, code)) || codes.length > 255) return null
  return name
}

t.test('a name is refused with 400 or comes back as its trimmed self', async t => {
  const counts = { accepted: 0, refused: 0 }
  fc.assert(fc.property(fc.oneof(name, fc.anything()), value => {
    const expected = typeof value === 'string' ? readName(value) : null
    let answer: string | null = null
    try {
      answer = parseName(value)
    } catch (error) {
      if ((error as { code?: string }).code !== 'INVALID' || (error as { statusCode?: number }).statusCode !== 400) throw error
    }
    if (answer !== expected) throw new Error(`${JSON.stringify(answer)} is not ${JSON.stringify(expected)}`)
    counts[expected === null ? 'refused' : 'accepted']++
  }), { numRuns: 4000 })
  t.ok(counts.accepted > 500 && counts.refused > 500, JSON.stringify(counts))
})

t.test('through the front door and Postgres, too', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const counts: Record<number, number> = { 200: 0, 400: 0 }
  await fc.assert(fc.asyncProperty(name, async name => {
    const expected = readName(name)
    const created = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } })
    const record = created.json<{ name?: string, hash?: string, code?: string }>()
    counts[created.statusCode] = (counts[created.statusCode] ?? 0) + 1
    const list = (await app.inject({ url: '/api/tokens', headers })).json<Array<{ name: string }>>()
    await app.inject({ method: 'DELETE', url: `/api/tokens/${record.hash ?? ''}`, headers })
    if (created.statusCode !== (expected === null ? 400 : 200)) throw new Error(created.payload)
    const names = expected === null ? [] : [expected]
    if (JSON.stringify(list.map(({ name }) => name)) !== JSON.stringify(names) || record.name !== names[0]) throw new Error(JSON.stringify(list))
  }), { numRuns: 120 })
  t.strictSame(Object.keys(counts), ['200', '400'])
  t.ok(Object.values(counts).every(count => count > 10), JSON.stringify(counts))
})

t.test('every character alone, and between two letters, is taken or refused as the contract lists it', t => {
  // Beyond, planes 2 to 13 are letters, or not assigned.
  for (let code = 0; code <= 0xe1000; code = code === 0x1ffff ? 0xe0000 : code + 1) {
    for (const text of [String.fromCodePoint(code), `a${String.fromCodePoint(code)}b`]) {
      let answer: string | null = null
      try {
        answer = parseName(text)
      } catch {}
      if (answer !== readName(text)) t.fail(`U+${code.toString(16)}: ${answer === null ? 'refused' : 'taken'}`)
    }
  }
  t.end()
})

t.test('what deceives is refused through the front door; what scripts and emoji need is taken', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string): Promise<number> => (await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' } })).statusCode
  for (const name of ['\u2060', 'ci\u200b', 'a\u202eb', 'a\u2028b', 'a\u2029b', '\u200d', '\ufe0f', '\u2800 \u2800', '\u3164', 'a\u00adb', 'a\u{e0001}b', 'a\u2066b', 'ﬃ'.repeat(254) + '\u0958']) t.equal(await create(name), 400, encodeURI(name))
  for (const name of ['می\u200cخواهم', 'क्\u200dष', '👩\u200d👩\u200d👧', '❤\ufe0f', '🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}', '葛\u{e0100}', 'e\u0301'.repeat(255)]) t.equal(await create(name), 200, encodeURI(name))
})

t.test('sign and bootstrap obey the same rules', async t => {
  const { app } = await buildHost(t)
  const sign = (name: string): string => app.tokens.sign({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }).entry.name
  t.equal(sign(' e\u0301 '), 'é')
  for (const name of ['ci\u200b', '\u2060', '\u202e']) t.throws(() => sign(name), { code: 'INVALID', message: /^name must be / })
})

t.test('a name of a million combining characters is refused without being sorted', t => {
  const begun = process.cpuUsage()
  t.throws(() => parseName('a' + '\u0315\u0300\u05ae\u0300\u0062'.slice(0, 4).repeat(250_000)), { code: 'INVALID' })
  const { user, system } = process.cpuUsage(begun)
  t.ok(user + system < 1_000_000, 'CPU microseconds')
  t.end()
})
