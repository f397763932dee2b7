/**
 * A bug that a test plants in a copy of a source, to see itself fail. What it replaces must stand there exactly once.
 */
export type Bug = ReadonlyArray<readonly [file: string, from: string, to: string]>

const listener = 'lib/store/listener.ts'
const lease = 'lib/store/lease.ts'
const line = 'lib/store/listening-connection.ts'
const postgres = 'lib/store/postgres.ts'
const connection = 'lib/store/connection.ts'
const rules = 'lib/tokens/tokens.ts'
const audit = 'lib/operations/audit.ts'

export const BUGS = {
  'the cache is believed without a lease': [[listener, 'current?.line.isHeld(at, date) === true', 'at !== null']],
  'a lease counts from when the beat was heard': [
    [lease, 'until = newest.sent + LEASE', 'until = performance.now() + LEASE'],
    [lease, 'untilDate = newest.sentDate + LEASE', 'untilDate = Date.now() + LEASE'],
    // Which also ends it in time.
    [line, 'inTime(send(query), SILENCE)', 'inTime(send(query), 10 * SILENCE)']
  ],
  'the answer to the question is taken for a proof': [
    [lease, 'open.findLastIndex(({ xmax }) => last >= xmax)', 'open.length - 1'], [
      lease, '      sendAfter(FIRST_BEAT * randomFraction())\n', ''
    ],
    [lease, '      sendAfter(isOwn ? BEAT.own : BEAT.other + BEAT.spread * randomFraction())\n', '']
  ],
  'the answer of the pool is taken for a proof': [
    [postgres, 'listener?.check(first.server_id)', 'Reflect.set(globalThis, "answered", performance.now())'],
    [
      postgres, 'isTrusted: (at, date) => listener?.isTrusted(at, date) === true',
      'isTrusted: () => performance.now() - (Reflect.get(globalThis, "answered") ?? -Infinity) < 2000'
    ],
    // Which also ends it in time.
    [lease, 'beatTimer = setTimeout(onDead, SILENCE,', 'beatTimer = setTimeout(onDead, 10 * SILENCE,']
  ],
  'a connection is taken to hear before anything was heard': [[
    line, "if (state === 'connecting') state = 'waiting'",
    "state = 'hearing'\n      lease.start()\n      setTimeout(onHearing, 500)"
  ]],
  'a node never steps in': [
    [lease, 'sendAfter(isOwn ? BEAT.own : BEAT.other + BEAT.spread * randomFraction())', 'sendAfter(isOwn ? BEAT.own : 2 ** 30)']
  ],
  'every node beats': [
    [lease, 'sendAfter(isOwn ? BEAT.own : BEAT.other + BEAT.spread * randomFraction())', 'if (isOwn) sendAfter(BEAT.own)']
  ],
  'the cache is kept when the connection is replaced': [
    [listener, "      handle(CHANNEL, '*')\n", ''], [
      listener, "    if (held.heldAt === undefined) handle(CHANNEL, '*')\n", ''
    ]
  ],
  'a token of the future is refused': [[
    rules, 'if (now >= known.expiresAt)',
    'if (now < Date.parse(known.token.issueDate)) return { ...EXPIRED, token: known.token }\n    if (now >= known.expiresAt)'
  ]],
  'a lookup stores what it read before the revocation': [
    ['lib/tokens/cache.ts', 'if (!isStale) entries.set', 'entries.set']
  ],
  'the node that revokes waits for its notification': [
    [rules, 'cache.forget(hash)\n        connections.end(hash)', 'connections.end(hash)']
  ],
  'a call may take 5 s': [['lib/store/deadline.ts', 'const DEADLINE = 900', 'const DEADLINE = 5000']],
  'nobody listens to the errors of a pool': [[connection, "pool.on('error', onError)", '']],
  'an error of the database is a 401': [
    [rules, 'await store.find(hash)\n', 'await store.find(hash).catch(() => null)\n']
  ],
  'a standby is believed': [[postgres, "first.is_standby !== 'false'", 'first === undefined']],
  'a failed insert is a 200': [
    [rules, '!await store.insert(token, origin)', '!await store.insert(token, origin).catch(() => true)']
  ],
  'a failed delete is a 200': [
    [rules, 'await store.remove(hash, origin)', 'await store.remove(hash, origin).catch(() => false)']
  ],
  'a token is answered first, and stored afterwards': [[
    rules, 'if (!await store.insert(token, origin)) throw new ConflictError()',
    'setTimeout(() => { store.insert(token, origin).catch(() => {}) }, 1000)'
  ]],
  'a revocation is answered first, and stored afterwards': [[
    rules, 'const wasRemoved = await store.remove(hash, origin)',
    'setTimeout(() => { store.remove(hash, origin).catch(() => {}) }, 1000)\n        const wasRemoved = true'
  ]],
  'a request without a credential asks Postgres': [[
    'lib/http/authenticate.ts', 'if (!state?.credential || state.judged > 0) {\n      done()',
    'if (!state?.credential) {\n      tokens.list()[Symbol.asyncIterator]().next().then(() => { done() }, done)'
  ]],
  'an event leaves the outbox before it is reported': [[
    audit, '    try {\n      if (attempts === 0',
    '    await store.dropEvents([event.id])\n    try {\n      if (attempts === 0'
  ]],
  'what fails is not retried': [[audit, 'if (attempts < ATTEMPTS)', 'if (attempts < 0)']],
  'who acts is not said': [['lib/store/writes.ts', "['node', actor,", "['node', null,"]],
  'all secrets make one key': [
    ['lib/tokens/jwt.ts', "secret, '', 'fastify-mmc-tokens', 32", "'one for all', '', 'fastify-mmc-tokens', 32"]
  ]
} satisfies Record<string, Bug>

export type BugName = keyof typeof BUGS
