import { hkdfSync, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { inspect } from 'node:util'
import Fastify, { type FastifyInstance } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import tokensPlugin, { type IssuedToken } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createHost } from '../support/host.js'
import { startPostgres } from '../support/postgres.js'
import { createSearch } from '../support/search-secrets.js'

const CANARIES = Number(process.env.CANARIES ?? 100)
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))
// With it, a report asks for the name of each peer, which may take seconds where there is no DNS.
Object.assign(process.report, { excludeNetwork: true })
/** Requests under way at once. */
const AT_ONCE = 16

/** Where a token must never be. */
const PLACES = ['log', 'answers', 'rows', 'statements', 'errors', 'reports'] as const
type Place = typeof PLACES[number]
type Keep = (place: Place, text: string) => void

/** Every row of every table, and what Postgres shows of its connections. */
const ROWS = `SELECT query_to_xml(format('SELECT * FROM %I.%I', table_schema, table_name), true, false, '')::text AS rows FROM information_schema.tables
  WHERE table_schema NOT IN ('pg_catalog', 'information_schema') UNION ALL SELECT query_to_xml('SELECT * FROM pg_stat_activity', true, false, '')::text`

const upgrade = { connection: 'upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' }
/** The token but for its last character. */
const flaw = (token: string): string => token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A')
const encode = (token: string): string => [...token].map(character => `%${character.charCodeAt(0).toString(16)}`).join('')

/** A request with a token, and the status that says that it was read as one. */
type Use = [path: string, headers: object, status: number]

/** The ways in which every canary is used. */
function uses ({ token }: IssuedToken): Use[] {
  return [
    ['/api/viewer', bearer(token), 200],
    [`/api/profile?token=${token}`, {}, 200],
    [`/nothing/here?a&${encode('token')}=${encode(token)}&z=2`, {}, 404],
    [`/fails?token=${token}`, {}, 500],
    [`/ws?token=${token}`, upgrade, 101]
  ]
}

/** The rarer ones, for every tenth. */
function rareUses ({ token, hash }: IssuedToken): Use[] {
  return [
    [`/api/profile?a=1&token=${encode(token)}`, {}, 200],
    [`/api/profile#token=${token}`, {}, 200],
    ['/nothing/here', bearer(token), 404],
    [`/nothing/here?token=${token}`, {}, 404],
    ['/fails', bearer(token), 500],
    [`/fails?token=${encode(token)}`, {}, 500],
    [`/api/profile?token=${flaw(token)}`, {}, 401],
    [`/api/tokens/${hash}`, bearer(token), 200],
    [`/api/tokens/${hash}?token=${token}`, {}, 200],
    ['/nothing/here', bearer(flaw(token)), 401],
    [`/api/profile?token=${token}`, bearer(token), 400],
    [`/fails?token=${token}&token=${encode(token)}`, {}, 400],
    [`/%zz?token=${token}`, bearer(token), 400],
    ['/ws', { ...upgrade, ...bearer(token) }, 101],
    [`/ws?token=${flaw(token)}`, upgrade, 401],
    [`/ws/nothing?token=${encode(token)}`, upgrade, 404]
  ]
}

/** Uses canaries on two nodes, and tells in which places they, the signing secret or the key can be found afterwards. */
async function release (t: Test, count: number, plant?: (app: FastifyInstance, database: pg.Pool) => void): Promise<Map<Place, number>> {
  const kept: Record<Place, string[]> = { log: [], answers: [], rows: [], statements: [], errors: [], reports: [] }
  const keep: Keep = (place, text) => { kept[place].push(text) }
  const settings = ['log_statement=all', 'log_min_duration_statement=0', 'log_parameter_max_length=-1', 'log_parameter_max_length_on_error=-1', 'log_min_error_statement=debug5']
  const postgres = await startPostgres({ settings, onLog: text => { keep('statements', text) } })
  const pool = new pg.Pool({ connectionString: postgres.url, max: 2 })
  pool.on('error', () => {})
  t.teardown(async () => {
    await pool.end()
    await postgres.end()
  })

  const canaries: IssuedToken[] = []
  for (const level of ['trace', undefined]) {
    const app = await createHost({
      sessionKey: Buffer.alloc(32, 7),
      tokens: { postgres: postgres.url, secret: SECRET },
      fastify: { logger: { ...level !== undefined && { level }, stream: { write (line: string) { keep('log', line) } } } }
    })
    t.teardown(() => app.close())
    plant?.(app, pool)
    app.get('/fails', async request => { throw new Error(`no luck at ${request.url}`, { cause: request.query }) })
    app.addHook('onError', async (_request, _reply, error) => {
      keep('errors', inspect(error, { depth: 10 }))
      if (kept.reports.length < 10) keep('reports', JSON.stringify(process.report.getReport(error)))
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const ask = createClient(t, app)

    const [cookie = ''] = /mmc=[^;]+/.exec(await ask('/auth?json=true', { 'content-type': 'application/x-www-form-urlencoded' }, 'username=cedalo&password=secret')) ?? []
    // Again where Postgres took its second and said nothing, as it may on a busy machine.
    const patiently = async (status: number, send: () => Promise<string>): Promise<string> => {
      for (;;) {
        const answer = await send()
        if (answer.startsWith(`${status} `)) return answer
        keep('answers', answer)
        if (!answer.startsWith('500 ')) throw new Error(`${answer.slice(0, 3)}, not ${status}`)
      }
    }
    const own = await inTurn(Array.from({ length: count / 2 }, () => async () => {
      const answer = await patiently(200, async () => await ask('/api/tokens', { cookie, 'content-type': 'application/json' }, JSON.stringify({ name: randomUUID(), role: 'admin', validUntil: '2999-01-01T00:00:00Z' })))
      return JSON.parse(answer.slice(answer.indexOf('\n\n'))) as IssuedToken
    }))
    canaries.push(...own)
    await inTurn(own.map((canary, n) => async () => {
      for (const [path, headers, status] of n % 10 === 0 ? [...uses(canary), ...rareUses(canary)] : uses(canary)) {
        keep('answers', await patiently(status, async () => await ask(path, headers)))
      }
    }))

    const [first, ...more] = own as [IssuedToken, ...IssuedToken[]]
    keep('answers', await ask('/api/tokens', { cookie }))
    await app.tokens.revoke(first.hash)
    keep('answers', await ask('/fails', bearer(first.token)))
    for (const { rows } of (await pool.query<{ rows: string }>(ROWS)).rows) keep('rows', rows)
    await postgres.stop('SIGQUIT')
    for (const { token } of more.slice(0, 3)) keep('answers', await ask(`/fails?token=${token}`, {}))
    await postgres.start()
    keep('reports', JSON.stringify(process.report.getReport()))
    await app.close()
  }
  for (const options of [{ secret: [SECRET, SECRET] }, { secret: SECRET, prefix: 'x' }, { secret: SECRET, postgres: 'postgres://127.0.0.1:1/x' }]) {
    await Fastify().register(tokensPlugin, { postgres: postgres.url, ...options }).then(() => t.fail(), (error: unknown) => { keep('errors', inspect(error, { depth: 10 })) })
  }

  const search = createSearch(canaries.map(({ token }) => token), [Buffer.from(SECRET), KEY])
  t.comment(PLACES.map(place => `${place}: ${Math.round(kept[place].reduce((sum, { length }) => sum + length, 0) / 1000)} kB`).join(', '))
  for (const place of PLACES) t.ok(kept[place].length > 0, place)
  t.match(kept.statements.join(''), canaries.at(-1)?.hash, 'values of statements are in the log of Postgres')
  return new Map(PLACES.map((place): [Place, number] => [place, new Set(search(kept[place].join('\n'))).size]))
}

/** Asks a host over HTTP for the whole answer: status, headers, body; of an upgrade the first that is sent, too. */
function createClient (t: Test, app: FastifyInstance) {
  const { port } = app.server.address() as AddressInfo
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE })
  t.teardown(() => { agent.destroy() })
  return async (path: string, headers: object, body?: string): Promise<string> => {
    const isUpgrade = 'upgrade' in headers
    const asked = request({ port, path, agent: !isUpgrade && agent, method: body === undefined ? 'GET' : 'POST', headers: { ...headers } }).end(body)
    const [response, socket, head] = await Promise.race([once(asked, 'response'), once(asked, 'upgrade')]).catch((error: unknown) => {
      if (!isUpgrade) throw error
      return []
    }) as [IncomingMessage?, Socket?, Buffer?]
    // @fastify/websocket hangs up where there is no such route, its answer sent or not.
    if (response === undefined) return '404 '
    const start = `${response.statusCode} ${response.rawHeaders.join('\n')}\n\n`
    if (socket === undefined) return start + await text(response)
    const [more = ''] = head?.length === 0 ? await once(socket, 'data') as [Buffer] : []
    socket.destroy()
    return start + String(head) + String(more)
  }
}

/** Does all of this, some of it at once. */
async function inTurn<T> (work: Array<() => Promise<T>>): Promise<T[]> {
  const done: T[] = []
  const waiting = work.entries()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const [index, act] of waiting) done[index] = await act()
  }))
  return done
}

t.test(`of ${CANARIES} tokens, the signing secret and the key nothing is found where they must not be`, async t => {
  t.strictSame(await release(t, CANARIES), new Map(PLACES.map(place => [place, 0])))
})

t.test('the same search finds tokens in each of these places, where a careless host puts them', async t => {
  const found = await release(t, 8, (app, database) => {
    app.addHook('onReady', async () => { await database.query('CREATE TABLE IF NOT EXISTS audit (what text)') })
    app.addHook('onRequest', async request => {
      const { authorization = '-' } = request.headers
      request.log.info({ headers: request.headers })
      await database.query('INSERT INTO audit SELECT $1', [authorization])
    })
    app.addHook('onSend', async (request, reply) => { reply.header('x-asked', request.headers.authorization ?? '-') })
    app.addHook('onError', async (request, _reply, error) => { error.stack = `${request.headers.authorization}\n${error.stack}` })
  })
  t.strictSame([...found].filter(([, count]) => count === 0), [])
})

t.test('the search finds secrets and tokens in every encoding, a good part of one, too, and nothing in what is none', async t => {
  const token = `${'a.'}${randomBytes(40).toString('base64url')}`
  const search = createSearch([token], [KEY])
  for (const form of [token, token.slice(20, 44), encode(token), encodeURIComponent(encode(token)), Buffer.from(token).toString('base64')]) t.strictSame(search(`x ${form} y`), [token], form)
  for (const form of [KEY.toString('hex'), KEY.toString('base64'), KEY.toString('base64url'), KEY.toString('latin1'), JSON.stringify(KEY)]) t.equal(search(`x${form}y`).length, 1, form)
  t.strictSame(search(`${token.slice(20, 30)} ${randomBytes(400).toString('base64url')} ${KEY.toString('hex').slice(0, 60)}`), [])
})
