import t from 'tap'
import { checkVersion } from '../../lib/http/version.js'
import { buildHost } from '../support/build-host.js'

t.test('Accept picks a version of the representation; what asks for none that is served is 406', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const accepted = [undefined, '', ' ', '*/*', 'application/*', 'application/json', 'application/json;version=1', 'application/json; version=1', 'application/json;version="1"',
    'APPLICATION/JSON;VERSION=1', 'application/json;version=1;q=0.1', 'application/json;version=2, application/json;version=1', 'text/html, application/json;version=1;q=0.5, */*;q=0.1',
    'text/html, */*;q=0.8', 'application/json;version=2, */*', 'application/json;version=1, application/json;q=0']
  const refused = ['text/html', 'application/json;version=2', 'application/json;version=01', 'application/json;version=', 'application/xml', 'application/json;q=0',
    'application/json;version=1;q=0', '*/*;q=0', '*/*, application/json;version=1;q=0', 'application/json;version=1;q=0, application/json', 'garbage']
  for (const accept of accepted) {
    t.equal((await app.inject({ url: '/api/tokens', headers: { ...headers, ...accept !== undefined && { accept } } })).statusCode, 200, `Accept: ${accept}`)
  }
  for (const accept of refused) {
    const answer = await app.inject({ url: '/api/tokens', headers: { ...headers, accept } })
    t.equal(answer.statusCode, 406, accept)
    t.strictSame(answer.json(), { code: 'NOT_ACCEPTABLE', message: 'Accept must allow one of: application/json;version=1' })
  }
})

t.test('of several versions the refusal lists the newest first, and each of them is served', t => {
  const ask = (accept: string): void => { checkVersion({ headers: { accept } } as never, [1, 3, 2]) }
  t.throws(() => { ask('text/html') }, { code: 'NOT_ACCEPTABLE', message: 'Accept must allow one of: application/json;version=3, application/json;version=2, application/json;version=1' })
  for (const version of [1, 2, 3]) ask(`application/json;version=${version}`)
  t.throws(() => { ask('application/json;version=4') }, { code: 'NOT_ACCEPTABLE' })
  t.end()
})
