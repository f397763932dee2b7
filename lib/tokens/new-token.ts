import { createTokenSchema, CreateTokenSchema } from '../../schemas/token.js'
import { InvalidError, mustBe } from '../errors.js'

const DATE_TIME = /^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):([0-5]\d))$/

/** What the MMC frontend posts: its formatter puts no dot between the seconds and `000Z`. */
const FRONTEND = /^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})000Z$/

const properties = CreateTokenSchema.properties

/** What breaks a line, turns the direction of the text, or can't be seen and serves no writing system and no emoji. */
const DECEIVING = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]|(?![\p{Join_Control}\p{Variation_Selector}\u{e0020}-\u{e007f}])\p{Default_Ignorable_Code_Point}/u

/** U+2800 is the blank of braille. */
const VISIBLE = /[^\s\u2800\p{Default_Ignorable_Code_Point}]/u

/** UTF-16 code units of which NFC makes 255 code points at most: each of those may have been four, of two units. */
const MAX_UNITS = 255 * 4 * 2

/** The name as it is stored: well-formed Unicode, trimmed, NFC, 1 to 255 code points, none that deceives. */
export function parseName (value: unknown): string {
  const trimmed = typeof value === 'string' && value.isWellFormed() ? value.trim() : ''
  // To normalize a long run of combining characters takes the square of its length.
  const name = trimmed.length > MAX_UNITS ? '' : trimmed.normalize()
  if (!VISIBLE.test(name) || DECEIVING.test(name) || [...name].length > 255) throw mustBe('name', properties.name)
  return name
}

export function parseRole (value: unknown, roles: readonly string[]): string {
  if (typeof value !== 'string' || !roles.includes(value)) throw mustBe('role', createTokenSchema(roles).properties.role)
  return value
}

/** A time in milliseconds, cut to the whole second: an RFC 3339 §5.6 date-time; `NaN` where it is none. */
export function parseTime (value: string): number {
  const match = DATE_TIME.exec(value)
  if (match === null) return NaN
  const [, date, time, zone = '', hours, minutes] = match
  const wall = Date.parse(`${date}T${time}Z`)
  // V8 takes 30 February for 2 March and 24:00 for the next day.
  if (Number.isNaN(wall) || new Date(wall).toISOString() !== `${date}T${time}.000Z`) return NaN
  const offset = hours === undefined ? 0 : (Number(hours) * 60 + Number(minutes)) * 60_000
  return zone.startsWith('-') ? wall + offset : wall - offset
}

/**
 * A time in milliseconds, which lies after `now` and in the year 9999 at the latest. It may also have the frontend's form.
 * @param maxLifetime how far ahead it may lie, in seconds
 */
export function parseValidUntil (value: unknown, now: number, maxLifetime = Infinity): number {
  const validUntil = typeof value === 'string' ? parseTime(value.replace(FRONTEND, '$1Z')) : NaN
  if (!(validUntil > now && validUntil < Date.UTC(10000, 0))) throw mustBe('validUntil', properties.validUntil)
  if (validUntil - now > maxLifetime * 1000) {
    throw new InvalidError(`validUntil must be at most ${maxLifetime} seconds ahead, that is no later than ${new Date(now + maxLifetime * 1000).toISOString()}`)
  }
  return validUntil
}

/** Whether this can be the name of who acts. Postgres holds well-formed Unicode without U+0000. */
export function isActor (value: unknown): value is string {
  return typeof value === 'string' && value.trim() !== '' && value.isWellFormed() && !value.includes('\0')
}

export function parseActor (property: 'requestedBy' | 'revokedBy', value: unknown): string {
  if (!isActor(value)) throw mustBe(property, { description: 'the name of who asks for this, a string of well-formed Unicode that is not empty and has no U+0000' })
  return value
}
