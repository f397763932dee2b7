// One contender in a process of its own: `server.js <contender> <setting as JSON>`. It ends when its parent does.
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import pg from 'pg'
import type { Setting } from './contender.js'
import { contenders } from './contenders.js'

/**
 * What a server reports of itself: CPU in microseconds since it started, bytes of memory, queries sent to Postgres, the
 * listener's aside, and how many of them write.
 */
export interface Stats { cpu: number, rss: number, queries: number, writes: number }

/**
 * What `watch` saw: the worst hundredth of the event loop's delays and the longest, in milliseconds, and the most
 * memory, in bytes.
 */
export interface Watched { p99: number, max: number, rss: number }

const [name = '', setting = ''] = process.argv.slice(2)
const create = contenders[name]
if (create === undefined) throw new Error(`there is no contender "${name}"`)

let queries = 0
let writes = 0
const { prototype } = pg.Client as unknown as { prototype: { query: (...args: unknown[]) => unknown } }
const { query } = prototype
prototype.query = function (...args) {
  const [first] = args
  const text = (typeof first === 'string' ? first : (first as { text?: string }).text ?? '').trimStart()
  if (!isOfListener(text)) queries++
  if (/^(?:INSERT|UPDATE|DELETE)/i.test(text)) writes++
  return query.apply(this, args)
}

/** Sent by the clock, whatever requests there are. */
function isOfListener (text: string): boolean {
  return /pg_notify|pg_snapshot|pg_backend_pid|LISTEN|AS server_id$/.test(text)
}

const contender = await create(JSON.parse(setting) as Setting)
const url = await contender.listen()

let delays: IntervalHistogram | undefined
let sampling: NodeJS.Timeout | undefined
let rss = 0

const tasks: Record<string, (argument: number) => Promise<unknown>> = {
  async stats (): Promise<Stats> {
    const { user, system } = process.cpuUsage()
    return { cpu: user + system, rss: process.memoryUsage.rss(), queries, writes }
  },
  async watch () {
    rss = process.memoryUsage.rss()
    sampling = setInterval(() => { rss = Math.max(rss, process.memoryUsage.rss()) }, 10)
    delays = monitorEventLoopDelay({ resolution: 1 })
    delays.enable()
  },
  async watched (): Promise<Watched> {
    delays?.disable()
    clearInterval(sampling)
    return { p99: (delays?.percentile(99) ?? NaN) / 1e6, max: (delays?.max ?? NaN) / 1e6, rss }
  },
  ...contender.tasks
}

process.on('disconnect', () => { process.exit() })
process.on('message', ({ id, task, argument }: { id: number, task: string, argument: number }) => {
  const run = tasks[task] ?? (async () => { throw new Error(`"${name}" has no task "${task}"`) })
  run(argument).then(
    answer => { process.send?.({ id, answer }) },
    (error: unknown) => { process.send?.({ id, error: String(error) }) }
  )
})
process.send?.({ id: 0, answer: { url, sent: contender.sent, status: contender.status, readyIn: contender.readyIn } })
