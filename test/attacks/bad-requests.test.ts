import { createRequire } from 'node:module'
import { type AddressInfo, connect } from 'node:net'
import fc from 'fast-check'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { FORGED } from '../support/bare-host.js'
import { bearer, buildHost } from '../support/build-host.js'

const SEED = Number(process.env.SEED ?? 1)
const NAUGHTY = createRequire(import.meta.url)('big-list-of-naughty-strings') as string[]
const FUTURE = '2999-01-01T00:00:00Z'

/**
 * Sends bytes as they are, and reads until the server hangs up; status 0 where it did so before its answer could be
 * read.
 */
async function send (port: number, bytes: string): Promise<{ status: number, body: string }> {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on(
    'data', (chunk: string) => { answer += chunk }
  ).on('error', () => {}).write(bytes, 'latin1')
  await new Promise(resolve => socket.on('close', resolve))
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2)
  return { status: Number(head.slice(9, 12)), body }
}

const get = (target: string, headers: string[] = []): string =>
  `${[`GET ${target} HTTP/1.1`, 'Host: here', 'Connection: close', ...headers].join('\r\n')}\r\n\r\n`

async function createSubject (t: Test, fastify?: FastifyServerOptions) {
  const host = await buildHost(t, { ...fastify && { fastify } })
  await host.app.listen({ port: 0, host: '127.0.0.1' })
  return { ...host, port: (host.app.server.address() as AddressInfo).port }
}

const encode = (part: string): string => [...part].map(character =>
  `%${character.charCodeAt(0).toString(16).padStart(2, '0')}`).join('')
const decode = (part: string): string => {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

/** What the contract says of credentials, in a few lines: those of ours, of all that are presented. */
function readCredentials (target: string, authorizations: string[]): string[] {
  const [, query = ''] = /\?(.*)$/.exec(target) ?? []
  const inQuery = query.split('&').map(pair => /^([^=]*)=?(.*)$/.exec(pair)?.slice(1).map(part =>
    decode(part.replaceAll('+', ' '))) ?? []).filter(([key]) => key === 'token').map(([, value = '']) => value)
  const bearers = authorizations.flatMap(value => value.split(',')).map(part =>
    part.replace(/^[ \t]+|[ \t]+$/g, '').split(/ +/))
    .filter(([scheme, token = '', ...more]) =>
      scheme?.toLowerCase() === 'bearer' && /^\S+$/.test(token) && more.length === 0).map(([, token = '']) => token)
  const inHeaders = bearers.filter(isOurs)
  // One of ours beside any other is several.
  return [...inHeaders, ...bearers.length > 1 ? inHeaders.slice(0, 1) : [], ...inQuery.filter(isOurs)]
}

function isOurs (credential: string): boolean {
  try {
    return /^[\w-]+\.[\w-]+\.[\w-]*$/.test(credential) && (JSON.parse(Buffer.from(credential.split('.')[1] ??
      '', 'base64url').toString()) as { iss?: unknown }).iss === 'cedalo'
  } catch {
    return false
  }
}

type Principal = { username: string, roles: string[] } | null

/** What `path` answers to this principal; the error of a credential comes before anything else. */
function expect (path: string, ours: string[], known: Map<string, Principal>, session: Principal): [
  status: number, profile?: Principal
] {
  if (ours.length > 1) return [400]
  const principal = ours.length === 0 ? session : known.get(ours[0] ?? '') ?? null
  if (ours.length === 1 && principal === null) return [401]
  if (path === '/nothing/here') return [404]
  if (principal === null) return [401]
  if (path === '/api/profile') return [200, principal]
  const roles = { '/api/tokens': ['admin'], '/api/editor': ['admin', 'editor'] }[path] ?? []
  return [roles.some(role => principal.roles.includes(role)) ? 200 : 403]
}

/** Requests with anything that looks like a credential, anywhere, over a socket, against the reference. */
async function tryCredentials (t: Test, numRuns: number, fastify?: FastifyServerOptions): Promise<Map<number, number>> {
  const { issue, login, port } = await createSubject(t, fastify)
  const known = new Map<string, Principal>()
  for (const role of ['viewer', 'admin']) {
    known.set((await issue({ name: role, role })).token, {
      username: `token:${role}`, roles: [role]
    })
  }
  const [viewer = '', admin = ''] = known.keys()
  const { cookie } = await login('editor')
  const counts = new Map<number, number>()

  const credential = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(viewer, admin) },
    fc.constantFrom(FORGED, `${viewer.slice(0, -1)}.`, `${viewer}x`, viewer.slice(0, viewer.lastIndexOf('.') +
      1), 'eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJvdGhlciJ9.AAAA', 'opaque', '', '%00', '%ZZ', '%', '"', `${admin},${viewer}`)
  )
  const key = fc.oneof({ weight: 3, arbitrary: fc.constant('token') }, fc.constantFrom(
    '%74oken',
    encode('token'),
    'tok%65n',
    'Token',
    'TOKEN',
    'token[]',
    'token%5B%5D',
    'token[0]',
    'token.a',
    'token%00',
    'token%20',
    '+token',
    'token%ZZ',
    'tokens',
    'a',
    '',
    '__proto__',
    'constructor',
    '%74%6Fken%',
    'token%3D',
    'a%26token'
  ))
  const value = fc.tuple(
    fc.constantFrom('', '', '', '', '%00', '%ZZ', '+', '%20', '#', '?token=', '=', '%0a'),
    credential,
    fc.constantFrom((text: string) => text, (text: string) => text, encode),
    fc.constantFrom('', '', '', '', '%00', '%ZZ', '+', ';', '#', '%')
  ).map(([before, text, write, after]) => before + write(text) + after)
  const query = fc.array(
    fc.tuple(key, fc.constantFrom('=', '=', '=', '', '=='), value).map(parts => parts.join('')), { maxLength: 3 }
  ).map(pairs => pairs.length > 0 ? `?${pairs.join('&')}` : '')
  const scheme = fc.constantFrom(
    'Bearer ', 'Bearer ', 'bearer ', 'BEARER   ', 'Bearer', 'Bearer\t', 'Basic ', 'Token ', '', ' Bearer ', '"Bearer" '
  )
  const authorization = fc.tuple(
    scheme, credential, fc.constantFrom('', '', '', ' ', ' x', ', Bearer x', '\xa0')
  ).map(parts => parts.join(''))
  const path = fc.constantFrom('/api/profile', '/api/editor', '/api/tokens', '/nothing/here')

  await fc.assert(fc.asyncProperty(path, query, fc.array(
    authorization, { maxLength: 2 }
  ), fc.boolean(), async (path, query, authorizations, hasSession) => {
    const target = path + query
    const [status, profile] = expect(path, readCredentials(target, authorizations), known, hasSession
      ? { username: 'editor', roles: ['editor'] }
      : null)
    const answer = await send(port, get(target, [
      ...authorizations.map(value => `Authorization: ${value}`), ...hasSession ? [`Cookie: ${cookie}`] : []
    ]))
    if (answer.status !== status) throw new Error(`${answer.status}, not ${status}`)
    if (profile !== undefined &&
      answer.body !== JSON.stringify(profile)) throw new Error(`${answer.body}, not ${JSON.stringify(profile)}`)
    counts.set(status, (counts.get(status) ?? 0) + 1)
  }), { numRuns, seed: SEED })
  return counts
}

t.test('credentials in every place, spelling and number are handled as the contract says', async t => {
  t.comment(`SEED=${SEED}`)
  const counts = await tryCredentials(t, 1500)
  t.ok([200, 400, 401, 403, 404].every(status => (counts.get(status) ?? 0) > 20), JSON.stringify([...counts]))
})

t.test('the same requests detect a host that reads the last of two parameters, and one that drops parts of a URL', async t => {
  await t.rejects(tryCredentials(t, 1500, {
    routerOptions: { querystringParser: text => Object.fromEntries(new URLSearchParams(text)) }
  }))
  await t.rejects(tryCredentials(t, 1500, { rewriteUrl: ({ url = '' }) => url.replace(/%00|%ZZ|%20|\+|\[\]/g, '') }))
})

t.test('a path is malformed, too long, an existing hash or not found, never anything else', async t => {
  const { issue, port } = await createSubject(t)
  const { token } = await issue({ role: 'admin' })
  const { hash } = await issue()
  const piece = fc.constantFrom(
    '%00',
    '%ZZ',
    '%',
    '%2F',
    '%2e%2e%2f',
    '..',
    '.',
    ';',
    "'",
    '*',
    ':',
    '$',
    '%E0%A4%A',
    '%C0%80',
    '%f0%9f%98%80',
    '%23',
    '%3F',
    '+',
    '%20',
    hash,
    hash.toUpperCase(),
    encode(hash),
    'x'.repeat(300),
    '__proto__',
    'a'
  )
  await fc.assert(fc.asyncProperty(fc.oneof(
    piece, fc.array(piece, { minLength: 1, maxLength: 3 }).map(pieces => pieces.join(''))
  ), async segment => {
    const { status } = await send(port, get(`/api/tokens/${segment}`, [`Authorization: Bearer ${token}`]))
    const decoded = /%(?![\da-f]{2})/i.test(segment) ||
      (decode(segment) === segment && segment.includes('%'))
      ? null
      : decode(segment)
    const known = decoded?.toLowerCase() === hash ? 200 : 404
    const expected = decoded === null ? 400 : decoded.length > 100 ? 414 : known
    if (status !== expected) throw new Error(`${status}, not ${expected}`)
  }), { numRuns: 500, seed: SEED })
})

t.test('a body of any kind and content type is 200, 400 or 415, and is read as JSON.parse reads it', async t => {
  const { app, login } = await buildHost(t)
  const session = await login()
  const member = fc.tuple(fc.constantFrom(
    'name', 'role', 'validUntil', 'extra', '__proto__', 'constructor', 'toString'
  ), fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom('"admin"', `"${FUTURE}"`) },
    fc.json(),
    fc.constantFrom('1e999', '{"prototype":{}}', '[[[[]]]]', '"\\u0000"', '"\\ud800"', '')
  )).map(
    ([key, value]) => `"${key}":${value}`
  )
  const whole = fc.array(member, { maxLength: 4 }).map(members =>
    `{"name":"a","role":"viewer","validUntil":"${FUTURE}"${members.map(text => `,${text}`).join('')}}`)
  const body = fc.oneof({ weight: 3, arbitrary: whole }, fc.json(), fc.string(), fc.constantFrom(
    '',
    '{',
    '[]',
    'null',
    `\ufeff{"name":"a","role":"viewer","validUntil":"${FUTURE}"}`,
    '['.repeat(50_000),
    '{"a":'.repeat(5000),
    'name=a&role=admin'
  ))
  const type = fc.oneof({
    weight: 4, arbitrary: fc.constantFrom('application/json', 'application/json; charset=utf-8', 'Application/JSON')
  },
  fc.constantFrom(
    undefined,
    '',
    'text/plain',
    'text/json',
    'application/jsonp',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/vnd.api+json',
    'application/octet-stream',
    'garbage',
    ';',
    'application/json, text/plain',
    ...NAUGHTY.filter(text => /^[\x20-\x7e]+$/.test(text))
  ))
  const counts = new Map<number, number>()

  await fc.assert(fc.asyncProperty(type, body, async (type, payload) => {
    const answer = await app.inject({
      method: 'POST',
      url: '/api/tokens',
      headers: { ...session, ...type !== undefined && { 'content-type': type } },
      payload
    })
    const [status, name] = readBody(type, payload)
    if (answer.statusCode !== status) throw new Error(`${answer.statusCode}, not ${status}: ${answer.payload}`)
    if (status === 200) {
      const record = answer.json<{ name: string, hash: string }>()
      await app.tokens.revoke(record.hash)
      if (record.name !== name) throw new Error(`${record.name}, not ${name}`)
    }
    counts.set(status, (counts.get(status) ?? 0) + 1)
  }), { numRuns: 1000, seed: SEED })
  t.ok([200, 400, 415].every(status => (counts.get(status) ?? 0) > 20), JSON.stringify([...counts]))
})

/** What a body means. */
function readBody (type: string | undefined, text: string): [status: number, name?: string] {
  if (type === undefined ? text !== '' : !/^\s*application\/json\s*(;|$)/i.test(type)) return [415]
  try {
    let isPoisoned = false
    const body = JSON.parse(text.replace(/^\ufeff/, ''), (key, value: { prototype?: unknown } | null) => {
      isPoisoned ||= key === '__proto__' ||
        (key === 'constructor' && typeof value === 'object' && value !== null && Object.hasOwn(value, 'prototype'))
      return value
    }) as { name?: unknown, role?: unknown, validUntil?: unknown } | null
    const { name, role, validUntil } = body ?? {}
    if (isPoisoned || typeof name !== 'string' || !['admin', 'viewer'].includes(String(role)) ||
      typeof role !== 'string' || validUntil !== FUTURE) return [400]
    const trimmed = name.trim()
    return trimmed === '' || !trimmed.isWellFormed() || /\p{Cc}/u.test(trimmed) ||
      [...trimmed].length > 255
      ? [400]
      : [200, trimmed]
  } catch {
    return [400]
  }
}

t.test('every naughty string as a name is a 400 or returned equal after trimming, also as the name of a user', async t => {
  const { app, login } = await buildHost(t)
  const headers = await login()
  const counts: Record<number, number> = { 200: 0, 400: 0 }
  for (const name of [...NAUGHTY, ...NAUGHTY.map(text => `\u00a0${text}\n`)]) {
    const created = await app.inject({
      method: 'POST', url: '/api/tokens', headers, payload: { name, role: 'viewer', validUntil: FUTURE }
    })
    counts[created.statusCode] = (counts[created.statusCode] ?? 0) + 1
    if (created.statusCode === 400) continue
    const { token, hash } = created.json<{ token: string, hash: string }>()
    const read = (await app.inject({ url: `/api/tokens/${hash}`, headers })).json<{ name: string }>()
    const profile = (await app.inject({ url: '/api/profile', headers: bearer(token) })).json<{ username: string }>()
    if (read.name !== name.trim() || profile.username !== `token:${name.trim()}`) {
      t.strictSame(
        [read.name, profile.username], [name.trim(), `token:${name.trim()}`]
      )
    }
    await app.tokens.revoke(hash)
  }
  t.strictSame(Object.keys(counts), ['200', '400'], JSON.stringify(counts))
  t.ok((counts[200] ?? 0) > NAUGHTY.length)
})

t.test('headers of a mebibyte are refused by Node.js with 431, and the host keeps working', async t => {
  const { issue, port } = await createSubject(t)
  const { token } = await issue()
  /** Node hangs up in the middle of what we send, which may hide its answer. */
  const refusal = async (bytes: string): Promise<number> => {
    for (;;) {
      const { status } = await send(port, bytes)
      if (status !== 0) return status
    }
  }
  const large = 'x'.repeat(1024 * 1024)
  for (const headers of [
    [`Authorization: Bearer ${token}`, `X-Large: ${large}`], [`Authorization: Bearer ${large}`],
    [`Cookie: mmc=${large}`], Array.from({ length: 1024 }, (_, n) => `X-${n}: ${'x'.repeat(1024)}`)
  ]) {
    t.equal(await refusal(get('/api/viewer', headers)), 431)
  }
  t.equal(await refusal(get(`/api/viewer?token=${large}`)), 431)
  t.equal((await send(port, get('/api/viewer', [`Authorization: Bearer ${token}`]))).status, 200)
})
