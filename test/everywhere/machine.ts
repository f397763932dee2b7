import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Environment } from './environments.js'

const POSTGRES = '/usr/lib/postgresql/15/bin'

/** What a run of the tests needs of the machine. All of it ends with `end`. */
export class Machine {
  /** A folder that everybody may traverse. */
  readonly folder = mkdtempSync(join(tmpdir(), 'everywhere-'))
  readonly #children = new Set<ChildProcess>()

  constructor () {
    chmodSync(this.folder, 0o755)
  }

  /** Runs a program to its end; its output, or an error with all of it. */
  run (file: string, args: string[], options: { cwd?: string } = {}): string {
    const { status, stdout, stderr, error } = spawnSync(file, args, { encoding: 'utf8', ...options })
    if (status !== 0) throw new Error(`${file} ${args.join(' ')}: ${error?.message ?? stderr + stdout}`)
    return stdout.trim()
  }

  /** A process of a group of its own, so that its children end with it. */
  start (file: string, args: string[], options: Parameters<typeof spawn>[2] = {}): ChildProcess {
    const child = spawn(file, args, { detached: true, stdio: 'ignore', ...options })
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  /** Why an environment can't be made here, or nothing. */
  missing ({ packages, user }: Environment): string | undefined {
    if (process.getuid?.() !== 0 &&
      (user !== undefined || packages.length > 0)) return 'needs root, to become another user and to install packages'
    spawnSync('.ci/install-debian-packages', packages, { stdio: 'inherit' })
    const absent = packages.filter(name =>
      !spawnSync('dpkg', ['-s', name], { encoding: 'utf8' }).stdout?.includes('install ok installed'))
    return absent.length === 0 ? undefined : `the Debian packages ${absent.join(', ')} are not there`
  }

  makeLocale (locale: string): void {
    const [language = '', charset = ''] = locale.split('.')
    this.run('localedef', ['-i', language, '-f', charset, locale])
  }

  /** A clone of HEAD, with a copy of the packages that are installed here. */
  checkOut (name: string, user: string | undefined): string {
    const checkout = join(this.folder, name)
    this.run('git', ['clone', '--quiet', '--no-hardlinks', '.', checkout])
    this.run('cp', ['-a', 'node_modules', checkout])
    if (user !== undefined) this.run('chown', ['-R', user, checkout])
    return checkout
  }

  /** A home of a user's own, and room for temporary files. */
  makeHome (user: string | undefined): { HOME: string, TMPDIR: string } {
    const [HOME, TMPDIR] = ['home', 'tmp'].map(name => join(this.folder, name)) as [string, string]
    for (const folder of [HOME, TMPDIR]) mkdirSync(folder, { recursive: true })
    if (user !== undefined) this.run('chown', [user, HOME])
    chmodSync(TMPDIR, 0o1777)
    return { HOME, TMPDIR }
  }

  /** The connection string of a Postgres 15, with sockets only. */
  async startDebianPostgres (): Promise<string> {
    const [data, socket] = ['data', 'socket'].map(name => join(this.folder, name)) as [string, string]
    for (const folder of [data, socket]) mkdirSync(folder)
    this.run('chown', ['postgres', data, socket])
    const asPostgres = (...command: string[]) => ['-u', 'postgres', '--', ...command]
    this.run('runuser', asPostgres(
      `${POSTGRES}/initdb`, '-D', data, '-U', 'postgres', '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-sync'
    ), { cwd: '/' })
    const server = this.start('runuser', asPostgres(
      `${POSTGRES}/postgres`,
      '-D',
      data,
      '-k',
      socket,
      '-c',
      'listen_addresses=',
      '-c',
      'fsync=off',
      '-c',
      'max_connections=300'
    ),
    { cwd: '/', stdio: ['ignore', 'ignore', 'pipe'] })
    for await (const chunk of server.stderr as AsyncIterable<Buffer>) if (String(chunk).includes('ready to accept')) break
    server.stderr?.resume()
    return `postgres://postgres@localhost/postgres?host=${encodeURIComponent(socket)}`
  }

  /** They end with this process, however it ends. */
  startBusyLoops (count: number): void {
    const loop = 'const { ppid } = process; setInterval(() => { for (const end = Date.now() + 200; Date.now() < end;); if (process.ppid !== ppid) process.exit() })'
    for (let n = 0; n < count; n++) this.start(process.execPath, ['-e', loop])
  }

  async end (): Promise<void> {
    await Promise.all([...this.#children].map(async child => {
      const ended = once(child, 'exit')
      // Postgres waits for its clients on SIGTERM, not on SIGINT.
      process.kill(-(child.pid as number), 'SIGINT')
      await ended
    }))
    rmSync(this.folder, { recursive: true, force: true })
  }
}
