import responseValidation from '@fastify/response-validation'
import swagger from '@fastify/swagger'
import {
  jsonSchemaTransform, serializerCompiler, validatorCompiler, type ZodTypeProvider
} from 'fastify-type-provider-zod'
import t from 'tap'
import { z } from 'zod'
import { createBareHost, inOrder, NEW_TOKEN, ORDERS } from '../support/bare-host.js'
import { bearer } from '../support/build-host.js'
import { createOpenapi } from '../support/openapi.js'

interface Document { paths: Record<string, object> }

t.test("@fastify/swagger with the transform of fastify-type-provider-zod describes the host's routes with it, and the plugin's without it", async t => {
  const { app, addTokens } = await createBareHost(t)
  await app.register(swagger, { openapi: { openapi: '3.1.0' }, transform: jsonSchemaTransform })
  app.setValidatorCompiler(validatorCompiler).setSerializerCompiler(serializerCompiler)
  await addTokens()
  app.withTypeProvider<ZodTypeProvider>().get(
    '/zod', { schema: { response: { 200: z.object({ at: z.string() }) } } }, async () => ({ at: 'here' })
  )
  await app.ready()
  const { paths } = JSON.parse(JSON.stringify(app.swagger())) as Document
  t.match(paths['/zod'], {
    get: {
      responses: { 200: { content: { 'application/json': { schema: { properties: { at: { type: 'string' } } } } } } }
    }
  })
  const alone = JSON.parse(JSON.stringify(await createOpenapi())) as Document
  for (const path of ['/api/tokens', '/api/tokens/{tokenHash}']) t.strictSame(paths[path], alone.paths[path])
  t.match(JSON.stringify(alone.paths), '"format":"date-time"')
})

for (const order of ORDERS) {
  t.test(`@fastify/response-validation ${order}, as it comes: the host starts, and each of the four routes works`, async t => {
    const { app, addTokens, issue } = await createBareHost(t)
    await inOrder(order, async () => { await app.register(responseValidation) }, addTokens)
    await app.ready()
    const url = '/api/tokens'
    const headers = bearer((await issue({ role: 'admin' })).token)
    const created = await app.inject({ method: 'POST', url, headers, payload: NEW_TOKEN })
    t.equal(created.statusCode, 200, created.body)
    const one = `${url}/${created.json<{ hash: string }>().hash}`
    t.equal((await app.inject({ url, headers })).json<unknown[]>().length, 2)
    t.equal((await app.inject({ url: `${url}?limit=1`, headers })).json<unknown[]>().length, 1)
    t.equal((await app.inject({ url: one, headers })).json<{ name: string }>().name, 'new')
    t.equal((await app.inject({ method: 'DELETE', url: one, headers })).json<unknown[]>().length, 1)
    t.equal((await app.inject(
      { method: 'DELETE', url: one, headers: { ...headers, prefer: 'return=minimal' } }
    )).statusCode < 500, true)
    t.equal((await app.inject({ url: one, headers })).statusCode, 404)
    t.equal((await app.inject({ url })).statusCode, 401)
  })
}
