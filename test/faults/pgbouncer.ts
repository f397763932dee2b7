import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { connectTo } from './world.js'

export const HAS_PGBOUNCER = spawnSync('pgbouncer', ['--version']).status === 0

/** A pooler that lends connections by transaction before the server at `url`, until the test ends. */
export async function startPgBouncer (t: Test, url: string): Promise<{ url: string, pid: number }> {
  const socket = new URL(url).searchParams.get('host') ?? ''
  const reserved = createServer().listen(0, '127.0.0.1')
  await once(reserved, 'listening')
  const { port } = reserved.address() as AddressInfo
  await once(reserved.close(), 'close')

  const folder = await mkdtemp(join(tmpdir(), 'pgbouncer-'))
  const settings = join(folder, 'pgbouncer.ini')
  await writeFile(settings, `[databases]
postgres = host=${socket} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
ignore_startup_parameters = extra_float_digits
`)
  await chmod(folder, 0o755)
  // It refuses to run as root, as Postgres does, whose socket only its user may enter.
  const child = spawn('pgbouncer', ['-q', settings], {
    stdio: 'ignore', ...process.getuid?.() === 0 && { uid: 65534, gid: 65534 }
  })
  const gone = once(child, 'close')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await gone
    await rm(folder, { recursive: true })
  })
  const through = `postgres://postgres@127.0.0.1:${port}/postgres`
  while (!await connectTo(through).then(client => client.end()).then(() => true, () => false)) {
    if (child.exitCode !== null) throw new Error('pgbouncer does not start')
  }
  return { url: through, pid: child.pid ?? NaN }
}
