import fc, { type Arbitrary } from 'fast-check'
import t from 'tap'
import { parseValidUntil } from '../../lib/tokens/new-token.js'

// RFC 3339 §5.6 and the contract once more, without a Date and without a regular expression.

/** The first millisecond of the year 10000, and how many days lie between the years 0 and 1970. */
const END = 253_402_300_800_000
const DAYS_TO_1970 = 719_528

interface Fields { year: number, month: number, day: number, hour: number, minute: number, second: number, offset: number }

const isLeap = (year: number): boolean => year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
const daysIn = (year: number, month: number): number => month === 2 ? (isLeap(year) ? 29 : 28) : [4, 6, 9, 11].includes(month) ? 30 : 31

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
    if ((error as { code?: string }).code === 'INVALID' && (error as { statusCode?: number }).statusCode === 400) return null
    throw error
  }
}

const near = (...edges: Array<[from: number, to: number]>): Arbitrary<number> => fc.oneof(...edges.map(([min, max]) => fc.integer({ min, max })))
const pad = (value: number, digits = 2): string => String(value).padStart(digits, '0')

const between = fc.constantFrom('T', 't', ' ')
const fraction = fc.oneof(fc.constant(''), fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 1, maxLength: 12 }).map(digits => `.${digits}`))

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
const lastTime = fc.tuple(fc.integer({ min: 1, max: 1439 }), fc.integer({ min: -2, max: 2 })).map(([minutes, seconds]): Fields => {
  const left = 86_400 - minutes * 60 + seconds
  return { year: 9999, month: 12, day: 31, hour: Math.floor(left / 3600), minute: Math.floor(left / 60) % 60, second: left % 60, offset: -minutes }
})

/** A string that is a date-time, with the instant that it names. */
const validTime = fc.tuple(fc.oneof({ weight: 9, arbitrary: someTime }, { weight: 1, arbitrary: lastTime }), between, fraction, fc.constantFrom('Z', 'z', '+', '000Z'))
  .map(([fields, between, fraction, zone]) => {
    const { year, month, day, hour, minute, second, offset } = fields
    const date = `${pad(year, 4)}-${pad(month)}-${pad(day)}`
    const time = `${pad(hour)}:${pad(minute)}:${pad(second)}`
    if (zone === '000Z') return { text: `${date} ${time}000Z`, instant: instantOf({ ...fields, offset: 0 }) }
    if (zone !== '+' && offset === 0) return { text: date + between + time + fraction + zone, instant: instantOf(fields) }
    const minutes = Math.abs(offset)
    return { text: `${date}${between}${time}${fraction}${offset < 0 ? '-' : '+'}${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}`, instant: instantOf(fields) }
  })

/** When it is asked, by the instant that is asked of: long before, around it, after. */
const nowFor = near([-1e15, -1e15], [-1e15, -1e15], [-2, 2], [-1001, -998], [998, 1001], [-1e15, 1e15]).map(distance => (instant: number) => Math.max(0, instant + distance))

t.test('every time that the contract accepts is the instant that it names, where that lies in the future and before the year 10000', async t => {
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
  const character = fc.oneof(fc.constantFrom(...'0123456789:-+.,TtZz \t\n/_Wé０٠−\u0000\u2003'), fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }))
  const place = fc.nat({ max: 36 })
  const change: Arbitrary<(text: string) => string> = fc.oneof(
    fc.tuple(place, character).map(([at, c]) => (text: string) => text.slice(0, at) + c + text.slice(at + 1)),
    fc.tuple(place, character).map(([at, c]) => (text: string) => text.slice(0, at) + c + text.slice(at)),
    place.map(at => (text: string) => text.slice(0, at) + text.slice(at + 1)),
    place.map(at => (text: string) => text.slice(0, at)),
    fc.tuple(place, place).map(([at, length]) => (text: string) => text.slice(0, at) + text.slice(at, at + length) + text.slice(at)),
    fc.constantFrom('T', 't', ' ', '', '  ', '_', '\t').map(between => (text: string) => text.slice(0, 10) + between + text.slice(11)),
    fc.constantFrom('.', '.Z', '.0', '.0z', '000Z', '000z', '000', '00Z', '0000Z', '.000Z', '000+00:00', '+00', '+0000', '-00:00', '+00:00Z', 'z', 'UTC').map(end => (text: string) => text.slice(0, 19) + end),
    // Each field in turn with any two digits: the 13th month, the 31st of June, hour 24, second 60, offset 24:00.
    fc.tuple(fc.constantFrom(5, 8, 11, 14, 17, -5, -2), near([0, 99], [24, 24], [28, 32], [60, 60])).map(([at, value]) => (text: string) => {
      const from = at < 0 ? text.length + at : at
      return text.slice(0, from) + pad(value) + text.slice(from + 2)
    })
  )
  const counts = { accepted: 0, refused: 0 }
  fc.assert(fc.property(validTime, fc.oneof(change.map(change => [change]), fc.tuple(change, change)), nowFor, ({ text, instant }, changes, nowFor) => {
    const now = nowFor(instant)
    const changed = changes.reduce((text, change) => change(text), text)
    const expected = readTime(changed, now)
    if (answerOf(changed, now) !== expected) throw new Error(`${JSON.stringify(changed)} at ${now}: ${answerOf(changed, now)} is not ${expected}`)
    counts[expected === null ? 'refused' : 'accepted']++
  }), { numRuns: 8000 })
  t.ok(counts.accepted > 500 && counts.refused > 2000, JSON.stringify(counts))
})

t.test('what is no string, or no time at all, is refused', async () => {
  const text = '2999-01-01T00:00:00Z'
  const others = fc.oneof(fc.anything({ withBoxedValues: true, withDate: true, withBigInt: true }).filter(value => typeof value !== 'string'), fc.constantFrom({ toString: () => text }, [text], new Date(1e14), 1e14))
  fc.assert(fc.property(fc.oneof(others, fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom(...'0123456789-:.TZ+ ') })), value => {
    if (answerOf(value, 0) !== (typeof value === 'string' ? readTime(value, 0) : null)) throw new Error('accepted')
  }), { numRuns: 2000 })
})
