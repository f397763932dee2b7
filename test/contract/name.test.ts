import fc from 'fast-check'
import t from 'tap'
import { parseName } from '../../lib/tokens/new-token.js'
import { buildHost } from '../support/build-host.js'

// Characters of all kinds: one and two code units, white space, controls and half pairs; few and around 255 of them.
const unit = fc.oneof(
  { weight: 20, arbitrary: fc.constantFrom('a', 'B', '"', '\\', '%', '/', 'é', 'e\u0301', '😀', '👩‍👩‍👧', 'ن', '\u200b', '\u202e', '\ufffd', '\uffff', '\u{10ffff}', "'") },
  { weight: 5, arbitrary: fc.constantFrom(' ', '\u00a0', '\u2003', '\u3000', '\ufeff', '\u2028') },
  { weight: 5, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }) },
  { weight: 1, arbitrary: fc.constantFrom('\0', '\t', '\n', '\x1f', '\x7f', '\x80', '\x9f', '\ud800', '\udbff', '\udc00', '\udfff') }
)
const edge = fc.tuple(fc.constantFrom('x', '😀', 'é', '\u{10ffff}', ' '), fc.oneof(fc.integer({ min: 253, max: 257 }), fc.integer({ min: 127, max: 129 }), fc.integer({ min: 509, max: 512 }))).map(([c, count]) => c.repeat(count))
const space = fc.string({ unit: fc.constantFrom(...' \t\n\r\v\f\u00a0\ufeff\u2029'), maxLength: 2 })
const name = fc.tuple(space, fc.oneof(fc.array(unit, { maxLength: 6 }).map(units => units.join('')), edge, fc.tuple(edge, unit).map(parts => parts.join(''))), space).map(parts => parts.join(''))

/** The trimmed name, or `null` where it is to be refused. */
function readName (text: string): string | null {
  const trimmed = text.trim()
  let count = 0
  for (const character of trimmed) {
    const code = character.codePointAt(0) ?? 0
    if (code <= 0x1f || (code >= 0x7f && code <= 0x9f) || (code >= 0xd800 && code <= 0xdfff)) return null
    count++
  }
  return count >= 1 && count <= 255 ? trimmed : null
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
