import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { CreateTokenSchema } from '../../schemas/token.js'
import { checkBody, deferBodyErrors } from '../../lib/http/body.js'

/** A host whose parsers are its own; ours are in a child, which judges bodies when a session is known. */
async function create (t: Test): Promise<FastifyInstance> {
  const host = Fastify()
  t.teardown(() => host.close())
  for (const type of ['application/octet-stream', 'application/json', /^x/]) host.addContentTypeParser(type, { parseAs: 'string' }, (_request, _body, done) => { done(null, 'by the host') })
  await host.register(async app => {
    deferBodyErrors(app)
    app.post('/', { preHandler: async request => { checkBody(request, CreateTokenSchema) } }, async request => ({ body: request.body ?? null }))
    app.delete('/', async request => ({ body: request.body ?? null }))
  })
  return host
}

t.test('JSON is read by whatever name its type has; anything else is 415, and what is not JSON 400, once it is judged', async t => {
  const app = await create(t)
  const post = async (type: string | undefined, payload: string) => await app.inject({ method: 'POST', url: '/', headers: type === undefined ? {} : { 'content-type': type }, payload })
  for (const type of ['application/json', 'APPLICATION/JSON', ' application/json ;charset=utf-8', 'application/json;']) {
    t.strictSame((await post(type, '{"a":1}')).json(), { body: { a: 1 } }, type)
  }
  for (const type of ['text/plain', 'application/jsonx', 'x application/json', 'application/xml', 'application/octet-stream', 'xml', 'application/x-www-form-urlencoded', '/']) {
    t.match((await post(type, '{"a":1}')).json(), { code: 'INVALID', statusCode: 415, message: 'The body must be JSON in UTF-8, with content-type application/json' }, type)
  }
  for (const payload of ['{', '{"a":1}}', 'undefined', '{"__proto__":{}}', '{"constructor":{"prototype":{}}}', '{"a":{"__proto__":1}}']) {
    t.match((await post('application/json', payload)).json(), {
      code: 'INVALID', statusCode: 400, message: 'The body must be valid JSON in UTF-8, without the properties __proto__ and constructor.prototype'
    }, payload)
  }
})

t.test('a DELETE without a body is none that can not be read, whatever type it says', async t => {
  const app = await create(t)
  t.equal((await app.inject({ method: 'POST', url: '/' })).statusCode, 200, 'of a POST the schema says so')
  for (const headers of [{}, { 'content-type': 'application/json' }]) t.equal((await app.inject({ method: 'DELETE', url: '/', headers })).statusCode, 200)
})

t.test('what the schema refuses is told by the property and its description', t => {
  const check = (instancePath: string): void => { checkBody({ body: {}, validationError: { validation: [{ instancePath }] } } as never, CreateTokenSchema) }
  t.throws(() => { check('/name') }, { code: 'INVALID', message: `name must be ${CreateTokenSchema.properties.name.description}` })
  for (const path of ['', '/unknown']) t.throws(() => { check(path) }, { code: 'INVALID', message: `${path === '' ? 'The body' : 'unknown'} must be ${CreateTokenSchema.description}` })
  checkBody({ body: {}, validationError: undefined } as never, CreateTokenSchema)
  t.end()
})
