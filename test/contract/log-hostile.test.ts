import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import Fastify from 'fastify'
import t from 'tap'
import { createRedact } from '../../lib/http/redact-log.js'
import tokensPlugin from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'

const redact = createRedact('token')

t.test('a working ?token= is in no line, wherever in the URL it begins, enabled, disabled and on a route that opts out', async t => {
  const { url: postgres, schema } = await createDatabase(t)
  let log = ''
  const app = Fastify({ logger: { level: 'trace', stream: { write (line: string) { log += line } } } })
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres, schema, secret: SECRET })
  app.get('/files/*', async request => ({ user: (request as { user?: unknown }).user ?? null }))
  app.get('/out/*', { config: { applicationTokens: false } }, async request => request.url)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { token } = await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2099-01-01T00:00:00Z', requestedBy: 'x' })
  const encoded = [...token].map(char => `%${char.charCodeAt(0).toString(16)}`).join('')
  const [, , signature = ''] = token.split('.')
  for (const isEnabled of [true, false]) {
    if (!isEnabled) await app.tokens.disable()
    for (const base of ['/files', '/out', '/nope']) {
      for (const path of [`a;v=1?token=${token}`, `a;jsessionid=0A1B?token=${token}`, `a;v=1#token=${token}`, `a;a=b?token=${token}`, `a;v=1?%74o%6Be%6e=${encoded}`, `a?b=;c=?d=#e=?token[]=${token}`, `a?token%5b0][x]=${token}`, `a?a=b?token=${token},foo`]) {
        const [answer] = await once(get({ port: (app.server.address() as AddressInfo).port, path: `${base}/${path}`, agent: false }), 'response') as [IncomingMessage]
        await once(answer.resume(), 'end')
        t.match(log, '[Redacted]')
        t.notOk(log.includes(signature) || log.includes(encoded), path)
        log = ''
      }
    }
  }
})

/** The same, slowly: at each mark of a query, a key up to `=`, decoded, and its value. */
function redactSlowly (text: string): string {
  let redacted = ''
  for (let index = 0; index < text.length; index++) {
    redacted += text[index]
    const key = /^[^?&#;= "\\]+(?==)/.exec(text.slice(index + 1))?.[0]
    if (!'?&#;'.includes(text[index] ?? '') || key === undefined) continue
    const name = key.replace(/%([0-9a-f]{2})/gi, (_escape, code: string) => String.fromCharCode(Number.parseInt(code, 16)))
    if (name !== 'token' && !name.startsWith('token[')) continue
    const value = /^(?:[^& "\\]|\\["\\])*/.exec(text.slice(index + key.length + 2))?.[0] ?? ''
    redacted += `${key}=${value === '' ? '' : '[Redacted]'}`
    index += key.length + 1 + value.length
  }
  return redacted
}

t.test('any line is redacted as an obvious, slow program does it', t => {
  const parts = ['token', 'tok%65n', '%74OKEN', '%74%6f%6B%65%6E', 'tokens', 'mytoken', 'toke', '[', ']', '%5B0]', '%5b', '%', '%7', '%zz', '=', '=', '?', '&', '#', ';', ' ', '"', '\\"', '\\\\', '\\n', 'a', 'é', ',']
  fc.assert(fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 30 }), pieces => {
    const text = pieces.join('')
    // A line break in JSON is a backslash and a letter, where a key can't begin.
    return redact(text) === redactSlowly(text)
  }), { numRuns: 20_000 })
  t.end()
})

t.test('a parameter in any encoding is found, whatever characters its name has, and however many', t => {
  for (const name of ['t', 'a.cc-ess_1', 'abcdefgh', 'abcdefghi', 'Z'.repeat(255)]) {
    const hide = createRedact(name)
    for (const key of [name, [...name].map(char => `%${char.charCodeAt(0).toString(16)}`).join(''), `${name.slice(0, -1)}%${name.charCodeAt(name.length - 1).toString(16).toUpperCase()}`]) {
      t.equal(hide(`"/x?${key}=secret&${key}x=kept&y${key}=kept"`), `"/x?${key}=[Redacted]&${key}x=kept&y${key}=kept"`)
    }
  }
  t.equal(createRedact('a.b')('?a-b=kept'), '?a-b=kept')
  t.equal(redact('/x?token[&a=kept&token[b]=x'), '/x?token[&a=kept&token[b]=[Redacted]', 'a key that never ends is none')
  t.end()
})

t.test('of a query as an object every value goes, whatever it is, and the line stays JSON', t => {
  for (const value of ['x', '"\\', [], ['x'], [['x"]'], { token: 'x' }], { a: ['}', { 'b"': 'x' }] }, 1, true, null]) {
    for (const key of ['token', 'token[]', 'token["', 'tok%65n%5B']) {
      const line = JSON.stringify({ token: 'kept', query: { 'a"token': 'kept', text: ',"token":"kept"', [key]: value, last: { [key]: value, z: 1 } }, msg: 'kept' })
      t.strictSame(JSON.parse(redact(line)), { token: 'kept', query: { 'a"token': 'kept', text: ',"token":"kept"', [key]: '[Redacted]', last: { [key]: '[Redacted]', z: 1 } }, msg: 'kept' })
    }
  }
  t.equal(redact('{"query":{"token":"x, cut of'), '{"query":{"token":"[Redacted]"', 'what is no JSON')
  t.end()
})

t.test('of a flood of values those after the first go with what stands between them', t => {
  t.equal(redact(`"/?${'token=x&'.repeat(40)}a=1" ?token=y`), `"/?${'token=[Redacted]&'.repeat(32)}token=[Redacted]" ?token=[Redacted]`)
  t.end()
})

const HOSTILE = ['a', '&', '&%=', '&%zz=', '&token=x', '&token=', '&token[', '&toke', '&toke%', '&%74%6f%6b%65%6', '&%74%6f%6b%65%6e=', '\\"', '{"query":{', ',"token":"x"', ',"token":[', ',"token[\\"', '"query":{,"token":{"']

t.test('the work is linear in the length of a line, and a malformed key throws nothing', t => {
  const cost = (text: string): number => {
    const times = Array.from({ length: 7 }, () => {
      const begun = performance.now()
      for (let count = 0; count < 20; count++) redact(text)
      return performance.now() - begun
    })
    return Math.min(...times)
  }
  for (const piece of HOSTILE) {
    const line = (length: number): string => `{"query":{"url":"/x?${piece.repeat(length / piece.length)}"}}`
    const [small, large] = [cost(line(15_000)), cost(line(240_000))]
    // Sixteen times as long: 256 times the work if it were quadratic.
    t.ok(large < 100 * small + 20, `${piece}: ${small.toFixed(1)} and ${large.toFixed(1)} ms`)
  }
  t.end()
})
