import { Agent, request as send } from 'node:http'
import { bearer } from '../support/build-host.js'
import { LASTS } from './fault.js'
import { pick, type Random } from './random.js'

/** One request and its answer; times are milliseconds of this process's monotonic clock. */
export interface Call {
  node: string
  /** `forged`: a token that nobody issued. `plain`: without a credential of ours. */
  what: 'use' | 'forged' | 'issue' | 'revoke' | 'plain'
  /** Of the token: `hash` is not known where a creating POST was not answered. */
  name?: string
  hash?: string
  begun: number
  ended: number
  /** 0 where no answer came. */
  status: number
  /** What the node said of its lease. */
  lease?: string
  /** By how much its clock on the wall differed from ours. */
  clock?: number
}

interface Token { name: string, hash: string, token: string }

export interface Load {
  history: Call[]
  /** Asks every node for its lease, but for these. */
  askHealth: (frozen: readonly string[]) => void
  /** Revokes a token by each node. All nodes know these tokens, and nobody uses them until `useRevoked`. */
  revokeKnown: () => void
  /** Uses them on every node: what a node still believes of them, no use has corrected. */
  useRevoked: () => void
  /** Ends when every request is answered. */
  stop: () => Promise<void>
}

interface Target { name: string, address: string }

/** Between two requests to the same node, in milliseconds. */
const PACE = 20
/** How long after its revocation a token may be accepted, in milliseconds. */
export const BOUND = 2000
/** When a token is tried after its revocation: around the bound above all. */
const TRIES = [0, 200, 700, 1300, 1800, 1950, 2050, 2200, 2500, 3000, 3600]
/** Tokens that are there at a time, more or less. */
const ENOUGH = 40
/** How long a program waits for an answer. */
const PATIENCE = LASTS + 15_000

/** Programs that use all nodes at once, at a pace of their own: they wait for no answer before they ask again. */
export async function startLoad (nodes: readonly [Target, ...Target[]], random: Random, prefix: string): Promise<Load> {
  const session = await login(nodes[0])
  const history: Call[] = []
  const running = new Set<Promise<unknown>>()
  const agent = new Agent({ keepAlive: true })
  const live: Token[] = []
  const timers = new Set<NodeJS.Timeout>()
  let count = 0

  async function call (
    target: Target, what: Call['what'], { method = 'GET', path, headers = {}, body, ...about }: Request
  ): Promise<{ call: Call, text: string }> {
    const begun = performance.now()
    const { status, text } = await exchange(agent, target.address + path, method, headers, body)
    const call = { node: target.name, what, begun, ended: performance.now(), status, ...about }
    history.push(call)
    return { call, text }
  }

  async function use (target: Target, { name, hash, token }: Token): Promise<void> {
    await call(target, 'use', { path: '/api/viewer', headers: bearer(token), name, hash })
  }

  async function issue (target: Target): Promise<void> {
    const name = `${prefix} ${++count}`
    const { call: answer, text } = await call(target, 'issue', {
      method: 'POST',
      path: '/api/tokens',
      headers: session,
      body: JSON.stringify(
        { name, role: 'viewer', validUntil: '2999-01-01T00:00:00Z' }
      ),
      name
    })
    if (answer.status !== 200) return
    const { hash, token } = JSON.parse(text) as Token
    answer.hash = hash
    const known = { name, hash, token }
    live.push(known)
    // So that every node believes it.
    for (const node of nodes) follow(use(node, known))
  }

  async function end (target: Target, { name, hash }: Token): Promise<void> {
    await call(target, 'revoke', { method: 'DELETE', path: `/api/tokens/${hash}`, headers: session, name, hash })
  }

  async function revoke (target: Target): Promise<void> {
    // Often the newest, which some node may be looking up just then.
    const [token] = live.splice(random() < 0.5 ? -1 : Math.floor(random() * live.length), 1)
    if (token === undefined) return
    await end(target, token)
    // What one of the others believes, nobody's use corrects in time.
    const spared = pick(random, nodes.filter(node => node !== target))
    for (const delay of TRIES) {
      const timer = setTimeout(() => {
        timers.delete(timer)
        for (const node of nodes) if (delay > BOUND || node !== spared) follow(use(node, token))
      }, delay)
      timers.add(timer)
    }
  }

  async function plain (target: Target, path = pick(random, ['/login', '/api/viewer', '/health']) ?? ''): Promise<void> {
    const { call: answer, text } = await call(target, 'plain', { path, headers: path === '/api/viewer' ? session : {} })
    if (path !== '/health' || answer.status !== 200) return
    const { lease, now } = JSON.parse(text) as { lease: string, now: number }
    Object.assign(answer, { lease, clock: now - Date.now() })
  }

  async function step (target: Target): Promise<void> {
    const chance = random()
    const token = pick(random, live)
    if (chance < 0.2) await plain(target)
    else if (chance < 0.25) await call(target, 'forged', { path: '/api/viewer', headers: bearer(FORGED) })
    else if (token === undefined ||
      chance < 0.35) await (random() < live.length / ENOUGH / 2 ? revoke(target) : issue(target))
    else await use(target, token)
  }

  function follow (work: Promise<void>): void {
    const followed = work.catch((error: unknown) => { failure ??= error }).finally(() => running.delete(followed))
    running.add(followed)
  }
  let failure: unknown

  for (let n = 0; n < ENOUGH; n++) await issue(nodes[0])
  const known = live.splice(0, nodes.length)
  const timer = setInterval(() => { for (const node of nodes) follow(step(node)) }, PACE)

  return {
    history,
    askHealth (frozen) { for (const node of nodes) if (!frozen.includes(node.name)) follow(plain(node, '/health')) },
    revokeKnown () { for (const [n, token] of known.entries()) follow(end(nodes[n] ?? nodes[0], token)) },
    useRevoked () { for (const token of known) for (const node of nodes) follow(use(node, token)) },
    async stop () {
      clearInterval(timer)
      for (const timer of timers) clearTimeout(timer)
      while (running.size > 0) await Promise.all(running)
      agent.destroy()
      if (failure !== undefined) throw failure
    }
  }
}

interface Request {
  method?: string
  path: string
  headers?: Record<string, string>
  body?: string
  name?: string
  hash?: string
}

/** Status 0 where no answer comes. */
function exchange (
  agent: Agent, url: string, method: string, headers: Record<string, string>, body = ''
): Promise<{ status: number, text: string }> {
  return new Promise(resolve => {
    const request = send(url, {
      agent,
      method,
      headers: {
        ...headers,
        ...body !== '' &&
      { 'content-length': String(Buffer.byteLength(body)) }
      },
      timeout: PATIENCE
    }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
        .on('end', () => { resolve({ status: response.statusCode ?? 0, text }) })
        .on('error', () => { resolve({ status: 0, text: '' }) })
    })
    request.on('timeout', () => request.destroy()).on('error', () => { resolve({ status: 0, text: '' }) })
    request.end(body)
  })
}

const FORGED = [
  '{"alg":"HS256","typ":"JWT"}', '{"role":"admin","iat":1,"exp":32503680000,"iss":"cedalo","jti":"x"}', 'x'.repeat(32)
].map(part => Buffer.from(part).toString('base64url')).join('.')

/** Headers of an admin's session; nodes share their sessions. */
export async function login ({ address }: Pick<Target, 'address'>): Promise<Record<string, string>> {
  const response = await fetch(`${address}/auth?json=true`, {
    method: 'POST', body: new URLSearchParams({ username: 'cedalo', password: 'secret' })
  })
  return { cookie: response.headers.getSetCookie()[0]?.split(';', 1)[0] ?? '', 'content-type': 'application/json' }
}
