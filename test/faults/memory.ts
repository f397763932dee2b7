import { createHmac, randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import { createCache } from '../../lib/tokens/cache.js'
import { digest } from '../../lib/tokens/jwt.js'
import { createTokens } from '../../lib/tokens/tokens.js'
import { createUsage } from '../../lib/tokens/usage.js'
import type { Claims, Signer, Store, Token } from '../../lib/types.js'

// What so many distinct tokens leave behind in a process, half of them good: nothing. Needs --expose-gc. The store
// knows every good one without keeping it, so that what is kept is the plugin's.

const TOKENS = Number(process.env.TOKENS ?? 5_000_000)
const TURN = 50_000
const HEADER = Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')
/** Only grows, as one that forgets to forget would: the check must find it. */
const leak: string[] | undefined = process.env.LEAK === undefined ? undefined : []

const sign = (payload: string): string =>
  `${HEADER}.${payload}.${createHmac('sha256', 'key').update(`${HEADER}.${payload}`).digest('base64url')}`
const signer: Signer = {
  sign: claims => sign(Buffer.from(JSON.stringify(claims)).toString('base64url')),
  verify (secret) {
    const payload = secret.split('.')[1] ?? ''
    if (sign(payload) !== secret) throw new Error('signature')
    return JSON.parse(Buffer.from(payload, 'base64url').toString()) as Claims
  }
}

const good = new Set<string>()
const iso = new Date().toISOString()
const store: Store = {
  start: async () => {},
  isTrusted: () => true,
  insert: async () => true,
  find: async hash => good.has(hash)
    ? {
      name: hash,
      hash,
      validUntil: '2999-01-01T00:00:00.000Z',
      role: 'viewer',
      requestedBy: 'test',
      issueDate: iso,
      lastUsed: iso
    } satisfies Token
    : null,
  findAll: async () => [],
  lease: () => ({ held: 1, losses: 0 }),
  bootstrap: async () => new Map(),
  list: async function * () {},
  purge: async () => 0,
  claimEvents: async () => [],
  dropEvents: async () => {},
  deferEvents: async () => {},
  count: async () => [],
  remove: async () => true,
  touch: async () => [],
  close: async () => {}
}
const log = Fastify({ logger: false }).log
const usage = createUsage(store, log)
const events = { report () {} }
const tokens = createTokens({
  store,
  cache: createCache(() => true, () => performance.now()),
  signers: [signer],
  usage,
  audit: events,
  connections: { end () {}, forget () {} },
  issuer: 'cedalo',
  roles: ['viewer']
})

const gc = (globalThis as { gc?: () => void }).gc
if (gc === undefined) throw new Error('run with --expose-gc')

const heaps: number[] = []
let accepted = 0
let refused = 0
let rss = 0
for (let done = 0; done < TOKENS; done += TURN) {
  for (let batch = 0; batch < TURN; batch += 1000) {
    good.clear()
    const secrets = Array.from({ length: 1000 }, (_, n) => {
      const secret = signer.sign({ role: 'viewer', iat: 1, exp: 32503680000, iss: 'cedalo', jti: randomUUID() })
      // A third is unknown, a sixth forged.
      if (n % 2 === 0) good.add(digest(secret))
      return n % 6 === 5 ? `${secret.slice(0, -4)}AAAA` : secret
    })
    leak?.push(...secrets)
    await Promise.all(secrets.map(async secret => {
      const outcome = await tokens.authenticate({ secret, hash: digest(secret) }, Date.now)
      if ('refused' in outcome) refused++
      else accepted++
    }))
  }
  good.clear()
  await usage.close()
  gc()
  const { heapUsed, rss: now } = process.memoryUsage()
  heaps.push(heapUsed)
  rss = Math.max(rss, now)
}
await usage.close()

// Caches are full after the first quarter.
const settled = heaps.slice(Math.ceil(heaps.length / 4))
const growth = (settled.at(-1) ?? NaN) / (settled[0] ?? NaN) - 1
const megabytes = (bytes = NaN): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
console.log(
  `${accepted} accepted, ${refused} refused; heap after a collection ${megabytes(settled[0])}, then ${megabytes(settled.at(-1))} (${(growth * 100).toFixed(1)} %), at most ${megabytes(Math.max(...settled))}; RSS at most ${megabytes(rss)}`
)
if (!(growth <= 0.05)) throw new Error('the heap grows')
if (!(rss <= 256 * 2 ** 20)) throw new Error('too much memory')
