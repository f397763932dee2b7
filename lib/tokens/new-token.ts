import { createTokenSchema, CreateTokenSchema } from '../../schemas/token.js'
import { InvalidError, mustBe } from '../errors.js'

const DATE_TIME = /^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):([0-5]\d))$/

/** What the MMC frontend posts: its formatter writes no dot between the seconds and `000Z`. */
const FRONTEND = /^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})000Z$/

const properties = CreateTokenSchema.properties

/** Line breaks, direction changes, and invisible characters that no script and no emoji needs. */
const DECEIVING = new RegExp('[\\p{Cc}\\p{Zl}\\p{Zp}\\p{Bidi_Control}]|' +
  '(?![\\p{Join_Control}\\p{Variation_Selector}\\u{e0020}-\\u{e007f}])\\p{Default_Ignorable_Code_Point}', 'u')

/** U+2800 is the braille blank. */
const VISIBLE = /[^\s\u2800\p{Default_Ignorable_Code_Point}]/u

/** UTF-16 code units that NFC may reduce to 255 code points: each may have been four, of two units. */
const MAX_UNITS = 255 * 4 * 2

/** The name as it is stored: well-formed Unicode, trimmed, NFC, 1 to 255 code points, none invisible and misleading. */
export function parseName (value: unknown): string {
  const trimmed = typeof value === 'string' && value.isWellFormed() ? value.trim() : ''
  // Normalizing a run of combining characters takes quadratic time.
  const name = trimmed.length > MAX_UNITS ? '' : trimmed.normalize()
  if (!VISIBLE.test(name) || DECEIVING.test(name) || [...name].length > 255) throw mustBe('name', properties.name)
  return name
}

export function parseRole (value: unknown, roles: readonly string[]): string {
  if (typeof value === 'string' && roles.includes(value)) return value
  throw mustBe('role', createTokenSchema(roles).properties.role)
}

/** An RFC 3339 §5.6 date-time in milliseconds, truncated to the second; `NaN` if invalid. */
export function parseTime (value: string): number {
  const match = DATE_TIME.exec(value)
  if (match === null) return NaN
  const [, date, time, zone = '', hours, minutes] = match
  const wall = Date.parse(`${date}T${time}Z`)
  // V8 reads 30 February as 2 March, and 24:00 as the next day.
  if (Number.isNaN(wall) || new Date(wall).toISOString() !== `${date}T${time}.000Z`) return NaN
  const offset = hours === undefined ? 0 : (Number(hours) * 60 + Number(minutes)) * 60_000
  return zone.startsWith('-') ? wall + offset : wall - offset
}

/**
 * A time in milliseconds after `now`, up to the year 9999. The frontend's form is accepted.
 * @param maxLifetime the maximum distance from `now`, in seconds
 */
export function parseValidUntil (value: unknown, now: number, maxLifetime = Infinity): number {
  const validUntil = typeof value === 'string' ? parseTime(value.replace(FRONTEND, '$1Z')) : NaN
  if (!(validUntil > now && validUntil < Date.UTC(10000, 0))) throw mustBe('validUntil', properties.validUntil)
  if (validUntil - now > maxLifetime * 1000) {
    const latest = new Date(now + maxLifetime * 1000).toISOString()
    throw new InvalidError(`validUntil must be at most ${maxLifetime} seconds ahead, no later than ${latest}`)
  }
  return validUntil
}

/** Whether this can name an actor. Postgres stores well-formed Unicode without U+0000. */
export function isActor (value: unknown): value is string {
  return typeof value === 'string' && value.trim() !== '' && value.isWellFormed() && !value.includes('\0')
}

export function parseActor (property: 'requestedBy' | 'revokedBy', value: unknown): string {
  if (isActor(value)) return value
  throw mustBe(property, { description: 'a non-empty string of well-formed Unicode without U+0000 that names a user' })
}
