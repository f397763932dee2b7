import pg from 'pg'
import type { PostgresClient, PostgresConfig } from '../types.js'
import { DEADLINE } from './deadline.js'

/** What a client of pg knows of its session; one of another library may not. */
interface Session { processID?: number | null, secretKey?: number | null }

/** What the types of pg leave out. */
interface Target { connection: CancelConnection, host: string, port: number, ssl: unknown, sslNegotiation: string }
interface CancelConnection extends pg.Connection {
  connect: (portOrPath: number | string, host?: string) => void
  requestSsl: () => void
  cancel: (processID: number, secretKey: number) => void
  unref: () => void
}

/**
 * Asks Postgres to cancel the statement of a client that is given up. Postgres does not notice that a client left while
 * its statement waits for a lock, and the number of its connections is limited. Best effort: errors are ignored, and a
 * statement that this does not reach ends when it gets its lock. One short connection per client that is given up.
 */
export function cancel (client: PostgresClient, config: PostgresConfig): void {
  const { processID, secretKey } = client as Session
  if (processID == null || secretKey == null) return
  try {
    const { connection, host, port, ssl, sslNegotiation } = new pg.Client(config) as unknown as Target
    const send = (): void => { connection.cancel(processID, secretKey) }
    connection.on('error', () => {})
    // Encrypted as the client's own connection: the key is a secret. With "direct", pg begins with TLS by itself.
    if (!ssl) connection.on('connect', send)
    else if (sslNegotiation !== 'direct') connection.on('connect', () => { connection.requestSsl() })
    connection.on('sslconnect', send)
    // Postgres closes it at once. After TLS, `stream` is another.
    setTimeout(() => { connection.stream.destroy() }, DEADLINE).unref()
    if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`)
    else connection.connect(port, host)
    connection.unref()
  } catch {
    // A file of the connection string can't be read at the moment, so nothing can connect. Or the option `stream` of
    // the host's pool makes streams that are no sockets, and have no `unref`.
  }
}
