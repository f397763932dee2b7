import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Build } from './build-node.js'
import type { NodeSettings, Order } from './node.js'

export interface Node {
  name: string
  /** Where it listens. */
  address: string
  pid: number
  tell: (order: Order) => void
  isRunning: () => boolean
  /** What it said on its way, for people. */
  said: () => string
  /** Ends it as `kill -9` does; resolves when it is gone. */
  kill: () => Promise<void>
  gone: Promise<unknown>
}

/** A host in a process of its own, from the moment it listens. */
export async function startNode (name: string, { main }: Build, settings: NodeSettings): Promise<Node> {
  // Without the loaders of the process that tests.
  const child = fork(main, {
    execArgv: [],
    env: { PATH: process.env.PATH, FAULT_NODE: JSON.stringify(settings) },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc']
  })
  const { pid = NaN } = child
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on(
      'data', (chunk: string) => { said = (said + chunk).slice(-20_000) }
    )
  }
  const gone = once(child, 'close')
  const [address] = await Promise.race([
    once(child, 'message') as Promise<[string]>,
    gone.then(() => { throw new Error(`node "${name}" does not start: ${said}`) })
  ])
  return {
    name,
    address,
    pid,
    tell: order => { child.send(order) },
    isRunning: () => child.exitCode === null && child.signalCode === null,
    said: () => said,
    gone,
    async kill () {
      child.kill('SIGKILL')
      await gone
    }
  }
}
