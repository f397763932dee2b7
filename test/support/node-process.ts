import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { IssuedToken } from '../../lib/index.js'
import { bearer } from './build-host.js'
import { argumentsFor } from './program.js'

/** A node that is a process of its own, met over HTTP. */
export interface NodeProcess {
  kill: (signal: NodeJS.Signals) => void
  /** The status of a request with this token, and when it began. */
  use: (token: string) => Promise<{ status: number, begun: number }>
  /** Makes a token as the admin. */
  issue: (name: string) => Promise<IssuedToken>
  /** Revokes it as the admin. */
  revoke: (hash: string) => Promise<void>
}

/** The demo host on this database and a free port, its lease held; ended with the test. */
export async function startNode (t: Test, url: string): Promise<NodeProcess> {
  const child = spawn(process.execPath, argumentsFor('test/support/start.ts'), {
    env: { ...process.env, DATABASE_URL: url, CEDALO_MC_PROXY_PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => end(child))
  const address = await addressOf(child)
  const login = await fetch(`${address}/auth?json=true`, {
    method: 'POST', body: new URLSearchParams({ username: 'cedalo', password: 'secret' })
  })
  const session = { cookie: login.headers.getSetCookie()[0]?.split(';')[0] ?? '' }

  async function ask (path: string, init: RequestInit): Promise<Response> {
    const response = await fetch(`${address}${path}`, init)
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return response
  }

  return {
    kill: signal => { child.kill(signal) },
    async use (token) {
      const begun = performance.now()
      const response = await fetch(`${address}/api/viewer`, { headers: bearer(token) })
      await response.arrayBuffer()
      return { status: response.status, begun }
    },
    async issue (name) {
      const body = JSON.stringify({ name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' })
      return await (await ask(
        '/api/tokens', { method: 'POST', headers: { ...session, 'content-type': 'application/json' }, body }
      )).json() as IssuedToken
    },
    async revoke (hash) {
      await (await ask(`/api/tokens/${hash}`, { method: 'DELETE', headers: session })).arrayBuffer()
    }
  }
}

/** What its log says, which is read to its end: a full pipe would stop it. */
async function addressOf (child: ChildProcess): Promise<string> {
  let log = ''
  return await new Promise((resolve, reject) => {
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      if (log.length < 100_000) log += chunk
      const address = /Server listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(log)?.[1]
      if (address !== undefined && log.includes('"revocation listener connected')) resolve(address)
    })
    child.once('exit', () => { reject(new Error(`the node ended: ${log}`)) })
  })
}

async function end (child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}
