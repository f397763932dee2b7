import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { createHost } from './host.js'
import { startPostgres } from './postgres.js'

const {
  DATABASE_URL,
  CEDALO_MC_PROXY_PORT = '8088',
  CEDALO_MC_PROXY_BASE_PATH = '',
  CEDALO_MC_USERNAME: username = 'cedalo',
  CEDALO_MC_PASSWORD: password = 'secret',
  TOKENS_ENABLED
} = process.env

const postgres = DATABASE_URL === undefined ? await startPostgres({ keepAs: 'demo' }) : undefined
const url = postgres?.url ?? String(DATABASE_URL)
const basePath = CEDALO_MC_PROXY_BASE_PATH.replace(/^\/*(.*?)\/*$/, '/$1').replace(/^\/$/, '')

const app = await createHost({
  fastify: { logger: true },
  tokens: { postgres: url, enabled: TOKENS_ENABLED !== 'false', expiryHeader: true, secret: await sharedKey('secret') },
  sessionKey: Buffer.from(await sharedKey('session'), 'base64'),
  basePath,
  admin: { username, password },
  apiReference: true
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop)
await app.listen({ host: 'localhost', port: Number(CEDALO_MC_PROXY_PORT) })
console.log(usage(`http://localhost:${CEDALO_MC_PROXY_PORT}${basePath}`))

async function stop (): Promise<void> {
  await app.close()
  await postgres?.end()
}

/** A key that all nodes on one database share. A real host keeps its secrets where it keeps secrets, and never beside the tokens. */
async function sharedKey (name: string): Promise<string> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    await client.query('BEGIN; SELECT pg_advisory_xact_lock(8088); CREATE TABLE IF NOT EXISTS mmc_demo_keys (name text PRIMARY KEY, key text NOT NULL); COMMIT')
    await client.query('INSERT INTO mmc_demo_keys VALUES ($1, $2) ON CONFLICT DO NOTHING', [name, randomBytes(32).toString('base64')])
    const { rows } = await client.query<{ key: string }>('SELECT key FROM mmc_demo_keys WHERE name = $1', [name])
    return rows[0]?.key ?? ''
  } finally {
    await client.end()
  }
}

function usage (address: string): string {
  const form = new URLSearchParams({ username, password }).toString().replaceAll("'", '%27')
  const validUntil = new Date(Date.now() + 90 * 24 * 60 * 60 * 1000).toISOString()
  return `
The demo host listens at ${address}/
Logins: ${username} / ${password} (admin), editor / secret, viewer / secret

# Log in, create a token that may do what a viewer may:
JAR=$(mktemp)
curl -s -c $JAR -d '${form}' '${address}/auth?json=true'; echo
ANSWER=$(curl -s -b $JAR -H 'content-type: application/json' -d '{"name":"try '$(date +%s)'","role":"viewer","validUntil":"${validUntil}"}' ${address}/api/tokens); echo $ANSWER
TOKEN=$(echo $ANSWER | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')

# Use it, in the header and in the query, see when it expires, and how the host counts:
curl -s -H "authorization: Bearer $TOKEN" ${address}/api/viewer; echo
curl -s "${address}/api/profile?token=$TOKEN"; echo
curl -s -o /dev/null -D - -H "authorization: Bearer $TOKEN" ${address}/api/viewer | grep application-token-expires
curl -s ${address}/metrics | grep authentications

# Revoke it by its hash, and be refused:
HASH=$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)
curl -s -b $JAR -X DELETE ${address}/api/tokens/$HASH; echo
curl -s -i -H "authorization: Bearer $TOKEN" ${address}/api/viewer; echo

Ctrl-C ends it.
`
}
