import { type ListQuery, ListQuerySchema } from '../../schemas/token.js'
import { mustBe } from '../errors.js'
import { parseTime } from '../tokens/new-token.js'
import type { Filter, Token } from '../types.js'

// Postgres knows no year 0.
const CURSOR = /^(?<issueDate>(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)(?<hash>[0-9a-f]{64})$/

const properties = ListQuerySchema.properties

/**
 * What a request asks of a list, once its types were checked.
 * @throws InvalidError, which names the parameter and says what it must be
 */
export function parseListQuery ({ state, cursor, unusedSince }: ListQuery): Filter {
  return {
    state: state as Filter['state'],
    after: cursor === undefined ? undefined : parseCursor(cursor),
    unusedSince: unusedSince === undefined ? undefined : parseUnusedSince(unusedSince)
  }
}

/** What follows this token, as a link relative to the request (RFC 8288 §3.1): a proxy may have changed the path. */
export function linkToNext ({ limit, state, unusedSince }: ListQuery, { issueDate, hash }: Token): string {
  const cursor = Buffer.from(issueDate + hash).toString('base64url')
  const query = new URLSearchParams({ ...limit && { limit }, cursor, ...state && { state }, ...unusedSince && { unusedSince } })
  return `<?${query.toString()}>; rel="next"`
}

function parseCursor (cursor: string): Filter['after'] {
  const after = CURSOR.exec(Buffer.from(cursor, 'base64url').toString())?.groups as Filter['after']
  if (after === undefined || Number.isNaN(parseTime(after.issueDate))) throw mustBe('cursor', properties.cursor)
  return after
}

function parseUnusedSince (value: string): string {
  const time = parseTime(value)
  if (!(time >= 0 && time < Date.UTC(10000, 0))) throw mustBe('unusedSince', properties.unusedSince)
  return new Date(time).toISOString()
}
