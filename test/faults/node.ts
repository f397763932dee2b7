import { createHook } from 'node:async_hooks'
import { appendFileSync, mkdirSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import '@fastify/websocket'
import pg from 'pg'
import type { TokenEvent } from '../../lib/index.js'
import { createHost } from '../support/host.js'

/** What a test tells a node to be, in the environment variable `FAULT_NODE`. */
export interface NodeSettings {
  postgres: string
  listen?: string
  secret: string
  /** Hand the plugin a pool of the host's own, of this size. */
  ownPool?: number
  /** A file for the events that `onEvent` took, a line each. Every tenth fails at first, on one node. */
  events?: string
}

/** What a test tells a node to do. */
export type Order =
  /** Every connection of the host's own pool is busy for so long, in milliseconds. */
  | { exhaust: number }
  /** The clock on the wall is wrong by so much, in milliseconds. */
  | { clock: number }

const { postgres, ownPool, events, ...tokens } = JSON.parse(process.env.FAULT_NODE ?? '') as NodeSettings
const pool = ownPool === undefined ? undefined : new pg.Pool({ connectionString: postgres, max: ownPool })

let count = 0
async function write (file: string, event: TokenEvent): Promise<void> {
  await pause(Math.random() * 5)
  if (++count % 10 === 0 && isFirstFailure(file, event.id)) throw new Error('full')
  appendFileSync(file, `${JSON.stringify(event)}\n`)
}

/** Nodes share the answer, by a folder: two failures of one event would make the next attempt minutes later. */
function isFirstFailure (file: string, id: string): boolean {
  return mkdirSync(join(file, '../../failed', id), { recursive: true }) !== undefined
}

const now = Date.now
let offset = 0
Date.now = () => now() + offset

const app = await createHost({
  fastify: { logger: { level: 'warn' } },
  sessionKey: Buffer.alloc(32, 7),
  tokens: {
    postgres: pool ?? postgres,
    ...tokens,
    ...events !== undefined &&
    { onEvent: async event => { await write(events, event) } }
  }
})
app.get('/health', async () => ({ ...app.tokens.health(), now: Date.now() }))

// A WebSocket that says when its token ends; it may be told to send more than its client reads.
await app.register(async routes => {
  routes.get('/live', { websocket: true }, (socket, request) => {
    app.tokens.signal(request)?.addEventListener('abort', () => { socket.send('ended') })
    socket.on('message', () => { socket.send(Buffer.alloc(32 * 1024 * 1024)) })
    socket.send('open')
  })
})

// How late the event loop was since it was asked last, and how long this process computed at a stretch, in
// milliseconds: a busy machine makes the first longer, and not the second. And how many WebSockets are open.
const delay = monitorEventLoopDelay({ resolution: 1 })
let stretch = 0
let watch: NodeJS.Timeout | undefined
app.get('/loop', async () => {
  delay.disable()
  const [p99, max] = [delay.percentile(99), delay.max].map(nanoseconds => Math.round(nanoseconds / 1e6))
  const loop = { p99, max, stretch: Math.round(stretch), open: app.websocketServer.clients.size }
  delay.reset()
  delay.enable()
  stretch = 0
  let before = process.cpuUsage()
  watch ??= setInterval(() => {
    const { user, system } = process.cpuUsage(before)
    before = process.cpuUsage()
    stretch = Math.max(stretch, (user + system) / 1000)
  }, 2)
  return loop
})

// What runs from a request's arrival on, and after each await, is a step; at the one that the request names, the
// process dies.
let steps = 0
app.get('/steps', async () => steps)
app.server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
  const dieAt = Number(request.headers['die-at'] ?? NaN)
  if (Number.isNaN(dieAt)) return
  steps = 0
  const hook = createHook({ before () { if (++steps === dieAt) process.kill(process.pid, 'SIGKILL') } }).enable()
  response.once('close', () => { hook.disable() })
})

const address = await app.listen({ host: '127.0.0.1', port: 0 })

async function exhaust (milliseconds: number): Promise<void> {
  const busy = async (): Promise<void> => {
    await pool?.query('SELECT pg_sleep($1)', [milliseconds / 1000]).catch(() => {})
  }
  await Promise.all(Array.from({ length: ownPool ?? 0 }, busy))
}

process.on('message', (order: Order) => {
  if ('clock' in order) offset = order.clock
  else exhaust(order.exhaust).catch(() => {})
})
// The test ended.
process.on('disconnect', () => { process.exit() })
process.send?.(address)
