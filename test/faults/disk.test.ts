import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { open, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Postgres } from '../support/postgres.js'
import type { BugName } from './bugs.js'
import { SEED } from './random.js'
import { runFault } from './run-fault.js'
import { connectTo, createWorld, startServer } from './world.js'

t.comment(`FAULT_SEED=${SEED}`)

const run = (file: string, ...args: string[]): boolean => spawnSync(file, args).status === 0

/** A disk of 64 MB, which only root may mount, and not everywhere. */
const mount = (folder: string, options = ''): boolean =>
  run('mount', '-t', 'tmpfs', '-o', `size=64m,mode=700${options}`, 'tmpfs', folder)
const unmount = (folder: string): boolean => run('umount', '-l', folder)

function mayMount (): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'disk-'))
  const isMounted = mount(folder)
  if (isMounted) unmount(folder)
  rmdirSync(folder)
  return isMounted
}

/** Moves what Postgres writes first, its write-ahead log, to a small disk. */
async function moveToSmallDisk (t: Test, { folder, start, stop }: Postgres): Promise<void> {
  const [log, kept] = [join(folder, 'pg_wal'), join(folder, 'pg_wal_kept')]
  await stop()
  const { uid, gid } = await stat(folder)
  run('cp', '-a', log, kept)
  if (!mount(log, `,uid=${uid},gid=${gid}`)) throw new Error('no disk')
  t.teardown(() => unmount(log))
  run('cp', '-a', `${kept}/.`, log)
  await rm(kept, { recursive: true })
  await start()
}

/** The disk is full: Postgres crashes, and can't start before there is room again. */
async function fill (t: Test, bug?: BugName) {
  const postgres = await startServer(t)
  await moveToSmallDisk(t, postgres)
  const world = await createWorld(t, postgres, bug)
  const filler = join(postgres.folder, 'pg_wal/filler')
  return await runFault(world, {
    name: 'the disk is full',
    async strike () {
      await fillUp(filler)
      const client = await connectTo(postgres.url)
      // What room there is in the segments that it has already is used up; then it wants another one.
      while (await client.query(
        'SELECT pg_logical_emit_message(false, $1, repeat($1, 1000000))', ['x']
      ).then(() => true, () => false));
      await client.end()
      return async () => {
        await rm(filler)
        await postgres.stop('SIGQUIT').catch(() => {})
        await postgres.start()
      }
    }
  })
}

async function fillUp (path: string): Promise<void> {
  await writeFile(path, '')
  const file = await open(path, 'a')
  const megabyte = Buffer.alloc(2 ** 20)
  while (await file.write(megabyte).then(({ bytesWritten }) => bytesWritten === megabyte.length, () => false));
  await file.close()
}

const skip = mayMount() ? false : 'a full disk needs the right to mount a small one'
if (skip !== false) console.error(`SKIPPED, NOT TESTED: ${skip}`)

t.test('a full disk: nothing lost, nobody let in, and back within 3 s', { skip }, async t => {
  const planted = await fill(t, 'a failed insert is a 200')
  t.match(Object.keys(planted.summary).join(), /lost/, 'a planted bug is found')
  const { summary, figures } = await fill(t)
  t.comment(JSON.stringify(figures))
  t.strictSame(summary, {})
  t.ok(figures.errors > 0, 'the fault is felt')
})
