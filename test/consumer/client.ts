import { deepEqual, equal } from 'node:assert/strict'
import createClient from 'openapi-fetch'
import type { paths } from './openapi.js'

const [baseUrl = '', token = ''] = process.argv.slice(2)
const client = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${token}` } })
const path = '/api/tokens/{tokenHash}'

// @ts-expect-error validUntil is required
const incomplete = await client.POST('/api/tokens', { body: { name: 'generated', role: 'viewer' } })
equal(incomplete.error?.code, 'INVALID')

const { data: issued } = await client.POST('/api/tokens', {
  body: { name: 'generated', role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
})
if (issued === undefined) throw new Error('no token')
const { token: secret, ...record } = issued
equal(secret.split('.').length, 3)
const params = { path: { tokenHash: issued.hash } }

const { data: list } = await client.GET('/api/tokens')
deepEqual(list?.at(-1), record)
deepEqual((await client.GET(path, { params })).data, record)
const { data: remaining } = await client.DELETE(path, { params })
equal(remaining?.some(({ name }) => name === record.name), false)
equal((await client.GET(path, { params })).error?.code, 'NOT_FOUND')
const revoked = await createClient<paths>(
  { baseUrl, headers: { authorization: `Bearer ${secret}` } }
).GET('/api/tokens')
equal(revoked.response.status === 401 && revoked.error?.data?.session, false)
