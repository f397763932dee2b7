// Where there is no wrk: `autocannon.ts <load as JSON>`; prints what came of it as a line of JSON.
import { readFile } from 'node:fs/promises'
import type { Load } from './load.js'

interface Client { setRequests: (requests: object[]) => void }
interface Result {
  requests: { total: number }
  duration: number
  latency: { p99: number }
  errors: number
  timeouts: number
  non2xx: number
}
type Autocannon = (options: object) => Promise<Result>

// Its types are not there where its package is not.
const name: string = 'autocannon'
const { default: autocannon } = await import(name) as { default: Autocannon }

const { url, requests: file, offset, seconds, connections, rate } = JSON.parse(process.argv[2] ?? '') as Load
const requests = (await readFile(file, 'utf8')).trimEnd().split('\n').map(line => {
  const [path, authorization] = line.split('\t')
  return { method: 'GET', path, headers: authorization ? { authorization } : {} }
})

// Each connection sends a part of the list of its own, from where it left off.
const twice = [...requests, ...requests]
const part = Math.ceil(requests.length / connections)
let next = Math.floor(offset / connections)
const result = await autocannon({
  url,
  connections,
  duration: seconds,
  ...rate !== undefined && { overallRate: rate },
  setupClient (client: Client) {
    const start = next % requests.length
    next += part
    client.setRequests(twice.slice(start, start + part))
  }
})
console.log(`RESULT ${JSON.stringify({
  requests: result.requests.total,
  seconds: result.duration,
  p99: result.latency.p99,
  refused: result.non2xx,
  failed: result.errors + result.timeouts
})}`)
