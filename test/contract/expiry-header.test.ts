import t from 'tap'
import { FORGED } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

t.test('with "expiryHeader" each answer to a request with a token tells when that expires, in the form of dates in HTTP', async t => {
  const { app, issue, login } = await buildHost(t, { tokens: { expiryHeader: true } })
  const { token } = await issue({ validUntil: '2998-02-03T04:05:06Z' })
  const admin = await issue({ role: 'admin', validUntil: '2998-02-03T04:05:06Z' })
  const headerOf = async (url: string, headers = {}): Promise<unknown> => (await app.inject({ url, headers })).headers['application-token-expires']
  const expected = 'Sat, 03 Feb 2998 04:05:06 GMT'
  for (const url of ['/api/viewer', '/api/editor', '/nowhere']) t.equal(await headerOf(url, bearer(token)), expected, `${url}, whatever the answer`)
  t.equal(await headerOf(`/api/viewer?token=${token}`), expected)
  t.equal(await headerOf('/api/tokens', bearer(admin.token)), expected)
  t.equal(new Date(expected).toISOString(), '2998-02-03T04:05:06.000Z', 'Date reads it')
  t.equal(await headerOf('/api/viewer', await login()), undefined, 'a session has none')
  t.equal(await headerOf('/api/viewer', bearer(FORGED)), undefined)
  t.equal(await headerOf('/api/viewer'), undefined)
})

t.test('the header tells what holds: the earlier of the row and the claim', async t => {
  const { app, database, issue } = await buildHost(t, { tokens: { expiryHeader: true } })
  for (const [validUntil, expected] of [['2997-01-01Z', '01 Jan 2997'], ['2999-06-01Z', '03 Feb 2998']]) {
    const { hash, token } = await issue({ validUntil: '2998-02-03T04:05:06Z' })
    await database.query('UPDATE tokens SET valid_until = $2 WHERE hash = $1', [hash, validUntil])
    t.match((await app.inject({ url: '/api/viewer', headers: bearer(token) })).headers['application-token-expires'], expected)
  }
})

t.test('without the option no answer has it', async t => {
  const { app, issue } = await buildHost(t)
  const { token } = await issue({ role: 'admin' })
  for (const url of ['/api/viewer', '/api/tokens']) t.notOk('application-token-expires' in (await app.inject({ url, headers: bearer(token) })).headers)
})
