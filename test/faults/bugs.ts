/** A bug that a test plants in a copy of a source, to see itself fail. `from` must stand there exactly once. */
export interface Bug { file: string, from: string, to: string }

const revocations = 'lib/store/revocations.ts'
const connection = 'lib/store/connection.ts'
const rules = 'lib/tokens/tokens.ts'

export const BUGS = {
  'the cache is believed without a lease': { file: revocations, from: 'return performance.now() < trustedUntil', to: 'return true' },
  'a token of the future is refused': { file: rules, from: 'if (now >= known.endsAt)', to: "if (now < Date.parse(known.token.issueDate)) return new InvalidTokenError({ cause: 'not yet' })\n    if (now >= known.endsAt)" },
  'a heartbeat proves that Postgres answers, not that it is heard': { file: revocations, from: 'notify(ownChannel, id).catch(', to: 'notify(ownChannel, id).then(() => { prove(id) }).catch(' },
  'the cache is kept when the connection is replaced': { file: revocations, from: 'listener.clear()\n      beat', to: 'beat' },
  'a lookup stores what it read before the revocation': { file: 'lib/tokens/cache.ts', from: 'if (!isStale) entries.set', to: 'entries.set' },
  'the node that revokes waits to hear of it': { file: rules, from: 'cache.forget(hash)', to: '' },
  'a call may take 5 s': { file: connection, from: 'const DEADLINE = 900', to: 'const DEADLINE = 5000' },
  'nobody listens to the errors of a pool': { file: connection, from: "pool.on('error', onError)", to: '' },
  'an error of the database is a 401': { file: rules, from: 'const token = await store.find(hash)\n    return token && toKnown', to: 'const token = await store.find(hash).catch(() => null)\n    return token && toKnown' },
  'a standby is believed': { file: 'lib/store/postgres.ts', from: "row.is_standby !== 'false'", to: 'row === undefined' },
  'a failed insert is a 200': { file: rules, from: '!await store.insert(token)', to: '!await store.insert(token).catch(() => true)' },
  'a failed delete is a 200': { file: rules, from: 'await store.remove(hash, origin)', to: 'await store.remove(hash, origin).catch(() => false)' },
  'a token is answered first, and stored afterwards': { file: rules, from: 'if (!await store.insert(token)) throw new ConflictError()', to: 'setTimeout(() => { store.insert(token).catch(() => {}) }, 1000)' },
  'a revocation is answered first, and stored afterwards': { file: rules, from: 'const isEnded = await store.remove(hash, origin)', to: 'setTimeout(() => { store.remove(hash, origin).catch(() => {}) }, 1000)\n        const isEnded = true' },
  'a request without a credential asks Postgres': { file: 'lib/http/authenticate.ts', from: 'if (presented === null) {\n      done()', to: 'if (presented === null) {\n      tokens.list()[Symbol.asyncIterator]().next().then(() => { done() }, done)' },
  'all secrets make one key': { file: 'lib/tokens/jwt.ts', from: "secret, '', 'fastify-mmc-tokens', 32", to: "'one for all', '', 'fastify-mmc-tokens', 32" }
} satisfies Record<string, Bug>

export type BugName = keyof typeof BUGS
