import t from 'tap'
import { bearer, buildHost } from '../support/build-host.js'

const PREFER = { prefer: 'return=minimal' }

t.test('a hash may be in any letter case: PowerShell prints upper case', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const mixed = (hash: string): string => hash.replace(/[a-f]/g, (letter, index: number) => index % 2 === 0 ? letter.toUpperCase() : letter)
  for (const write of [(hash: string) => hash.toUpperCase(), mixed]) {
    const { token, ...record } = await issue()
    // Believed from memory before it ends.
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
    const url = `/api/tokens/${write(record.hash)}`
    t.match((await app.inject({ url, headers })).json(), { name: record.name, hash: record.hash })
    t.match(await app.tokens.get(write(record.hash)), { hash: record.hash })
    const answer = await app.inject({ method: 'DELETE', url, headers })
    t.strictSame([answer.statusCode, answer.json()], [200, []])
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 401)

    const other = await issue()
    t.equal(await app.tokens.revoke(write(other.hash)), true)
    t.equal((await app.inject({ url: '/api/viewer', headers: bearer(other.token) })).statusCode, 401)
  }
})

t.test('what is no hash, or no token\'s, changes nothing: GET is 404, DELETE the list, and 404 where it prefers the minimum', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const { hash, name } = await issue()
  for (const odd of ['0'.repeat(64), `${hash}0`, hash.slice(1), `g${hash.slice(1)}`, `${hash}%0a`, `%20${hash}`, encodeURIComponent(name), '%00', 'ａ'.repeat(64)]) {
    const url = `/api/tokens/${odd}`
    t.match((await app.inject({ url, headers })).json(), { code: 'NOT_FOUND', message: 'No token has this hash' }, odd)
    const answer = await app.inject({ method: 'DELETE', url, headers })
    t.match([answer.statusCode, answer.json()], [200, [{ hash }]], odd)
    const minimal = await app.inject({ method: 'DELETE', url, headers: { ...headers, ...PREFER } })
    t.strictSame([minimal.statusCode, minimal.json()], [404, { code: 'NOT_FOUND', message: 'No token has this hash' }], odd)
  }
  const minimal = async (): Promise<number> => (await app.inject({ method: 'DELETE', url: `/api/tokens/${hash}`, headers: { ...headers, ...PREFER } })).statusCode
  t.strictSame([await minimal(), await minimal()], [204, 404])
})

t.test('in code what is no hash is an error that does not repeat it, since it may be the token itself', async t => {
  const { app, issue } = await buildHost(t)
  const { token, hash, name } = await issue()
  const message = 'hash must be the SHA-256 of the token in 64 hexadecimal digits'
  for (const odd of [token, name, `${hash}0`, hash.slice(1), `${hash}\n`, '', undefined, null, 5, [hash]]) {
    await t.rejects(app.tokens.revoke(odd as string), { code: 'INVALID', statusCode: 400, message })
    await t.rejects(app.tokens.get(odd as string), { code: 'INVALID', statusCode: 400, message })
  }
  t.equal(await app.tokens.revoke('0'.repeat(64)), false)
  t.equal(await app.tokens.get('0'.repeat(64)), null)
  t.match(await app.tokens.list(), [{ hash }])
})
