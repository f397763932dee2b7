import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Contender, Setting } from './contender.js'
import type { Stats } from './server.js'

const FOLDER = fileURLToPath(new URL('.', import.meta.url))

/** Where the servers are compiled to, so that they find this folder's packages and the project's. */
const BUILT = join(FOLDER, 'node_modules/.bench')

const CORES = availableParallelism()

/** Starts a server on these tables, else on some of its own. */
export type Start = (name: string, schema?: string) => Promise<Server>

/** A contender that runs in a process of its own. */
export interface Server {
  name: string
  url: string
  sent: Contender['sent']
  status: number
  readyIn: number | undefined
  /** File for the load generator: a line for each request, path and authorization with a tab between. */
  requests: string
  /** The request with which the next slice starts. */
  offset: number
  ask: <T>(task: string, argument?: number) => Promise<T>
  stats: () => Promise<Stats>
  stop: () => Promise<void>
}

/**
 * Compiles the servers and the plugin to what users run: tsx would add to each closure that a request makes, and to
 * each error.
 * @throws Error with what the compiler said
 */
export async function buildServer (): Promise<void> {
  const tsc = join(FOLDER, '../../node_modules/typescript/bin/tsc')
  const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', FOLDER, '--noCheck'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stdout)
  await writeFile(join(BUILT, 'package.json'), '{ "type": "module" }\n')
}

/** Whether processes are bound to cores: servers to the first, everything else to the others. */
export const isPinned = CORES > 1 && spawnSync('taskset', ['-V']).error === undefined

/** Binds a process to some cores, and so everything that it starts from now on. */
export function pin (pid: number | undefined, first: number, last = CORES - 1): void {
  if (isPinned) spawnSync('taskset', ['-a', '-p', '-c', `${first}-${last}`, String(pid)])
}

/** @throws Error with what the server said, where it does not start */
export async function startServer (name: string, setting: Setting): Promise<Server> {
  const command = [process.execPath, join(BUILT, 'test/bench/server.js'), name, JSON.stringify(setting)]
  const [file = '', ...args] = isPinned ? ['taskset', '-c', '0', ...command] : command
  const child = spawn(file, args, {
    env: { ...process.env, NODE_ENV: 'production' }, stdio: ['ignore', 'ignore', 'pipe', 'ipc']
  })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => { said = (said + chunk).slice(-4000) })
  const waiting = new Map<number, { resolve: (answer: unknown) => void, reject: (error: Error) => void }>()
  const answerTo = async <T>(id: number): Promise<T> =>
    await new Promise<unknown>((resolve, reject) => { waiting.set(id, { resolve, reject }) }) as T
  child.on('message', ({ id, answer, error }: { id: number, answer?: unknown, error?: string }) => {
    const asked = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) asked?.resolve(answer)
    else asked?.reject(new Error(`${name}: ${error}`))
  })
  child.on('exit', () => { for (const { reject } of waiting.values()) reject(new Error(`${name} ended: ${said}`)) })

  const { url, sent, status, readyIn } = await answerTo<Pick<Server, 'url' | 'sent' | 'status' | 'readyIn'>>(0)
  const folder = await mkdtemp(join(tmpdir(), 'mmc-tokens-bench-'))
  const requests = join(folder, 'requests')
  await writeFile(requests, sent.map(({ path, authorization = '' }) => `${path}\t${authorization}\n`).join(''))
  let count = 0
  const ask = async <T>(task: string, argument?: number): Promise<T> => {
    const id = ++count
    child.send({ id, task, argument })
    return await answerTo<T>(id)
  }
  return {
    name,
    url,
    sent,
    status,
    readyIn,
    requests,
    offset: 0,
    ask,
    stats: async () => await ask<Stats>('stats'),
    async stop () {
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
      await rm(folder, { recursive: true })
    }
  }
}
