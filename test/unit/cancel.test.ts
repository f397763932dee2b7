import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import { cancel } from '../../lib/store/cancel.js'
import type { PostgresClient, PostgresConfig } from '../../lib/types.js'

const client = (session: object): PostgresClient => session as PostgresClient
const BUSY = client({ processID: 5, secretKey: 6 })
const NO_TLS = 'N'

/** What arrives first at a server that has no TLS. */
async function firstBytes (t: Test, config: object): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const connected = once(server, 'connection') as Promise<[Socket]>
  cancel(BUSY, { host: '127.0.0.1', port, ...config } as PostgresConfig)
  const [socket] = await connected
  const [bytes] = await once(socket, 'data') as [Buffer]
  socket.on('data', () => { t.fail('no more is sent') }).on('error', () => {})
  const closed = once(socket, 'close')
  socket.end(NO_TLS)
  await closed
  return bytes
}

/** Numbers as the protocol of Postgres writes them. */
function words (...numbers: number[]): string {
  const bytes = Buffer.alloc(numbers.length * 4)
  for (const [index, number] of numbers.entries()) bytes.writeInt32BE(number, index * 4)
  return bytes.toString('hex')
}

t.test('a session is cancelled by its id and key, and never unencrypted where its connection is encrypted', async t => {
  t.equal((await firstBytes(t, { ssl: false })).toString('hex'), words(16, 80877102, 5, 6))
  t.equal((await firstBytes(t, { ssl: true })).toString('hex'), words(8, 80877103), 'a request for TLS')
  t.equal((await firstBytes(t, { ssl: true, sslnegotiation: 'direct' }))[0], 22, 'a TLS handshake')
})

t.test('a session that can not be cancelled costs nothing', t => {
  for (const session of [{}, { processID: null, secretKey: null }, { processID: 5 }]) cancel(client(session), {})
  cancel(BUSY, { connectionString: 'postgres://127.0.0.1:1/mmc?sslrootcert=/nowhere/ca.pem' })
  cancel(BUSY, { host: '127.0.0.1', port: 1 })
  t.pass('nothing is thrown')
  t.end()
})

t.test('a stream of the host that is no socket, and has no unref, is no exception', t => {
  const stream = (): Duplex => Object.assign(new Duplex(), { setNoDelay () {}, connect () {} })
  cancel(BUSY, { stream })
  t.pass('nothing is thrown')
  t.end()
})
