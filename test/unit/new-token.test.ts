import { mkdir, rm, writeFile } from 'node:fs/promises'
import fc, { type Arbitrary } from 'fast-check'
import type { LightMyRequestResponse } from 'fastify'
import pg from 'pg'
import t from 'tap'
import { migrations } from '../../lib/store/migrations.js'
import { parseName, parseRole, parseValidUntil } from '../../lib/tokens/new-token.js'
import { type TestHost, buildHost } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

t.test('an error names the property and what it must be', t => {
  for (const value of [undefined, 1, '', ' ', 'a\u0000', 'a'.repeat(256), '\ud800']) {
    t.throws(() => parseName(value), {
      code: 'INVALID', message: /^name must be ./
    })
  }
  for (const value of [undefined, 1, ['admin'], 'other', '', 'Admin']) {
    t.throws(() =>
      parseRole(value, ['admin', 'viewer']), { code: 'INVALID', message: /^role must be .*admin.*viewer/ })
  }
  for (const value of [
    undefined, 1, '', 'tomorrow', '2999-01-01', '2999-02-30T00:00:00Z', '2999-01-01T24:00:00Z', '1970-01-01T00:00:01Z',
    '9999-12-31T23:59:59-00:01', '2999-01-01T00:00:00+24:00'
  ]) {
    t.throws(() => parseValidUntil(value, 1000), { code: 'INVALID', message: /^validUntil must be ./ }, String(value))
  }
  t.end()
})

t.test('a lifetime may be limited, and the error names the latest time', t => {
  t.equal(parseValidUntil('1970-01-01T00:01:01Z', 1000, 60), 61_000)
  t.throws(() => parseValidUntil('1970-01-01T00:01:02Z', 1000, 60), {
    code: 'INVALID', message: 'validUntil must be at most 60 seconds ahead, no later than 1970-01-01T00:01:01.000Z'
  })
  t.end()
})

t.test('valid input is accepted: the name is trimmed, the time cut to whole seconds', t => {
  t.equal(parseName('  a b '), 'a b')
  t.equal(parseName(' '.repeat(300) + '😀'.repeat(255)), '😀'.repeat(255), 'code points after the trim')
  t.equal(parseRole('viewer', ['admin', 'viewer']), 'viewer')
  for (const [value, at] of [['1970-01-01T00:00:02Z', 2000], [
    '1970-01-01 00:00:02.999z', 2000
  ], ['1970-01-01 00:00:02000Z', 2000], ['1970-01-01t01:30:02+01:30', 2000], ['1969-12-31T22:30:02-01:30', 2000],
  ['1970-01-01T00:00:02-00:00', 2000], ['9999-12-31T23:59:59Z', 253_402_300_799_000]] as const) {
    t.equal(
      parseValidUntil(value, 1000), at, value
    )
  }
  t.end()
})

// Characters of all kinds: one and two code units, white space, controls and half pairs; few and around 255 of them.
const unit = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.constantFrom(
      'a', 'B', '"', '\\', '%', '/', 'é', 'e\u0301', '😀', '👩‍👩‍👧', 'ن', '\ufffd', '\uffff', '\u{10ffff}', "'"
    )
  },
  {
    weight: 5,
    arbitrary: fc.constantFrom(
      ' ', '\u00a0', '\u2003', '\u3000', '\ufeff', '\u2028', '\u200d', '\ufe0f', '\u{e0067}', '\u2800', '\u0301'
    )
  },
  { weight: 5, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '\u200b',
      '\u202e',
      '\u2060',
      '\u00ad',
      '\u{e0001}',
      '\0',
      '\t',
      '\n',
      '\x1f',
      '\x7f',
      '\x80',
      '\x9f',
      '\ud800',
      '\udbff',
      '\udc00',
      '\udfff'
    )
  }
)
const edge = fc.tuple(fc.constantFrom('x', '😀', 'é', '\u{10ffff}', ' '), fc.oneof(
  fc.integer({ min: 253, max: 257 }), fc.integer({ min: 127, max: 129 }), fc.integer({ min: 509, max: 512 })
)).map(([c, count]) => c.repeat(count))
const space = fc.string({ unit: fc.constantFrom(...' \t\n\r\v\f\u00a0\ufeff\u2029'), maxLength: 2 })
const name = fc.tuple(space, fc.oneof(
  fc.array(unit, { maxLength: 6 }).map(units => units.join('')), edge, fc.tuple(edge, unit).map(parts => parts.join(''))
), space).map(parts => parts.join(''))

/**
 * Code points from, to: line and paragraph separators, Bidi_Control, and Default_Ignorable_Code_Point except what names
 * may have.
 */
const REFUSED = [
  [0x00, 0x1f], [0x7f, 0x9f], [0xad, 0xad], [0x34f, 0x34f], [0x61c, 0x61c], [0x115f, 0x1160], [0x17b4, 0x17b5],
  [0x180e, 0x180e], [0x200b, 0x200b], [0x200e, 0x200f], [0x2028, 0x202e],
  [0x2060, 0x206f], [0x3164, 0x3164], [0xd800, 0xdfff], [0xfeff, 0xfeff], [0xffa0, 0xffa0], [0xfff0, 0xfff8],
  [0x1bca0, 0x1bca3], [0x1d173, 0x1d17a], [0xe0000, 0xe001f], [0xe0080, 0xe00ff], [0xe01f0, 0xe0fff]
]

/** Joiners, variation selectors, emoji tags, spaces: a name may have them, beside something that can be seen. */
const INVISIBLE = [
  [0x20, 0x20], [0xa0, 0xa0], [0x1680, 0x1680], [0x180b, 0x180f], [0x2000, 0x200d], [0x202f, 0x202f], [0x205f, 0x205f],
  [0x2800, 0x2800], [0x3000, 0x3000], [0xfe00, 0xfe0f], [0xe0020, 0xe007f], [0xe0100, 0xe01ef]
]

const isIn = (ranges: number[][], code: number): boolean =>
  ranges.some(([from = 0, to = 0]) => code >= from && code <= to)

/** The name as it is stored, or `null` where it is to be refused. */
function readName (text: string): string | null {
  const name = text.trim().normalize('NFC')
  const codes = Array.from(name, character => character.codePointAt(0) ?? 0)
  if (codes.some(code => isIn(REFUSED, code)) || codes.every(code => isIn(INVISIBLE, code)) ||
    codes.length > 255) return null
  return name
}

t.test('a name is a 400, or is returned trimmed', async t => {
  const counts = { accepted: 0, refused: 0 }
  fc.assert(fc.property(fc.oneof(name, fc.anything()), value => {
    const expected = typeof value === 'string' ? readName(value) : null
    let answer: string | null = null
    try {
      answer = parseName(value)
    } catch (error) {
      if ((error as { code?: string }).code !== 'INVALID' ||
        (error as { statusCode?: number }).statusCode !== 400) throw error
    }
    if (answer !== expected) throw new Error(`${JSON.stringify(answer)} is not ${JSON.stringify(expected)}`)
    counts[expected === null ? 'refused' : 'accepted']++
  }), { numRuns: 4000 })
  t.ok(counts.accepted > 500 && counts.refused > 500, JSON.stringify(counts))
})

t.test('the same holds over HTTP and Postgres', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const counts: Record<number, number> = { 200: 0, 400: 0 }
  await fc.assert(fc.asyncProperty(name, async name => {
    const expected = readName(name)
    const created = await app.inject({
      method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
    })
    const record = created.json<{ name?: string, hash?: string, code?: string }>()
    counts[created.statusCode] = (counts[created.statusCode] ?? 0) + 1
    const list = (await app.inject({ url: '/api/tokens', headers })).json<Array<{ name: string }>>()
    await app.inject({ method: 'DELETE', url: `/api/tokens/${record.hash ?? ''}`, headers })
    if (created.statusCode !== (expected === null ? 400 : 200)) throw new Error(created.payload)
    const names = expected === null ? [] : [expected]
    if (JSON.stringify(list.map(({ name }) => name)) !== JSON.stringify(names) ||
      record.name !== names[0]) throw new Error(JSON.stringify(list))
  }), { numRuns: 120 })
  t.strictSame(Object.keys(counts), ['200', '400'])
  t.ok(Object.values(counts).every(count => count > 10), JSON.stringify(counts))
})

t.test('every character, alone and between two letters, is accepted or refused as the contract says', t => {
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

t.test('deceiving characters are refused over HTTP; those that scripts and emoji need are accepted', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string): Promise<number> => (await app.inject({
    method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
  })).statusCode
  for (const name of [
    '\u2060', 'ci\u200b', 'a\u202eb', 'a\u2028b', 'a\u2029b', '\u200d', '\ufe0f', '\u2800 \u2800', '\u3164', 'a\u00adb',
    'a\u{e0001}b', 'a\u2066b', 'ﬃ'.repeat(254) + '\u0958'
  ]) t.equal(await create(name), 400, encodeURI(name))
  for (const name of [
    'می\u200cخواهم', 'क्\u200dष', '👩\u200d👩\u200d👧', '❤\ufe0f',
    '🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}', '葛\u{e0100}', 'e\u0301'.repeat(255)
  ]) t.equal(await create(name), 200, encodeURI(name))
})

t.test('mint and bootstrap apply the same rules', async t => {
  const { app } = await buildHost(t)
  const sign = (name: string): string =>
    app.tokens.mint({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }).entry.name
  t.equal(sign(' e\u0301 '), 'é')
  for (const name of ['ci\u200b', '\u2060', '\u202e']) {
    t.throws(() => sign(name), {
      code: 'INVALID', message: /^name must be /
    })
  }
})

t.test('a name of a million combining characters is refused without sorting it', t => {
  const begun = process.cpuUsage()
  t.throws(() => parseName('a' + '\u0315\u0300\u05ae\u0300\u0062'.slice(0, 4).repeat(250_000)), { code: 'INVALID' })
  const { user, system } = process.cpuUsage(begun)
  t.ok(user + system < 1_000_000, 'CPU microseconds')
  t.end()
})

const NEVER = '2999-01-01T00:00:00.000Z'

/** Each line: names that look alike. */
const ALIKE = [
  ['ci', 'c\u200di', 'ci\u200c', 'ci\ufe0f', 'ci\u{e0100}', 'ci\u{e0067}', '\u200dci', ' ci ', 'ci \u200d'],
  ['a b', 'a  b', 'a\u00a0b', 'a\u3000b', 'a \u200d b', 'a\u2009\u200a\u202fb', 'a\u2800b'],
  ['é', 'e\u0301', 'e\u200d\u0301'],
  ['👩👧', '👩\u200d👧'],
  ['❤', '❤\ufe0f', '❤\ufe0e'],
  ['Å', '\u212b', 'A\u030a']
]

/** Told apart. */
const OTHERS = ['CI', 'c i', 'сi', 'ｃi', 'ab', 'É', 'e', 'A b', '①', '1', 'ﬁ', 'fi']

t.test('names that look alike are the same name in any order; case and look-alike letters make a difference', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string) => await app.inject({
    method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: NEVER }
  })
  for (const alike of ALIKE) {
    for (const [first, ...others] of [alike, alike.toReversed()] as Array<[string, ...string[]]>) {
      const { hash } = (await create(first)).json<{ hash: string }>()
      for (const name of others) {
        t.match(
          await create(name).then(answer => answer.json()),
          { code: 'CONFLICT', message: 'A token with this name exists' },
          JSON.stringify([first, name])
        )
      }
      await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })
    }
  }
  for (const name of [...ALIKE.map(([name = '']) => name), ...OTHERS]) {
    t.equal(
      (await create(name)).statusCode, 200, name
    )
  }
})

t.test('of many concurrent requests on three nodes for names that look alike, exactly one succeeds', async t => {
  const database = await createDatabase(t)
  const nodes = await Promise.all([1, 2, 3].map(async () => await buildHost(t, { database })))
  const headers = await (nodes[0] as TestHost).login()
  for (const [round, names] of ALIKE.entries()) {
    const answers = await Promise.all(nodes.flatMap(({ app }) => names.map(async name => (await app.inject({
      method: 'POST',
      url: '/api/tokens',
      headers,
      payload: {
        name: `${round} ${name}`, role: 'viewer', validUntil: NEVER
      }
    })).statusCode)))
    t.strictSame(answers.sort(), [200, ...Array.from({ length: answers.length - 1 }, () => 409)])
  }
})

t.test('renaming a token with SQL frees its name, and reserves the new one as it looks', async t => {
  const { issue, database } = await buildHost(t)
  const { hash } = await issue({ name: 'ci' })
  await database.query("UPDATE tokens SET name = 'c\u200d d' WHERE hash = $1", [hash])
  await issue({ name: 'ci' })
  await t.rejects(issue({ name: 'c d' }), { code: 'CONFLICT' })
  await t.rejects(database.query("UPDATE tokens SET name = 'c  i' WHERE hash = $1", [hash]).then(async () =>
    await issue({ name: 'c i' })), { code: 'CONFLICT' })
})

t.test('rows of the previous version keep their names, even if they look alike; its nodes keep working, under the same rule', async t => {
  const database = await createDatabase(t)
  const [first = '', second = ''] = migrations(`"${database.schema}"`)
  await database.query(
    `CREATE SCHEMA "${database.schema}"; ${first}; ${second}; INSERT INTO migrations VALUES (1), (2)`
  )
  // As that version stores a token.
  const insert = async (name: string, at: string): Promise<number> => (await database.query(`
    INSERT INTO tokens (hash, name, role, requested_by, issue_date, valid_until, last_used)
    VALUES (encode(sha256($1::text::bytea), 'hex'), $1, 'viewer', 'old', $2, '2999-01-01Z', $2) ON CONFLICT DO NOTHING RETURNING hash`, [name, at])).length
  const names = ['ci\u200b', 'ci', 'c\u202ei', '\u2060', '\u200b', 'a\u2028b', 'plain', 'e\u0301']
  for (const [index, name] of names.entries()) t.equal(await insert(name, `2026-01-0${index + 1}Z`), 1)

  const { app, issue } = await buildHost(t, { database })
  t.strictSame((await app.tokens.list()).map(({ name }) => name), names)
  for (const name of ['ci', 'a b', 'plain', 'é']) await t.rejects(issue({ name }), { code: 'CONFLICT' }, name)
  t.equal(await insert('pl\u200bain', '2026-02-01Z'), 0, 'an old node is refused, too')
  t.equal(await insert('new\u200b', '2026-02-01Z'), 1)
  await t.rejects(issue({ name: 'new' }), { code: 'CONFLICT' })

  const keys = await database.query('SELECT name_key FROM tokens ORDER BY issue_date LIMIT 7')
  const other = /^ci.[0-9a-f]{64}$/
  t.match(keys.map(({ name_key: key }) => key), [other, null, other, '', /^.[0-9a-f]{64}$/, 'a b', null])
})

t.test('a dump of the rows can be restored into the table', async t => {
  const { app, database, issue } = await buildHost(t)
  await issue({ name: 'a' })
  await issue({ name: 'b' })
  await database.query("UPDATE tokens SET name_key = E'a\\x01' || hash WHERE name = 'b'")
  const before = await app.tokens.list()
  const client = new pg.Client({ connectionString: database.url, options: `-c search_path=${database.schema}` })
  await client.connect()
  t.teardown(() => client.end())
  await client.query(
    'CREATE TEMP TABLE dump AS SELECT * FROM tokens; DELETE FROM tokens; INSERT INTO tokens SELECT * FROM dump'
  )
  t.strictSame(await app.tokens.list(), before)
  t.match(await database.query("SELECT name_key FROM tokens WHERE name = 'b'"), [{ name_key: /^a.[0-9a-f]{64}$/ }])
})

t.test('an entry of a bootstrap file whose name looks like that of another token is a conflict', async t => {
  const host = await buildHost(t)
  await host.issue({ name: 'c\u200di' })
  const { entry } = host.app.tokens.mint({ name: 'ci', role: 'viewer', validUntil: NEVER })
  await mkdir('.data', { recursive: true })
  const bootstrap = `.data/name-looks-${process.pid}.json`
  await writeFile(bootstrap, JSON.stringify([entry]))
  t.teardown(() => rm(bootstrap))
  await t.rejects(buildHost(t, { database: host.database, tokens: { bootstrap, bootstrapStrict: true } }), {
    code: 'MMC_TOKENS_BOOTSTRAP', message: /another token has its name/
  })
})

// RFC 3339 §5.6 and the contract once more, without a Date and without a regular expression.

/** The first millisecond of the year 10000, and how many days lie between the years 0 and 1970. */
const END = 253_402_300_800_000
const DAYS_TO_1970 = 719_528

interface Fields {
  year: number
  month: number
  day: number
  hour: number
  minute: number
  second: number
  offset: number
}

const isLeap = (year: number): boolean => year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
const daysIn = (year: number, month: number): number =>
  month === 2 ? (isLeap(year) ? 29 : 28) : [4, 6, 9, 11].includes(month) ? 30 : 31

/** Milliseconds since 1970. `offset` is in minutes. */
function instantOf ({ year, month, day, hour, minute, second, offset }: Fields): number {
  let days = 365 * year + Math.ceil(year / 4) - Math.ceil(year / 100) + Math.ceil(year / 400) - DAYS_TO_1970 + day - 1
  for (let earlier = 1; earlier < month; earlier++) days += daysIn(year, earlier)
  return (((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000
}

/** The instant, or `null` where it is to be refused. */
function readTime (text: string, now: number): number | null {
  let at = 0
  let isGood = true
  const one = (of: string): string => {
    const character = text.charAt(at++)
    isGood &&= character !== '' && of.includes(character)
    return character
  }
  const number = (digits: number, from: number, to: number): number => {
    let value = 0
    while (digits-- > 0) value = value * 10 + '0123456789'.indexOf(one('0123456789'))
    isGood &&= value >= from && value <= to
    return value
  }
  const year = number(4, 0, 9999)
  one('-')
  const month = number(2, 1, 12)
  one('-')
  const day = number(2, 1, daysIn(year, month))
  const between = one('Tt ')
  const hour = number(2, 0, 23)
  one(':')
  const minute = number(2, 0, 59)
  one(':')
  const second = number(2, 0, 59)
  let offset = 0
  if (between !== ' ' || text.slice(at) !== '000Z') {
    if (text.charAt(at) === '.') {
      at++
      do one('0123456789')
      while (text.charAt(at) !== '' && '0123456789'.includes(text.charAt(at)))
    }
    const sign = one('Zz+-')
    if (sign === '+' || sign === '-') {
      offset = number(2, 0, 23) * 60
      one(':')
      offset += number(2, 0, 59)
      if (sign === '-') offset = -offset
    }
    isGood &&= at === text.length
  }
  const instant = instantOf({ year, month, day, hour, minute, second, offset })
  return isGood && instant > now && instant < END ? instant : null
}

/** What `lib` makes of it, in the same terms. */
function answerOf (value: unknown, now: number): number | null {
  try {
    const answer = parseValidUntil(value, now)
    if (answer % 1000 !== 0 || !(answer > now) || answer >= END) throw new Error(`${answer} is no answer`)
    return answer
  } catch (error) {
    if ((error as { code?: string }).code === 'INVALID' &&
      (error as { statusCode?: number }).statusCode === 400) return null
    throw error
  }
}

const near = (...edges: Array<[from: number, to: number]>): Arbitrary<number> =>
  fc.oneof(...edges.map(([min, max]) => fc.integer({ min, max })))
const pad = (value: number, digits = 2): string => String(value).padStart(digits, '0')

const between = fc.constantFrom('T', 't', ' ')
const fraction = fc.oneof(
  fc.constant(''),
  fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 1, maxLength: 12 }).map(digits => `.${digits}`)
)

const someTime = fc.record({
  year: near([1969, 2100], [0, 9999], [9999, 9999], [2000, 2000]),
  month: near([1, 12], [2, 2]),
  lastDays: near([0, 30], [0, 0]),
  hour: near([0, 23], [0, 0], [23, 23]),
  minute: near([0, 59], [0, 0], [59, 59]),
  second: near([0, 59], [0, 0], [59, 59]),
  offset: near([0, 0], [-1439, 1439])
}).map(({ lastDays, ...fields }) => ({ ...fields, day: Math.max(1, daysIn(fields.year, fields.month) - lastDays) }))

/** West of Greenwich, where the year 10000 has begun in UTC while it is still the last day of 9999. */
const lastTime = fc.tuple(
  fc.integer({ min: 1, max: 1439 }), fc.integer({ min: -2, max: 2 })
).map(([minutes, seconds]): Fields => {
  const left = 86_400 - minutes * 60 + seconds
  return {
    year: 9999,
    month: 12,
    day: 31,
    hour: Math.floor(left / 3600),
    minute: Math.floor(left / 60) % 60,
    second: left % 60,
    offset: -minutes
  }
})

/** A string that is a date-time, with the instant that it names. */
const validTime = fc.tuple(
  fc.oneof({ weight: 9, arbitrary: someTime }, { weight: 1, arbitrary: lastTime }),
  between,
  fraction,
  fc.constantFrom('Z', 'z', '+', '000Z')
)
  .map(([fields, between, fraction, zone]) => {
    const { year, month, day, hour, minute, second, offset } = fields
    const date = `${pad(year, 4)}-${pad(month)}-${pad(day)}`
    const time = `${pad(hour)}:${pad(minute)}:${pad(second)}`
    if (zone === '000Z') return { text: `${date} ${time}000Z`, instant: instantOf({ ...fields, offset: 0 }) }
    if (zone !== '+' &&
      offset === 0) return { text: date + between + time + fraction + zone, instant: instantOf(fields) }
    const minutes = Math.abs(offset)
    return {
      text: `${date}${between}${time}${fraction}${offset < 0 ? '-' : '+'}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`,
      instant: instantOf(fields)
    }
  })

/** When it is asked, by the instant that is asked of: long before, around it, after. */
const nowFor = near([-1e15, -1e15], [-1e15, -1e15], [-2, 2], [-1001, -998], [998, 1001], [-1e15, 1e15]).map(
  distance => (instant: number) => Math.max(0, instant + distance)
)

t.test('every time that the contract accepts is the instant that it names, if it is in the future and before the year 10000', async t => {
  let accepted = 0
  fc.assert(fc.property(validTime, nowFor, ({ text, instant }, nowFor) => {
    const now = nowFor(instant)
    const expected = instant > now && instant < END ? instant : null
    if (readTime(text, now) !== expected) throw new Error('this test reads it wrong')
    if (answerOf(text, now) !== expected) throw new Error(`${answerOf(text, now)} is not ${expected}`)
    if (expected !== null) accepted++
  }), { numRuns: 4000 })
  t.ok(accepted > 1000, `${accepted} accepted`)
})

t.test('a string that is almost a time is accepted exactly when RFC 3339 and the contract accept it', async t => {
  const character = fc.oneof(fc.constantFrom(...'0123456789:-+.,TtZz \t\n/_Wé０٠−\u0000\u2003'), fc.string({
    unit: 'binary', minLength: 1, maxLength: 1
  }))
  const place = fc.nat({ max: 36 })
  const change: Arbitrary<(text: string) => string> = fc.oneof(
    fc.tuple(place, character).map(([at, c]) => (text: string) => text.slice(0, at) + c + text.slice(at + 1)),
    fc.tuple(place, character).map(([at, c]) => (text: string) => text.slice(0, at) + c + text.slice(at)),
    place.map(at => (text: string) => text.slice(0, at) + text.slice(at + 1)),
    place.map(at => (text: string) => text.slice(0, at)),
    fc.tuple(place, place).map(([at, length]) => (text: string) =>
      text.slice(0, at) + text.slice(at, at + length) + text.slice(at)),
    fc.constantFrom('T', 't', ' ', '', '  ', '_', '\t').map(between => (text: string) =>
      text.slice(0, 10) + between + text.slice(11)),
    fc.constantFrom(
      '.',
      '.Z',
      '.0',
      '.0z',
      '000Z',
      '000z',
      '000',
      '00Z',
      '0000Z',
      '.000Z',
      '000+00:00',
      '+00',
      '+0000',
      '-00:00',
      '+00:00Z',
      'z',
      'UTC'
    ).map(end => (text: string) => text.slice(0, 19) + end),
    // Each field in turn with any two digits: the 13th month, the 31st of June, hour 24, second 60, offset 24:00.
    fc.tuple(
      fc.constantFrom(5, 8, 11, 14, 17, -5, -2), near([0, 99], [24, 24], [28, 32], [60, 60])
    ).map(([at, value]) => (text: string) => {
      const from = at < 0 ? text.length + at : at
      return text.slice(0, from) + pad(value) + text.slice(from + 2)
    })
  )
  const counts = { accepted: 0, refused: 0 }
  fc.assert(fc.property(validTime, fc.oneof(
    change.map(change => [change]), fc.tuple(change, change)
  ), nowFor, ({ text, instant }, changes, nowFor) => {
    const now = nowFor(instant)
    const changed = changes.reduce((text, change) => change(text), text)
    const expected = readTime(changed, now)
    if (answerOf(changed, now) !== expected) {
      throw new Error(
      `${JSON.stringify(changed)} at ${now}: ${answerOf(changed, now)} is not ${expected}`
      )
    }
    counts[expected === null ? 'refused' : 'accepted']++
  }), { numRuns: 8000 })
  t.ok(counts.accepted > 500 && counts.refused > 2000, JSON.stringify(counts))
})

t.test('a validUntil that is not a string or not a time is refused', async () => {
  const text = '2999-01-01T00:00:00Z'
  const others = fc.oneof(
    fc.anything({ withBoxedValues: true, withDate: true, withBigInt: true }).filter(value => typeof value !== 'string'),
    fc.constantFrom({ toString: () => text }, [text], new Date(1e14), 1e14)
  )
  fc.assert(fc.property(fc.oneof(
    others, fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'0123456789-:.TZ+ ') })
  ), value => {
    if (answerOf(value, 0) !== (typeof value === 'string' ? readTime(value, 0) : null)) throw new Error('accepted')
  }), { numRuns: 2000 })
})

const FUTURE = '2999-01-01T00:00:00Z'
const sentence = {
  name: 'name must be a string of well-formed Unicode with 1 to 255 characters after trimming, at least one of them visible, without control characters, line separators and misleading invisible characters',
  role: 'role must be one of admin, editor, viewer, connectionManager, monitoringViewer',
  validUntil: 'validUntil must be a time in the future, up to the year 9999, with a zone: an RFC 3339 date-time such as 2099-12-31T10:05:00Z',
  body: 'The body must be an object with name, role and validUntil',
  json: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype',
  type: 'The body must be JSON in UTF-8, with content-type application/json'
}

t.test('invalid input is a 400 that names the property and what it must be, and nothing is stored', async t => {
  const { app, database, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json' }
  const good = { name: 'a', role: 'viewer', validUntil: FUTURE }
  const without = (key: keyof typeof good): object =>
    Object.fromEntries(Object.entries(good).filter(([name]) => name !== key))

  const cases: Array<[what: string, payload: string, message: string]> = [
    ...[
      123, null, true, ['a'], {}, '', '   ', '\t\n', 'a\u0000b', 'a\u0007b', 'a\u0085b', 'x'.repeat(256),
      '😀'.repeat(256)
    ].map(name =>
      [`name ${JSON.stringify(name)}`, JSON.stringify({ ...good, name }), sentence.name] as [string, string, string]),
    ['lone surrogate', '{"name":"a\\ud800","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}', sentence.name],
    ['no name', JSON.stringify(without('name')), sentence.name],
    ...['root', 'Admin', '', 'toString', ' admin'].map(
      role => [`role ${role}`, JSON.stringify({ ...good, role }), sentence.role] as [string, string, string]
    ),
    ...[['admin'], 1, null].map(role => [
      `role ${JSON.stringify(role)}`, JSON.stringify({ ...good, role }), sentence.role
    ] as [string, string, string]),
    ['no role', JSON.stringify(without('role')), sentence.role],
    ...[1893456000, null, 'tomorrow', '2999', '2999-01-01', '2999-01-01T00:00:00', '2999-01-01T00:00Z', '2999-02-30T00:00:00Z', '2999-02-29T00:00:00Z',
      '2999-01-01T24:00:00Z', '2999-01-01T23:60:00Z', '2999-01-01T23:59:60Z', '2999-01-01T00:00:00+99:00', '2999-01-01T00:00:00+24:00', '2999-01-01T00:00:00+01:60',
      '2999-01-01T00:00:00+0100', '2999-13-01T00:00:00Z', '2999-00-01T00:00:00Z', '2999-01-01T00:00:00.Z', '12999-01-01T00:00:00Z', '+02999-01-01T00:00:00Z',
      '9999-12-31T23:30:00-01:00', '2020-01-01T00:00:00Z', '0000-01-01T00:00:00Z', ' 2999-01-01T00:00:00Z', '2999-01-01T00:00:00Z ', '2999-01-01T00:00:00000Z',
      '2999-01-01 00:00:00001Z', '2999-01-01  00:00:00Z', '2999-01-01t00:00:00', '２９９９-01-01T00:00:00Z'].map(validUntil =>
      [
        `validUntil ${validUntil}`, JSON.stringify({ ...good, validUntil }), sentence.validUntil
      ] as [string, string, string]),
    ['no validUntil', JSON.stringify(without('validUntil')), sentence.validUntil],
    ...['null', '[]', '"text"', '5', 'true'].map(
      body => [`body ${body}`, body, sentence.body] as [string, string, string]
    ),
    ...['', '{', '{"name":}', 'name=a', '{"__proto__":{"role":"admin"},"name":"a","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}',
      '{"constructor":{"prototype":{}},"name":"a","role":"viewer","validUntil":"2999-01-01T00:00:00Z"}'].map(
      body => [`body ${body}`, body, sentence.json] as [string, string, string]
    )
  ]
  for (const [what, payload, message] of cases) {
    const response = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    t.equal(response.statusCode, 400, what)
    t.same(response.json(), { code: 'INVALID', message }, what)
  }
  t.same(await database.query('SELECT * FROM tokens'), [])
})

t.test('a body that is not JSON is a 415, one that is too large a 413', async t => {
  const { app, login } = await buildHost(t)
  const session = await login()
  for (const type of [
    'application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data; boundary=x', 'application/jsonp',
    'garbage', ''
  ]) {
    const response = await app.inject({
      method: 'POST', url: '/api/tokens', headers: { ...session, 'content-type': type }, payload: '{"name":"a"}'
    })
    t.equal(response.statusCode, 415, type)
    t.same(response.json(), { code: 'INVALID', message: sentence.type }, type)
  }
  const large = await app.inject({
    method: 'POST',
    url: '/api/tokens',
    headers: session,
    payload: { name: 'a'.repeat(1024 * 1024), role: 'admin', validUntil: FUTURE }
  })
  t.equal(large.statusCode, 413)
  t.same(large.json(), { code: 'INVALID', message: 'The body is too large' })
  t.equal(large.headers['cache-control'], 'no-store')
})

t.test('a body that does not match its content-length is a 400 that says so', async t => {
  const { app, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json', 'content-length': '5' }
  const response = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: '{"name":"a"}' })
  t.equal(response.statusCode, 400)
  t.strictSame(response.json(), { code: 'INVALID', message: 'content-length must be the length of the body' })
})

t.test('the JSON content type may be in any case and have a charset', async t => {
  const { app, login } = await buildHost(t)
  const session = await login()
  for (const [index, type] of [
    'application/json', 'application/json; charset=utf-8', 'Application/JSON;charset=UTF-8', 'application/json;;garbage'
  ].entries()) {
    const payload = JSON.stringify({ name: `n${index}`, role: 'viewer', validUntil: FUTURE })
    t.equal((await app.inject(
      { method: 'POST', url: '/api/tokens', headers: { ...session, 'content-type': type }, payload }
    )).statusCode, 200, type)
  }
})

t.test('names are trimmed, normalized, counted in code points, and case-sensitive', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const create = async (name: string): Promise<LightMyRequestResponse> =>
    await app.inject({
      method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: FUTURE }
    })

  for (const name of [
    '😀'.repeat(255), 'a', 'A', 'é', '<b>&amp;"\'', 'a b', '../../..', '%00', 'نص', "'; DROP TABLE tokens; --"
  ]) {
    t.equal((await create(name)).json<{ name: string }>().name, name)
  }
  t.equal((await create('  trimmed\n ')).json<{ name: string }>().name, 'trimmed')
  t.equal((await create('e\u0301!')).json<{ name: string }>().name, 'é!')
  const taken = await create(' a ')
  t.equal(taken.statusCode, 409)
  t.same(taken.json(), { code: 'CONFLICT', message: 'A token with this name exists' })
})

t.test('unknown properties are ignored and never stored', async t => {
  const { app, login } = await buildHost(t)
  const payload = {
    name: 'a',
    role: 'viewer',
    validUntil: FUTURE,
    hash: 'x',
    requestedBy: 'root',
    issueDate: '1970-01-01T00:00:00Z',
    constructor: 'x',
    extra: 1
  }
  const response = await app.inject({ method: 'POST', url: '/api/tokens', headers: await login(), payload })
  t.equal(response.statusCode, 200)
  t.same(Object.keys(response.json()), [
    'token', 'name', 'hash', 'validUntil', 'role', 'requestedBy', 'issueDate', 'lastUsed'
  ])
  t.match(response.json(), { requestedBy: 'cedalo', hash: /^[0-9a-f]{64}$/ })
})

t.test('a time is accepted in every form of the contract, cut to the whole second and returned in UTC', async t => {
  const { issue } = await buildHost(t)
  const forms = {
    '2999-06-08T10:54:53Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08 10:54:53Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08t10:54:53z': '2999-06-08T10:54:53.000Z',
    '2999-06-08T10:54:53.9999999999Z': '2999-06-08T10:54:53.000Z',
    '2999-06-08T10:54:53.5+02:00': '2999-06-08T08:54:53.000Z',
    '2999-06-08T10:54:53-23:59': '2999-06-09T10:53:53.000Z',
    '2999-06-08T10:54:53-00:00': '2999-06-08T10:54:53.000Z',
    '2996-02-29T00:00:00Z': '2996-02-29T00:00:00.000Z',
    '9999-12-31T23:59:59Z': '9999-12-31T23:59:59.000Z',
    '2999-06-08 10:05:00000Z': '2999-06-08T10:05:00.000Z'
  }
  for (const [validUntil, answered] of Object.entries(forms)) {
    t.equal(
      (await issue({ validUntil })).validUntil, answered, validUntil
    )
  }
})

t.test('the whole second of a time must be in the future', async t => {
  let now = Date.UTC(2026, 10, 24, 12, 0, 0, 999)
  t.intercept(Date, 'now', { value: () => now })
  const { issue } = await buildHost(t)
  t.equal((await issue({ validUntil: '2026-11-24T12:00:01Z' })).validUntil, '2026-11-24T12:00:01.000Z')
  now += 1
  await t.rejects(issue({ validUntil: '2026-11-24T12:00:01.999Z' }), {
    statusCode: 400, code: 'INVALID', message: sentence.validUntil
  })
})

t.test('of twenty concurrent requests for one name on two nodes, exactly one succeeds', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { database: one.database })
  const headers = await one.login()
  const payload = { name: 'only', role: 'viewer', validUntil: FUTURE }
  const create = { method: 'POST', url: '/api/tokens', headers, payload } as const
  const answers = await Promise.all(Array.from({ length: 20 }, async (_, index) => {
    return await [one, two][index % 2]?.app.inject(create)
  }))
  t.same(answers.map(answer => answer?.statusCode).sort(), [200, ...Array<number>(19).fill(409)])
  const winner = answers.find(answer => answer?.statusCode === 200)?.json<{ hash: string }>()
  t.same(await one.database.query('SELECT hash FROM tokens'), [{ hash: winner?.hash }])
})
