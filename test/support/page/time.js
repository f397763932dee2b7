const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
export const DAY = 24 * HOUR

const UNITS = [
  ['year', 365 * DAY], ['month', 30 * DAY], ['day', DAY], ['hour', HOUR], ['minute', MINUTE], ['second', SECOND]
]
const relative = new Intl.RelativeTimeFormat('en')
const absolute = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'short' })
const zoned = new Intl.DateTimeFormat('en-GB', {
  weekday: 'long',
  day: 'numeric',
  month: 'long',
  year: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  timeZoneName: 'short'
})

/** A time as people say it, such as "in 3 months". */
export function fromNow (time, now) {
  const difference = Date.parse(time) - now
  if (Math.abs(difference) < SECOND) return 'now'
  const [unit, length] = UNITS.find(([, length]) => Math.abs(difference) >= length)
  return relative.format(Math.round(difference / length), unit)
}

/** A time in full, where the reader is. */
export function inFull (time) {
  return absolute.format(new Date(time))
}

/** A time with the reader's zone, such as "… at 05:40 CET (Europe/Berlin)"; nothing for what is no time. */
export function withZone (time) {
  if (Number.isNaN(Number(time))) return ''
  const { timeZone } = zoned.resolvedOptions()
  return zoned.format(time) + (timeZone === 'UTC' ? '' : ` (${timeZone})`)
}

/** What a field of type `datetime-local` holds for a time. */
export function toLocalField (time) {
  const date = new Date(time)
  return new Date(date.getTime() - date.getTimezoneOffset() * MINUTE).toISOString().slice(0, 16)
}

/** A token is active, soon to expire (within a week), or expired. */
export function stateOf ({ validUntil }, now) {
  const left = Date.parse(validUntil) - now
  if (left <= 0) return 'expired'
  return left < 7 * DAY ? 'expires soon' : 'active'
}
