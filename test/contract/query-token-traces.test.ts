import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parse } from 'node:querystring'
import { text } from 'node:stream/consumers'
import Fastify, { type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { routing } from '../support/fastify-version.js'

type Router = NonNullable<FastifyServerOptions['routerOptions']>

/** As `qs` with `comma: true`. */
const commas = (query: string): Record<string, unknown> => Object.fromEntries(Object.entries(parse(query)).map(([key, value]) => [key, String(value).includes(',') ? String(value).split(',') : value]))
const PARSERS: Record<string, Router> = {
  default: {},
  semicolon: { useSemicolonDelimiter: true } as Router,
  commas: { querystringParser: commas },
  'split at semicolons': { querystringParser: query => ({ ...parse(query, ';') }) },
  nested: { querystringParser: query => ({ ...parse(query), deep: { list: [query, 1, null, { [query]: 'x' }] }, [query]: 'y', n: 1 }) },
  'decoded twice': { querystringParser: query => ({ ...parse(decodeURIComponent(query)) }) }
}

async function createHost (t: Test, routerOptions: Router, log: string[]) {
  const { url: postgres, schema } = await createDatabase(t)
  const app = Fastify({ ...routing(routerOptions), rewriteUrl: request => String(request.url), logger: { level: 'trace', stream: { write (line: string) { log.push(line) } } } })
  t.teardown(() => app.close())
  // It fixes what `request.originalUrl` is.
  app.addHook('onRequest', async request => request.originalUrl)
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/x', async request => ({
    name: request.applicationToken?.name, url: request.url, all: [request.originalUrl, request.raw.url, (request.raw as { originalUrl?: string }).originalUrl, request.query]
  }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x' })
  const ask = async (path: string): Promise<string> => {
    const [answer] = await once(get({ port: (app.server.address() as AddressInfo).port, path, agent: false }), 'response') as [IncomingMessage]
    return await text(answer)
  }
  return { app, token, ask }
}

const CASES: Array<[parser: string, query: (token: string) => string, url: string]> = [
  ['semicolon', token => `;token=${token}&b=2?c`, '/x;b=2?c'],
  ['semicolon', token => `;token=${token}&b=2#c`, '/x;b=2#c'],
  ['commas', token => `?token=${token},foo`, '/x?token=,foo'],
  ['commas', token => `?token=foo,${token}&z=1`, '/x?token=foo,&z=1'],
  ['split at semicolons', token => `?a=1;token=${token}`, '/x?a=1'],
  ['split at semicolons', token => `?token=${token};a=1`, '/x?a=1'],
  ['default', token => `?next=%2Fy%3Ftoken%3D${token}&token=${token}`, '/x?next=%2Fy%3Ftoken%3D'],
  ['default', token => `?a=x.${token}&token=${token}&%zz=%41`, '/x?%zz=%41'],
  ['default', token => `?token=${token}#a=${token}&token=${token.replaceAll('e', '%65')}`, '/x'],
  ['nested', token => `?token=${token}&a=1`, '/x?a=1'],
  ['decoded twice', token => `?token=${token.replaceAll('e', '%2565')}&a=1`, '/x']
]

t.test('whatever a parser found, no occurrence of the token is left in URL, query or log', async t => {
  for (const [parser, query, url] of CASES) {
    const log: string[] = []
    const { token, ask } = await createHost(t, PARSERS[parser] ?? {}, log)
    const answer = await ask(`/x${query(token)}`)
    const { name, url: left } = JSON.parse(answer) as { name: unknown, url: unknown }
    t.strictSame({ name, url: left }, { name: 'a', url }, `${parser} ${query('T')}`)
    const [, payload = 'none', signature = 'none'] = token.split('.')
    t.notOk(answer.includes(payload) || answer.includes(signature))
    // The log is searched by the name of the parameter.
    if (!/(next|a)=.*&/.test(query('').split('token=')[0] ?? '')) t.notOk(log.join('').includes(signature), 'in the log')
  }
})

t.test('a refused token leaves none either, and hundreds of them cost no more', async t => {
  const log: string[] = []
  const { token, ask } = await createHost(t, {}, log)
  t.match(await ask(`/x?token=${token}x`), '"UNAUTHORIZED"')
  const short = [...'abcdefghij'].map(char => `${char}.eyJpc3MiOiJjZWRhbG8ifQ.`)
  t.match(await ask(`/x?${Array.from({ length: 300 }, (_, index) => `token=${short[index % 10]}${index}`).join('&')}`), '"INVALID"')
  t.notOk(log.join('').includes(token) || log.join('').includes('eyJpc3MiOiJjZWRhbG8ifQ'))
})

t.test('of an Authorization that a proxy joined, each Bearer counts: one of ours beside any other is 400, in one header or two', async t => {
  const { app, token } = await createHost(t, {}, [])
  const ask = async (authorization: string): Promise<number> => {
    const request = get({ port: (app.server.address() as AddressInfo).port, path: '/x', agent: false, headers: { authorization } })
    const [answer] = await once(request, 'response') as [IncomingMessage]
    answer.resume()
    return Number(answer.statusCode)
  }
  for (const [first, second] of [['bad', token], [token, 'bad'], [token, token], [`${token}x`, 'opaque']] as const) {
    for (const comma of [',', ', ', ' ,  ']) t.equal(await ask(`Bearer ${first}${comma}bearer ${second}`), 400, `${first.slice(0, 3)}${comma}`)
  }
  t.equal((await app.inject({ url: '/x', headers: { ...bearer(`${token}x`) } })).statusCode, 401)
  for (const value of [`Basic eDp4, Bearer ${token}`, `Bearer ${token}, Basic eDp4`, `Digest username="x", uri="/, Bearer", qop=auth, Bearer ${token}`, `Bearer ${token},`]) t.equal(await ask(value), 200, value.slice(0, 20))
  for (const value of ['Bearer bad, Bearer worse', 'Digest a="b", c="d"', ',,,', `Basic ${token}, Digest ${token}`]) t.equal(await ask(value), 200, 'left alone')
})
