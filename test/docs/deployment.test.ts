import { spawnSync } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import t from 'tap'
import tokensPlugin from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createSeparateDatabase } from '../support/database.js'
import { blocksOf, runBlock } from '../support/docs.js'
import { startPostgres } from '../support/postgres.js'
import { lacks } from '../support/tools.js'
import { until } from '../support/until.js'

const PAGE = 'docs/deployment.md'
const [close = '', ...otherScripts] = await blocksOf(PAGE, 'js')
const [health = '', ...others] = await blocksOf(PAGE, 'ts')
t.strictSame([otherScripts, others], [[], []], 'every block is known to this test')

t.test(`${PAGE}: /health stays 200 while Postgres is down and the lease is lost, and ignores tokens`, async t => {
  const postgres = await startPostgres()
  t.teardown(() => postgres.end())
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(tokensPlugin, { postgres: postgres.url, secret: SECRET })
  await runBlock(health, { app })
  const { token } = await app.tokens.issue({ name: 'x', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  const ask = async () => await app.inject({ url: '/health', headers: bearer(`${token}x`) })
  await until(() => app.tokens.health().lease === 'held')
  t.strictSame([(await ask()).statusCode, (await ask()).json()], [200, { enabled: true, lease: 'held' }])
  await postgres.stop()
  await until(() => app.tokens.health().lease === 'lost')
  t.strictSame([(await ask()).statusCode, (await ask()).json()], [200, { enabled: true, lease: 'lost' }])
})

t.test(`${PAGE}: SIGTERM closes the host, which writes lastUsed`, async t => {
  const { url, query } = await createSeparateDatabase(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const closed = new EventEmitter()
  app.addHook('onClose', async () => { closed.emit('begins') })
  await app.register(tokensPlugin, { postgres: url, secret: SECRET })
  const process = new EventEmitter()
  await runBlock(close, { app, process })
  const { token } = await app.tokens.issue({ name: 'x', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'x' })
  await app.inject({ url: '/', headers: bearer(token) })
  const begins = once(closed, 'begins')
  process.emit('SIGTERM')
  await begins
  await app.close()
  t.strictSame(await query('SELECT last_used > issue_date AS used FROM mmc_tokens.tokens'), [{ used: true }])
})

t.test(`${PAGE}: dropping the schema leaves nothing of the plugin in the database`, async t => {
  const { url, query } = await createSeparateDatabase(t)
  const objects = async (): Promise<unknown> => await query(`
    SELECT (SELECT count(*) FROM pg_class)::int AS relations, (SELECT count(*) FROM pg_proc)::int AS functions,
      (SELECT count(*) FROM pg_trigger)::int AS triggers, (SELECT count(*) FROM pg_namespace)::int AS schemas`)
  const before = await objects()
  const app = Fastify()
  await app.register(tokensPlugin, { postgres: url, secret: SECRET })
  await app.close()
  t.strictNotSame(await objects(), before)
  const [uninstall = ''] = await blocksOf(PAGE, 'sql')
  await query(uninstall)
  t.strictSame(await objects(), before)
})

t.test(`${PAGE}: systemd accepts the unit`, { skip: lacks('systemd-analyze') }, async t => {
  const folder = await mkdtemp(join(tmpdir(), 'mmc-unit-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const [unit = ''] = await blocksOf(PAGE, 'ini')
  // The program of this machine.
  await writeFile(join(folder, 'mmc.service'), unit.replace('/usr/bin/node', process.execPath))
  const { stderr } = spawnSync('systemd-analyze', ['verify', join(folder, 'mmc.service')], { encoding: 'utf8' })
  // It may complain of the machine's own units.
  t.notMatch(stderr, 'mmc.service')
})
