import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Server } from './start-server.js'

export interface Load {
  url: string
  /** File of the requests. */
  requests: string
  /** The request to start with. */
  offset: number
  seconds: number
  connections: number
  /** Requests a second; as many as go where it is not given. */
  rate?: number
}

/** What came of some seconds of load. `p99` is in milliseconds; `refused` are answers of 400 and more. */
export interface Loaded { requests: number, seconds: number, p99: number, refused: number, failed: number }

const WRK = fileURLToPath(new URL('wrk.lua', import.meta.url))
const AUTOCANNON = fileURLToPath(new URL('autocannon.ts', import.meta.url))

export const generator = spawnSync('wrk', ['-v']).error === undefined ? 'wrk' : 'autocannon'

/** Sends a server its requests, by another process. */
export async function load (
  server: Server, { seconds, connections, rate }: Pick<Load, 'seconds' | 'connections' | 'rate'>
): Promise<Loaded> {
  const { url, requests, offset } = server
  const [file, args] = generator === 'wrk' && rate === undefined
    ? [
        'wrk', ['-t', '1', '-c', `${connections}`, '-d', `${seconds}s`, '-s', WRK, url, '--', requests, `${offset}`]
      ] as const
    : [process.execPath, [
        '--import', 'tsx', AUTOCANNON, JSON.stringify({ url, requests, offset, seconds, connections, rate })
      ]] as const
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [output, complaint] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  const [, json] = /^RESULT (.*)$/m.exec(output) ?? []
  if (json === undefined) throw new Error(`${file} failed: ${output}${complaint}`)
  const loaded = JSON.parse(json) as Loaded
  // Also those that were under way when time was up.
  server.offset += loaded.requests + connections
  const refused = server.status === 200 ? 0 : loaded.requests
  if (loaded.failed > 0 || loaded.refused !== refused || loaded.requests === 0) {
    throw new Error(`${server.name} should answer ${server.status} to all: ${json}`)
  }
  return loaded
}
