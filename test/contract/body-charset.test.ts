import t from 'tap'
import { buildHost } from '../support/build-host.js'

const body = (name: string, encoding: BufferEncoding = 'utf8'): Buffer => Buffer.from(JSON.stringify({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }), encoding)

t.test('a body is UTF-8: a content type with another charset is 415, and nothing is stored', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const post = async (charset: string, payload: Buffer) => await app.inject({ method: 'POST', url: '/api/tokens', headers: { ...headers, 'content-type': `application/json${charset}` }, payload })
  for (const [index, charset] of ['', ';', '; charset=utf-8', ';charset=UTF-8', ';charset="utf-8"', ' ; Charset = "UTF8"', ';charset=utf8', ';charset=us-ascii', ';charset=US-ASCII;x=y', ';x=y;charset=utf-8'].entries()) {
    const answer = await post(charset, body(`Müller ${index}`))
    t.strictSame([answer.statusCode, answer.json<{ name: string }>().name], [200, `Müller ${index}`], charset)
  }
  for (const charset of [';charset=iso-8859-1', ';charset=latin1', ';charset="utf-16"', ';charset=utf-7', ';charset=', ';charset="utf-8', ";charset='utf-8'", ';charset=utf-8;charset=latin1', ';charset=utf-88', ';charset=xutf-8', '; CHARSET=ISO-8859-1']) {
    const answer = await post(charset, body('Müller', 'latin1'))
    t.strictSame([answer.statusCode, answer.json()], [415, { code: 'INVALID', message: 'The body must be JSON in UTF-8, with content-type application/json' }], charset)
  }
  t.equal((await app.tokens.list()).length, 10)
})

t.test('bytes that are not UTF-8 are 400', async t => {
  const { app, login } = await buildHost(t)
  const headers = { ...await login(), 'content-type': 'application/json' }
  const payloads = [body('Müller', 'latin1'), body('Müller', 'utf16le'), Buffer.concat([body('a'), Buffer.from([0x80])]), ...[[0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0xff]].map(bytes =>
    Buffer.concat([body('').subarray(0, 9), Buffer.from(bytes), body('').subarray(9)]))]
  for (const payload of payloads) {
    const answer = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload })
    t.strictSame([answer.statusCode, answer.json()], [400, {
      code: 'INVALID', message: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype'
    }], payload.toString('hex'))
  }
  t.strictSame(await app.tokens.list(), [])
  const large = await app.inject({ method: 'POST', url: '/api/tokens', headers, payload: Buffer.alloc(2 ** 20 + 1, 0xff) })
  t.equal(large.statusCode, 413, 'the limit of the host comes first')
})
