import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'

t.test('a token made on one node works on all; one revoked on any, or deleted with SQL, is refused by all', async t => {
  const one = await buildHost(t)
  const nodes = [one, await buildHost(t, { database: one.database }), await buildHost(t, { database: one.database })]
  const statuses = async (token: string): Promise<number[]> =>
    await Promise.all(nodes.map(async ({ app }) => (await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode))

  for (const [index, { app, issue }] of nodes.entries()) {
    const { token, hash } = await issue({ name: `made on ${index}` })
    t.strictSame(await statuses(token), [200, 200, 200])
    const headers = await one.login()
    const revoking = nodes[(index + 1) % 3] ?? one
    t.equal((await revoking.app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers })).statusCode, 200)
    t.equal((await revoking.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401, 'at once where it was revoked')
    await refusedByAll(token)
    t.equal(await app.tokens.get(hash), null)
  }
  const { token, hash } = await one.issue({ name: 'by SQL' })
  t.strictSame(await statuses(token), [200, 200, 200])
  await one.database.query('DELETE FROM tokens WHERE hash = $1', [hash])
  await refusedByAll(token)

  async function refusedByAll (token: string): Promise<void> {
    const answered = performance.now()
    for (;;) {
      const begun = performance.now() - answered
      const now = await statuses(token)
      if (now.every(status => status === 401)) return
      // A 500 is what a busy Postgres costs.
      if (now.includes(200) && begun > 2000) throw new Error(`accepted ${begun} ms after the answer`)
    }
  }
})

t.test('switching tokens off is a switch of one process', async t => {
  const one = await buildHost(t)
  const two = await buildHost(t, { database: one.database })
  const { token } = await one.issue()
  await one.app.tokens.disable()
  t.equal((await one.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)
  t.equal((await two.app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})
