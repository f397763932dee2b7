import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { type ListQuery, ListQuerySchema } from '../../schemas/token.js'
import { mustBe } from '../errors.js'
import { parseTime } from '../tokens/new-token.js'
import type { Tokens } from '../tokens/tokens.js'
import type { Filter, Token } from '../types.js'
import { rethrow } from './send-error.js'

// Postgres has no year 0.
const CURSOR = /^(?<issueDate>(?!0000)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)(?<hash>[0-9a-f]{64})$/

const properties = ListQuerySchema.properties

/**
 * The filter of a validated query.
 * @throws InvalidError, which names the parameter and what it must be
 */
export function parseListQuery ({ state, cursor, unusedSince }: ListQuery): Filter {
  return {
    state: state as Filter['state'],
    after: cursor === undefined ? undefined : parseCursor(cursor),
    unusedSince: unusedSince === undefined ? undefined : parseUnusedSince(unusedSince)
  }
}

/** A link to the page after this token (RFC 8288 §3.1), relative since a proxy may have changed the path. */
export function linkToNext ({ limit, state, unusedSince }: ListQuery, { issueDate, hash }: Token): string {
  const cursor = Buffer.from(issueDate + hash).toString('base64url')
  const query = new URLSearchParams({
    ...limit && { limit }, cursor, ...state && { state }, ...unusedSince && { unusedSince }
  })
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

/** Responds with lists of tokens. */
export function createLists ({ list }: Pick<Tokens, 'list'>) {
  return {
    /**
     * Awaits the first page, so that an unreachable database is a 500. The others follow as fast as the client reads.
     */
    async send (reply: FastifyReply, filter: Filter = {}): Promise<FastifyReply> {
      const pages = list(filter, Date.now())[Symbol.asyncIterator]()
      const first = await pages.next().catch(rethrow)
      return reply.type('application/json; charset=utf-8').send(Readable.from(toJson(first, pages)))
    },

    /** At most `limit` tokens; `last` is the last of them if more follow. */
    async takePage (limit: number, filter: Filter): Promise<{ page: Token[], last: Token | undefined }> {
      const found: Token[] = []
      for await (const some of list({ ...filter, pageSize: limit + 1 }, Date.now())) {
        found.push(...some)
        if (found.length > limit) break
      }
      return { page: found.slice(0, limit), last: found.length > limit ? found[limit - 1] : undefined }
    }
  }
}

/** A JSON array, page by page. */
async function * toJson (first: IteratorResult<Token[]>, pages: AsyncIterator<Token[]>): AsyncGenerator<string> {
  let before = '['
  for (let page = first; page.done !== true; page = await pages.next()) {
    // Uses that are not written yet may have excluded all of it.
    if (page.value.length === 0) continue
    yield before + JSON.stringify(page.value).slice(1, -1)
    before = ','
  }
  yield before === '[' ? '[]' : ']'
}
