import { createTokenSchema, CreateTokenSchema } from '../../schemas/token.js'
import { mustBe } from '../errors.js'

const DATE_TIME = /^(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):([0-5]\d))$/

/** What the MMC frontend posts: its formatter puts no dot between the seconds and `000Z`. */
const FRONTEND = /^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})000Z$/

const properties = CreateTokenSchema.properties

/** The name as it is stored: trimmed, 1 to 255 code points of well-formed Unicode, no control character. */
export function parseName (value: unknown): string {
  if (typeof value !== 'string' || !value.isWellFormed()) throw mustBe('name', properties.name)
  const name = value.trim()
  const { length } = [...name]
  if (length < 1 || length > 255 || /\p{Cc}/u.test(name)) throw mustBe('name', properties.name)
  return name
}

export function parseRole (value: unknown, roles: readonly string[]): string {
  if (typeof value !== 'string' || !roles.includes(value)) throw mustBe('role', createTokenSchema(roles).properties.role)
  return value
}

/**
 * A time in milliseconds, cut to the whole second, which lies after `now`: an RFC 3339 §5.6 date-time up to the year 9999, or the
 * frontend's form of it.
 */
export function parseValidUntil (value: unknown, now: number): number {
  if (typeof value !== 'string') throw mustBe('validUntil', properties.validUntil)
  const match = DATE_TIME.exec(value.replace(FRONTEND, '$1Z'))
  if (match === null) throw mustBe('validUntil', properties.validUntil)
  const [, date, time, zone = '', hours, minutes] = match
  const wall = Date.parse(`${date}T${time}Z`)
  // V8 takes 30 February for 2 March and 24:00 for the next day.
  if (Number.isNaN(wall) || new Date(wall).toISOString() !== `${date}T${time}.000Z`) throw mustBe('validUntil', properties.validUntil)
  const offset = hours === undefined ? 0 : (Number(hours) * 60 + Number(minutes)) * 60_000
  const validUntil = zone.startsWith('-') ? wall + offset : wall - offset
  if (validUntil <= now || validUntil >= Date.UTC(10000, 0)) throw mustBe('validUntil', properties.validUntil)
  return validUntil
}
