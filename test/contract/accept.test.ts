import t from 'tap'
import { checkVersion } from '../../lib/http/version.js'
import { buildHost } from '../support/build-host.js'

t.test('Accept selects a version of the representation; if none is served, it is a 406', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const accepted = [undefined, '', ' ', '*/*', 'application/*', 'application/json', 'application/json;version=1', 'application/json; version=1', 'application/json;version="1"',
    'APPLICATION/JSON;VERSION=1', 'application/json;version=1;q=0.1', 'application/json;version=2, application/json;version=1', 'text/html, application/json;version=1;q=0.5, */*;q=0.1',
    'text/html, */*;q=0.8', 'application/json;version=2, */*', 'application/json;version=1, application/json;q=0']
  const refused = ['text/html', 'application/json;version=2', 'application/json;version=01', 'application/json;version=', 'application/xml', 'application/json;q=0',
    'application/json;version=1;q=0', '*/*;q=0', '*/*, application/json;version=1;q=0', 'application/json;version=1;q=0, application/json', 'garbage',
    'application/json;version=*', 'application/json;version="*"', '*/json', '*/json;version=1', 'text/html, */json']
  for (const accept of accepted) {
    t.equal((await app.inject({
      url: '/api/tokens',
      headers: {
        ...headers,
        ...accept !== undefined &&
      { accept }
      }
    })).statusCode, 200, `Accept: ${accept}`)
  }
  for (const accept of refused) {
    const answer = await app.inject({ url: '/api/tokens', headers: { ...headers, accept } })
    t.equal(answer.statusCode, 406, accept)
    t.strictSame(answer.json(), {
      code: 'NOT_ACCEPTABLE', message: 'Accept must allow one of: application/json;version=1'
    })
  }
})

t.test('a 406 lists all versions, newest first, and each of them is served', t => {
  const ask = (accept: string): void => { checkVersion({ headers: { accept } } as never, [1, 3, 2]) }
  t.throws(() => { ask('text/html') }, {
    code: 'NOT_ACCEPTABLE',
    message: 'Accept must allow one of: application/json;version=3, application/json;version=2, application/json;version=1'
  })
  for (const version of [1, 2, 3]) ask(`application/json;version=${version}`)
  t.throws(() => { ask('application/json;version=4') }, { code: 'NOT_ACCEPTABLE' })
  t.end()
})

t.test('other parameters of Accept are ignored, on all four routes', async t => {
  const { app, login, issue } = await buildHost(t)
  const headers = await login()
  const accepted = ['application/json; charset=utf-8', 'application/json;charset="utf-8"', 'APPLICATION/JSON ; CHARSET = UTF-8', 'application/json;charset=utf-8;version=1', 'application/json;version=1;charset=utf-8;q=0.5',
    'application/json;odata=verbose;charset=utf-8, text/plain, */*', '*/*;charset=utf-8', 'application/*;v=b3;q=0.7', 'application/json;profile="a;version=2, b;q=0";version=1',
    'application/json;profile="a\\"b;q=0", text/html', 'application/json;charset=utf-8;', 'application/json; version = 1', 'application/json ;\tversion="1"', 'text/html;level=1, application/json;charset=x;q=0.1',
    'application/json;charset=', 'application/json;xversion=2', 'application/json;versions=2', 'application/json;q=1;ext']
  const refused = ['application/json;charset=utf-8;version=2', 'application/json;charset=utf-8;q=0', 'text/html;charset=utf-8', 'application/json;version=2;charset=utf-8, text/html', '*/*;charset=utf-8;q=0',
    '*/*, application/json;charset=utf-8;q=0', 'application/json;charset=utf-8;version=1;q=0, */*', 'application/json;profile="version=1";version=2']
  const { hash } = await issue()
  for (const [status, all] of [[200, accepted], [406, refused]] as const) {
    for (const accept of all) {
      t.equal(
        (await app.inject({ url: '/api/tokens', headers: { ...headers, accept } })).statusCode, status, accept
      )
    }
  }
  for (const [accept, status] of [[accepted[0], 200], [refused[0], 406]] as const) {
    const payload = { name: String(status), role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
    t.equal(
      (await app.inject({ method: 'POST', url: '/api/tokens', headers: { ...headers, accept }, payload })).statusCode,
      status
    )
    t.equal((await app.inject({ url: `/api/tokens/${hash}`, headers: { ...headers, accept } })).statusCode, status)
    t.equal((await app.inject(
      { method: 'DELETE', url: `/api/tokens/${'0'.repeat(64)}`, headers: { ...headers, accept } }
    )).statusCode, status)
  }
})

t.test('a hostile Accept header takes linear time', t => {
  for (const part of [
    ';', ';a="', ';a="\\', '; ', 'a', ';a=";', ';a = ', ';a=b', '"', '\\"', ' ', ';charset=utf-8', ','
  ]) {
    const cost = (length: number): number => {
      const accept = `application/json${part.repeat(length / part.length)}x`
      const begun = process.cpuUsage()
      try {
        checkVersion({ headers: { accept } } as never, [1])
      } catch {}
      const { user, system } = process.cpuUsage(begun)
      return (user + system) / 1000
    }
    cost(1000)
    t.ok(
      cost(200_000) < 1000, `${part}: CPU milliseconds for 200,000 characters, where a quadratic one takes many seconds`
    )
  }
  t.end()
})
