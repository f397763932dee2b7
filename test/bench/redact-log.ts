/**
 * What redaction adds to a log line of 15 KB that was made to be slow: CPU in microseconds without and with it, and the
 * median and the quartiles of their ratio in rounds of both in turn.
 */
import { parse } from 'fast-querystring'
import pino from 'pino'
import { redactParameter } from '../../lib/http/redact-log.js'
import type { Log } from '../../lib/types.js'
import { showSpread, spread } from './statistics.js'

const SIZE = 15_000
const ROUNDS = 15
const LINES = 150

const encode = (claims: object): string => Buffer.from(JSON.stringify(claims)).toString('base64url')
const token = (iss: string): string =>
  `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ role: 'admin', iat: 1764203000, exp: 4070908800, iss, jti: 'c0ffee00-0000-4000-8000-000000000000' })}.${'S'.repeat(43)}`
const random = (from: number, to: number): string => String.fromCharCode(...Array.from({ length: SIZE }, (_, at) =>
  from + (Math.imul(at + 1, 2654435761) >>> 16) % (to - from)))

/** What is repeated to 15 KB after `/x?`. */
const PIECES = [
  'a', 'id=12345&', '%E3%81%82', '%7B%22a%22%3A1%7D', '&', '?t', 't?', '&%', '&%=', '&%zz=', '&to', '&tok', '&toke', '&toke%', '&token', '&tokens=1',
  '%6', '%65', '%%', '&%74%6f%6b%65%6', '%74%6f%6b%65%6e=', '&token=', '&token=x', '&token=%20', '&token[', '&token[]=', '&token%5b', ';a=b?token=x', 'a=?token=x%20&',
  'a=?token=%20', 'a=?token[%20', '"', '\\', '{"token":', ',"', '\\"token', 'query":{', 'q:', 'qqy', 'rrt', 'rawPacket":{', 'e', 'eJ', 'eyJhbG', 'ciOiJIUz', 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ', 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.',
  token('cedalo'), token('other'), `a=${token('cedalo')}&`, `a=${token('other')}&`, 'a=b&', 'a&'
]

const SHAPES: Record<string, string> = {
  ...Object.fromEntries(PIECES.map(piece => [piece.length > 40
    ? `${piece.slice(0, 6)}…${piece.slice(-3)}`
    : piece, piece.repeat(Math.ceil(SIZE / piece.length)).slice(0, SIZE)])),
  'objects of ?token=x': Array.from({ length: 1500 }, (_, at) =>
    `${at.toString(36)}=?token=x%20`).join('&').slice(0, SIZE),
  'objects of token[': Array.from({ length: 1500 }, (_, at) => `token[${at.toString(36)}]=`).join('&').slice(0, SIZE),
  'one long value': `token=${'a'.repeat(SIZE)}`,
  'one long value of escapes': `token=${'%61'.repeat(SIZE / 3)}`,
  'a token, then a': `token=${token('cedalo')}&${'a'.repeat(SIZE)}`,
  'a token, then &toke': `token=${token('cedalo')}&${'&toke'.repeat(SIZE / 5)}`,
  'a token, then %20': `token=${token('cedalo')}&${'%20'.repeat(SIZE / 3)}`,
  'a token, then %65': `token=${token('cedalo')}&${'%65'.repeat(SIZE / 3)}`,
  'a token, then %25': `token=${token('cedalo')}&${'%25'.repeat(SIZE / 3)}`,
  'a token, then %6': `token=${token('cedalo')}&${'%6'.repeat(SIZE / 2)}`,
  'random letters': random(0x61, 0x7b),
  'random ASCII': random(0x21, 0x7f),
  'random bytes': random(0x21, 0x100),
  'random BMP': random(0x4e00, 0x9fff).slice(0, SIZE / 3)
}

/** What the host's serializer of requests, or a handler, writes of it. */
const HOSTS: Record<string, (text: string) => object> = {
  url: text => ({ method: 'GET', url: `/x?${text}` }),
  query: text => ({ method: 'GET', url: '/x', query: parse(text) }),
  text: text => ({ method: 'GET', url: '/x', query: { a: { 0: text } } }),
  both: text => ({ method: 'GET', url: `/x?${text}`, query: parse(text) }),
  json: text => ({ method: 'GET', text: JSON.stringify({ url: `/x?${text}`, query: { a: text } }) })
}

function createLog (): pino.Logger {
  return pino({ serializers: { req: (request: object) => request } }, pino.destination({
    dest: '/dev/null', sync: true
  }))
}

function cost (log: pino.Logger, req: object): number {
  const before = process.cpuUsage()
  for (let count = 0; count < LINES; count++) log.info({ req }, 'incoming request')
  const { user, system } = process.cpuUsage(before)
  return (user + system) / LINES
}

const [plain, redacted] = [createLog(), createLog()]
redactParameter(redacted as unknown as Log, 'token', 'cedalo')
for (let count = 0; count < 20; count++) cost(redacted, { url: `/x?${SHAPES['random ASCII']}` })
const wanted = process.argv[2]
const worst: Array<[median: number, row: string]> = []
for (const [host, make] of Object.entries(HOSTS)) {
  for (const [shape, text] of Object.entries(SHAPES)) {
    const name = `${host.padEnd(6)} ${shape.padEnd(36)}`
    if (wanted !== undefined && !name.includes(wanted)) continue
    const req = make(text)
    const rounds = Array.from({ length: ROUNDS + 1 }, () => [cost(plain, req), cost(redacted, req)] as const).slice(1)
    const [without, with_] = [0, 1].map(index =>
      spread(rounds.map(round => round[index] as number)).median) as [number, number]
    const ratio = spread(rounds.map(([without, with_]) => with_ / without))
    const row = `${name}${without.toFixed(1).padStart(8)}${with_.toFixed(1).padStart(8)}  ${showSpread(ratio)}`
    console.log(row)
    worst.push([ratio.median, row])
  }
}
console.log(`\nThe worst:\n${worst.sort((a, b) => b[0] - a[0]).slice(0, 12).map(([, row]) => row).join('\n')}`)
