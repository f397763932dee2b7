import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import type { IssuedToken } from '../../lib/index.js'
import { bearer } from '../support/build-host.js'
import { login } from './load.js'

interface Target { address: string }

/** In how many milliseconds a node answers a request that asks for nothing. */
export async function ping ({ address }: Target): Promise<number> {
  const begun = performance.now()
  await (await fetch(`${address}/health`)).arrayBuffer()
  return performance.now() - begun
}

/** A WebSocket that a token opened; times are milliseconds of this process's monotonic clock. */
export interface Live {
  socket: WebSocket
  /** When its client read that the signal aborted, and when it was closed; `Infinity` until then. */
  signalledAt: number
  closedAt: number
  closed: Promise<unknown>
}

/** Tries again where a busy machine makes a lookup miss its deadline. */
export async function openLive (target: Target, token: string, tries = 5): Promise<Live> {
  const socket = new WebSocket(`${target.address.replace('http', 'ws')}/live`, { headers: bearer(token) })
  try {
    await once(socket, 'message')
  } catch (error) {
    if (tries === 1) throw error
    return await openLive(target, token, tries - 1)
  }
  const live: Live = { socket, signalledAt: Infinity, closedAt: Infinity, closed: once(socket, 'close') }
  socket.on('error', () => {})
  socket.once('close', () => { live.closedAt = performance.now() })
  socket.on('message', message => {
    if (String(message) === 'ended') live.signalledAt = Math.min(live.signalledAt, performance.now())
  })
  return live
}

/** An admin's program. */
export async function createAdmin (target: Target) {
  const headers = await login(target)
  return {
    async issue (name: string, validUntil = '2999-01-01T00:00:00Z'): Promise<IssuedToken> {
      const body = JSON.stringify({ name, role: 'viewer', validUntil })
      const response = await fetch(`${target.address}/api/tokens`, { method: 'POST', headers, body })
      return await response.json() as IssuedToken
    },
    /** Asks these nodes in turn until one of them answers that it is revoked; resolves with the time of the answer. */
    async revoke ({ hash }: { hash: string }, nodes: readonly Target[] = [target]): Promise<number> {
      for (let n = 0; ; n++) {
        const url = `${nodes[n % nodes.length]?.address}/api/tokens/${hash}`
        const status = await fetch(url, {
          method: 'DELETE', headers: { ...headers, prefer: 'return=minimal' }, signal: AbortSignal.timeout(2000)
        }).then(({ status }) => status, () => 0)
        // 404: an earlier attempt has done it, though its answer was an error.
        if (status === 204 || status === 404) return performance.now()
        await sleep(50)
      }
    }
  }
}

export interface Loop {
  /** How late the event loop was, in milliseconds. */
  p99: number
  max: number
  /** The longest time in which it computed without a pause, in milliseconds. */
  stretch: number
  /** The WebSockets of the node. */
  open: number
}

/** What the event loop of a node did since the last question. */
export async function askLoop ({ address }: Target): Promise<Loop> {
  return await (await fetch(`${address}/loop`)).json() as Loop
}

/** In whole milliseconds. */
export function figures (values: number[]): { p50: number, p99: number, max: number } {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): number => Math.round(sorted[Math.ceil(share * sorted.length) - 1] ?? NaN)
  return { p50: at(0.5), p99: at(0.99), max: at(1) }
}
