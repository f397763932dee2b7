import { createHmac, hkdfSync } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import type { JWT } from '@fastify/jwt'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { InvalidTokenError, TokensError } from '../../lib/errors.js'
import { createPostgresStore } from '../../lib/store/postgres.js'
import { createCache } from '../../lib/tokens/cache.js'
import { digest } from '../../lib/tokens/jwt.js'
import { createTokens } from '../../lib/tokens/tokens.js'
import { createUsage } from '../../lib/tokens/usage.js'
import type { Claims, Signer, Store, Token } from '../../lib/types.js'
import { createBareHost } from '../support/bare-host.js'
import { SECRET } from '../support/build-host.js'
import { createDatabase } from '../support/database.js'
import { createMutator, createRandom } from '../support/mutate-token.js'

const MUTATIONS = Number(process.env.MUTATIONS ?? 20_000)
const SEED = Number(process.env.SEED ?? 1)
const KEY = Buffer.from(hkdfSync('sha256', SECRET, '', 'fastify-mmc-tokens', 32))

/** The signers as the plugin makes them, taken from the child of the host that it makes them in. */
async function realSigners (t: Test): Promise<[Signer]> {
  const { app, addTokens } = await createBareHost(t)
  const children: FastifyInstance[] = []
  app.addHook('onRegister', child => { children.push(child) })
  await addTokens({ enabled: false })
  const made = children.map(child => child.jwt as unknown as Record<string, JWT> | undefined).find(made => made?.mmcTokens0)
  const { sign, verify } = made?.mmcTokens0 as JWT
  return [{ sign: claims => sign(claims), verify: secret => verify<Claims>(secret) }]
}

/** Whether a string has our header and was signed with our key, whatever the unused bits of the signature are. */
function isRightlySigned (credential: string): boolean {
  const [, input = '', signature = ''] = /^(eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.[\w-]+)\.([\w-]{43})$/.exec(credential) ?? []
  return createHmac('sha256', KEY).update(input).digest().equals(Buffer.from(signature, 'base64url'))
}

interface Outcome { accepted: string[], forgeriesLookedUp: string[], lookedUp: number, kinds: Set<string> }

/** What a careless author would have written, to see that the test notices: other signers, another way to the row of the credential at hand. */
interface Plant { signers?: [Signer], find?: (store: Store, credential: string) => Promise<Token | null> }

/** Presents mutations of five tokens to the rules, on a real store, and these tokens between them. */
async function attack (t: Test, count: number, plant: Plant = {}): Promise<Outcome> {
  const { url: postgres, schema } = await createDatabase(t)
  const log = Fastify().log
  const real = createPostgresStore({ postgres, schema, listen: undefined, migrate: true, fingerprints: [], log })
  t.teardown(() => real.close())
  let presented = ''
  const outcome: Outcome = { accepted: [], forgeriesLookedUp: [], lookedUp: 0, kinds: new Set() }
  const store: Store = {
    ...real,
    async find (hash) {
      outcome.lookedUp++
      return plant.find === undefined ? await real.find(hash) : await plant.find(real, presented)
    }
  }
  const cache = createCache(real.isTrusted, () => performance.now())
  await store.start(cache)
  const usage = createUsage(store, log)
  t.teardown(() => usage.close())
  const events = { issued () {}, ended () {} }
  const rules = createTokens({ store, cache, signers: plant.signers ?? await realSigners(t), usage, audit: events, issuer: 'cedalo', roles: ['admin', 'viewer'] })

  const tokens: string[] = []
  for (const role of ['viewer', 'admin', 'viewer', 'admin', 'viewer']) {
    tokens.push((await rules.issue({ name: `token ${tokens.length}`, role, validUntil: '2999-01-01T00:00:00Z', requestedBy: 'test' }, Date.now())).token)
  }
  const mutate = createMutator(createRandom(SEED), tokens, KEY)
  for (let n = 0; n < count; n++) {
    if (n % 10_000 === 0) {
      // Heartbeats of the lease need a turn.
      await turn()
      for (presented of tokens) if (await rules.authenticate({ secret: presented, hash: digest(presented) }, Date.now()) instanceof TokensError) throw new Error('refused')
    }
    const { kind, credential } = mutate()
    presented = credential
    outcome.kinds.add(kind)
    const before = outcome.lookedUp
    const judged = rules.authenticate({ secret: credential, hash: digest(credential) }, Date.now())
    if (!((judged instanceof Promise ? await judged : judged) instanceof InvalidTokenError)) outcome.accepted.push(`${kind}: ${credential}`)
    if (outcome.lookedUp > before && !isRightlySigned(credential)) outcome.forgeriesLookedUp.push(`${kind}: ${credential}`)
  }
  return outcome
}

t.test(`of ${MUTATIONS} strings that are almost a token none is accepted, and none that we did not sign is looked up`, async t => {
  const started = performance.now()
  const { accepted, forgeriesLookedUp, lookedUp, kinds } = await attack(t, MUTATIONS)
  t.comment(`SEED=${SEED}: ${MUTATIONS} strings of ${kinds.size} kinds in ${Math.round(performance.now() - started)} ms, ${lookedUp} lookups`)
  t.strictSame(accepted, [])
  t.strictSame(forgeriesLookedUp, [])
  t.ok(lookedUp > MUTATIONS / 1000, `${lookedUp} lookups: what we signed is refused since the store does not know it`)
})

t.test('the same attack gets through a store that finds by what a token says, and past signers that do not verify', async t => {
  const find = async (store: Store, credential: string): Promise<Token | null> =>
    await store.find(digest(credential.split('.').map(part => Buffer.from(part, 'base64url').toString('base64url')).join('.')))
  t.ok((await attack(t, 4000, { find })).accepted.length > 0, 'the unused bits of a signature')
  const [{ sign, verify }] = await realSigners(t)
  const claims: Claims = { role: 'viewer', iat: 0, exp: 33e9, iss: 'cedalo', jti: '' }
  const reader: Signer = { sign, verify: secret => ({ ...claims, ...JSON.parse(Buffer.from(secret.split('.')[1] ?? '', 'base64url').toString()) as object }) }
  const unverified = await attack(t, 500, { signers: [reader] })
  t.ok(unverified.forgeriesLookedUp.length > 0)
  t.strictSame(unverified.accepted, [], 'the digest still stands in the way')
  t.ok((await attack(t, 500, { signers: [reader], find })).accepted.length > 0)
  const trimming: Signer = { sign, verify: secret => verify(secret.trim().replace(/=+$/, '')) }
  t.ok((await attack(t, 2000, { signers: [trimming] })).forgeriesLookedUp.length > 0)
})
