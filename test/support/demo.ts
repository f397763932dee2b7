import { randomBytes } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import pg from 'pg'
import { isColorSupported, prettyFactory } from 'pino-pretty'
import { explain } from '../../lib/store/connection.js'
import { withoutRequestLog } from './fastify-version.js'
import { createHost, type HostOptions } from './host.js'
import { startPostgres } from './postgres.js'

const {
  CEDALO_MC_PROXY_BASE_PATH = '',
  CEDALO_MC_USERNAME: username = 'cedalo',
  CEDALO_MC_PASSWORD: password = 'secret',
  TOKENS_ENABLED
} = process.env
// Compose sets what is missing to an empty string.
const DATABASE_URL = process.env.DATABASE_URL || undefined

interface Keys { secret: string, session: string }

/** The demo host of `npm start`, until SIGINT or SIGTERM. */
export async function startDemo (port: number): Promise<void> {
  const basePath = CEDALO_MC_PROXY_BASE_PATH.replace(/^\/*(.*?)\/*$/, '/$1').replace(/^\/$/, '')
  const enabled = TOKENS_ENABLED !== 'false'
  const hasOwnPostgres = enabled && DATABASE_URL === undefined
  if (hasOwnPostgres) console.log('Starting an embedded Postgres, with its data in .data/ …')
  const postgres = hasOwnPostgres ? await startPostgres({ keepAs: 'demo' }) : undefined
  const url = postgres?.url ?? DATABASE_URL ?? 'postgres://localhost'
  let app: FastifyInstance | undefined
  async function stop (): Promise<void> {
    await app?.close()
    await postgres?.end()
  }
  try {
    const { secret, session } = enabled ? await sharedKeys(url) : withoutPostgres()
    app = await createHost({
      ...process.stdout.isTTY ? FOR_PEOPLE : { fastify: { logger: true } },
      tokens: { postgres: url, enabled, expiryHeader: true, secret },
      sessionKey: Buffer.from(session, 'base64'),
      basePath,
      admin: { username, password },
      apiReference: true
    })
    await app.listen({ host: 'localhost', port })
    if (enabled) await waitForLease(app)
  } catch (error) {
    await stop()
    throw error
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop)
  const lines = usage(`http://localhost:${port}${basePath}`)
  console.log(lines)
  // The log scrolls them away.
  if (process.stdin.isTTY) process.stdin.on('data', () => { console.log(lines) }).unref()
}

const format = prettyFactory({
  colorize: isColorSupported, translateTime: 'SYS:HH:MM:ss', ignore: 'pid,hostname,reqId', singleLine: true
})

/** On a terminal: in colour, with one line per request, in order with what else is printed. */
const FOR_PEOPLE: Pick<HostOptions, 'fastify' | 'prepare'> = {
  fastify: {
    ...withoutRequestLog(),
    logger: { stream: { write (line: string) { process.stdout.write(format(line)) } } }
  },
  prepare (app) {
    app.addHook('onResponse', async ({ method, url, log }, { statusCode, elapsedTime }) => {
      log.info(`${method} ${url} → ${statusCode} in ${elapsedTime.toFixed(0)} ms`)
    })
  }
}

/** Keys shared by all nodes on one database. A real host never stores its secrets beside the tokens. */
async function sharedKeys (url: string): Promise<Keys> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 })
  // Its calls reject with the same errors.
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query(
      'BEGIN; SELECT pg_advisory_xact_lock(8088); CREATE TABLE IF NOT EXISTS mmc_demo_keys (name text PRIMARY KEY, key text NOT NULL); COMMIT'
    )
    for (const [name, key] of Object.entries(newKeys())) {
      await client.query(
        'INSERT INTO mmc_demo_keys VALUES ($1, $2) ON CONFLICT DO NOTHING', [name, key]
      )
    }
    const { rows } = await client.query<{ keys: Keys }>('SELECT json_object_agg(name, key) AS keys FROM mmc_demo_keys')
    return rows[0]?.keys as Keys
  } catch (error) {
    throw explain(`${client.host}:${client.port}, database "${client.database}"`, error)
  } finally {
    await client.end().catch(() => {})
  }
}

const newKeys = (): Keys => ({
  secret: randomBytes(32).toString('base64'), session: randomBytes(32).toString('base64')
})

/** The demo enables tokens only at startup. */
function withoutPostgres (): Keys {
  console.log('Tokens are disabled: starting without Postgres, so sessions are valid on this node only.')
  return newKeys()
}

/** Waits up to 2 s for the lease, so that its log line comes before the lines to paste. */
async function waitForLease (app: FastifyInstance): Promise<void> {
  for (let tries = 0; tries < 200 && app.tokens.health().lease !== 'held'; tries++) await wait(10)
}

function usage (address: string): string {
  const form = new URLSearchParams({ username, password }).toString().replaceAll("'", '%27')
  const validUntil = new Date(Date.now() + 90 * 24 * 60 * 60 * 1000).toISOString()
  return `
The demo host is listening at ${address}/
Logins: ${username} / ${password} (admin), editor / secret, viewer / secret

# Log in and create a token with the role viewer:
JAR=$(mktemp)
curl -s -c $JAR -d '${form}' '${address}/auth?json=true'; echo
ANSWER=$(curl -s -b $JAR -H 'content-type: application/json' -d '{"name":"try '$(date +%s)'","role":"viewer","validUntil":"${validUntil}"}' ${address}/api/tokens); echo $ANSWER
TOKEN=$(echo $ANSWER | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')

# Use it in the header and in the query; see when it expires, and the metrics:
curl -s -H "authorization: Bearer $TOKEN" ${address}/api/viewer; echo
curl -s "${address}/api/profile?token=$TOKEN"; echo
curl -s -o /dev/null -D - -H "authorization: Bearer $TOKEN" ${address}/api/viewer | grep application-token-expires
curl -s -b $JAR ${address}/metrics | grep authentications

# Revoke it by its hash; it is then refused:
HASH=$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)
curl -s -b $JAR -X DELETE ${address}/api/tokens/$HASH; echo
curl -s -i -H "authorization: Bearer $TOKEN" ${address}/api/viewer; echo

${process.stdin.isTTY ? 'Press Enter to show these commands again. ' : ''}Press Ctrl-C to stop.
`
}
