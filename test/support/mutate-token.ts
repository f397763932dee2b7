import { createHmac } from 'node:crypto'

/** A whole number from 0 on, less than `below`. */
export type Random = (below: number) => number

/** The same numbers for the same seed (mulberry32). */
export function createRandom (seed: number): Random {
  let state = seed | 0
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32 * below)
  }
}

export interface Mutation {
  /** What was done, by name. */
  kind: string
  credential: string
}

const ALPHABET = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_']
/** Characters that some reader somewhere takes for nothing, for an end or for another one. */
const STRANGE = [
  ' ', '\t', '\n', '\r', '\r\n', '\0', '\x0b', '\u00a0', '\u200b', '\ufeff', '=', '==', '.', '+', '/', '%', ',', ';',
  '&', '#', '"', '\\', 'é', 'ſ', '%00', '%2E', '%0a'
]

const base64url = (text: string): string => Buffer.from(text).toString('base64url')

/** Every way to say `none` in letters. */
const NONE = Array.from({ length: 16 }, (_, bits) => [...'none'].map((letter, n) =>
  bits >> n & 1 ? letter.toUpperCase() : letter).join(''))
const ALGORITHMS = [
  '', 'hs256', 'Hs256', 'HS256 ', 'HS384', 'HS512', 'RS256', 'PS256', 'ES256', 'EdDSA', 'HS256\0', ['HS256'], null, 0,
  true, {}
]
const KEY_IDS = [
  '0', 'mmcTokens0', '../../../../dev/null', "' OR 1=1 --", '$(id)', '__proto__', 'constructor', '\0', '', 0, null, {},
  ['0']
]
const EXTRAS = [
  ...KEY_IDS.map(kid => ({ kid })),
  ...[['exp'], ['b64'], ['alg'], ['x', 'x'], [], 'exp', 0, null, [null]].map(crit => ({ crit })),
  { b64: false, crit: ['b64'] }, { exp: 1, crit: ['exp'] }, {
    jku: 'http://127.0.0.1/keys'
  }, { x5u: 'file:///dev/null' }, { jwk: { kty: 'oct', k: '' } }, { zip: 'DEF' }, { cty: 'JWT' }, { iss: 'cedalo' }
]
const HEADERS = [
  ...[...NONE, ...ALGORITHMS].map(alg => JSON.stringify({ alg, typ: 'JWT' })),
  ...EXTRAS.map(extra => JSON.stringify({ alg: 'HS256', typ: 'JWT', ...extra })),
  '{"typ":"JWT","alg":"HS256"}', '{"alg":"HS256"}', '{"alg":"HS256","typ":"jwt"}', '{"alg":"HS256","typ":"at+jwt"}', '{"alg":"HS256","typ":"JWT"} ', '{"alg": "HS256", "typ": "JWT"}',
  '{"alg":"none","alg":"HS256","typ":"JWT"}', '{"alg":"HS256","alg":"none","typ":"JWT"}', '{"alg":"HS256","typ":"JWT","__proto__":{"alg":"none"}}', '{"\\u0061lg":"HS256","typ":"JWT"}',
  '{}', '[]', 'null', '"HS256"', '', '{', '[{"alg":"HS256","typ":"JWT"}]', '\ufeff{"alg":"HS256","typ":"JWT"}'
]

/** Payloads from the claims of a token, in JSON, some of it broken or of another kind. */
function editPayload (json: string, pick: <T>(from: readonly T[]) => T): string {
  const claims = JSON.parse(json) as Record<string, unknown>
  const names = Object.keys(claims)
  const name = pick(names)
  const value = pick([
    '1e999', '-1e999', '1e308', '-1', '0', '99999999999', '99999999999.5', 'null', 'true', '"never"', '"admin"',
    '"cedalo"', '["cedalo"]', '["admin"]', '{}', '[]', '{"$ne":null}', '"cedalo\\u0000"', '" cedalo"', '"Cedalo"'
  ])
  const member = `${JSON.stringify(name)}:${value}`
  return pick([
    () => `{${member},${json.slice(1)}`,
    () => `${json.slice(0, -1)},${member}}`,
    () => json.replace(new RegExp(`"${name}":("[^"]*"|\\d+)`), () => member),
    () => JSON.stringify(Object.fromEntries(Object.entries(claims).filter(([key]) => key !== name))),
    () => JSON.stringify(Object.fromEntries(Object.entries(claims).sort(() => pick([-1, 1])))),
    () =>
      `${json.slice(0, -1)},${pick(['"nbf":99999999999', '"aud":"other"', '"sub":"root"', '"roles":["admin"]', '"__proto__":{"role":"admin"}', '"constructor":{"prototype":{}}', '"":0'])}}`,
    () => pick([
      'null', '[]', '[null]', '{}', '1', 'true', '"cedalo"', '', '{', `[${json}]`, `{"iss":"cedalo","claims":${json}}`,
      '{"iss":"cedalo"}', 'NaN', 'undefined'
    ]),
    () => pick([
      `${json} `, ` ${json}`, `\ufeff${json}`, `${json}\0`, json + json, json.replace(':', ' : '),
      json.replace('"role"', '"\\u0072ole"'), json.replaceAll('"', "'"), json.replace('}', ',}')
    ])
  ])()
}

/**
 * Makes strings that are none of `tokens`, each from one of them: by accident, by an attacker, and, rarely since each
 * may cost a lookup, by somebody who has the key.
 */
export function createMutator (random: Random, tokens: readonly string[], key: Buffer): () => Mutation {
  const known = new Set(tokens)
  const pick = <T>(from: readonly T[]): T => from[random(from.length)] as T
  const sign = (input: string, algorithm = 'sha256', secret: Buffer | string = key): string =>
    `${input}.${createHmac(algorithm, secret).update(input).digest('base64url')}`
  const isRare = (): boolean => random(12) === 0

  function splice (text: string, change: (character: string) => string, from = 0): string {
    const at = from + random(text.length - from)
    return text.slice(0, at) + change(text.charAt(at)) + text.slice(at + 1)
  }
  /** A signature for these two parts, as somebody may come by one. */
  function finish (input: string, signature: string): string {
    if (isRare()) return sign(input)
    return pick([() => `${input}.${signature}`, () => `${input}.`, () => input, () => sign(input, 'sha512'), () =>
      sign(input, 'sha256', 'x'), () => sign(input, 'sha256', '')])()
  }

  const kinds: Record<string, (token: string) => string> = {
    'a bit': token => splice(token, character => String.fromCharCode(character.charCodeAt(0) ^ (1 << random(8)))),
    'several bits': token => {
      for (let n = random(8); n >= 0; n--) {
        token = splice(token, character =>
          String.fromCharCode(character.charCodeAt(0) ^ (1 << random(6))))
      }
      return token
    },
    'a character': token => splice(token, () => pick(ALPHABET)),
    "the signature's last group": token => splice(token, () => pick(ALPHABET), token.length - 3),
    'the last character': token => splice(token, () => pick(ALPHABET), token.length - 1),
    'a character less': token => splice(token, () => ''),
    'a character more': token => splice(token, character => character + pick(ALPHABET)),
    'the case of one': token => splice(token, character =>
      character === character.toLowerCase() ? character.toUpperCase() : character.toLowerCase()),
    'the case of all': token => pick([token.toLowerCase(), token.toUpperCase()]),
    'cut off': token => pick([token.slice(0, random(token.length)), token.slice(1 + random(token.length - 1))]),
    'what looks like nothing, within': token => splice(token, character => pick([
      character + pick(STRANGE), pick(STRANGE) + character
    ])),
    'what looks like nothing, around': token => pick([
      `${token}${pick(STRANGE)}`, `${pick(STRANGE)}${token}`, `${pick(STRANGE)}${token}${pick(STRANGE)}`
    ]),
    'parts padded': token => token.split('.').map(part => part + pick(['', '=', '==', '==='])).join('.'),
    'another alphabet': token => pick([
      token.replaceAll('-', '+').replaceAll('_', '/'), Buffer.from(token).toString('base64'),
      Buffer.from(token).toString('hex'), encodeURIComponent(token).replaceAll('.', '%2E')
    ]),
    'parts moved': token => {
      const parts = token.split('.')
      return Array.from({ length: 1 + random(5) }, () => pick(parts)).join('.')
    },
    'two tokens in one': token => {
      const [header, payload, signature] = token.split('.')
      const other = pick(tokens)
      const [, otherPayload, otherSignature] = other.split('.')
      return pick([
        `${token}${other}`, `${token}.${other}`, `${token},${other}`, `${token} ${other}`,
        `${header}.${payload}.${otherSignature}`, `${header}.${otherPayload}.${signature}`,
        `${header}.${payload}.${signature}${otherSignature}`
      ])
    },
    'another header': token => {
      const [, payload, signature = ''] = token.split('.')
      return finish(`${base64url(pick(HEADERS))}.${payload}`, signature)
    },
    'another payload': token => {
      const [header, payload = '', signature = ''] = token.split('.')
      return finish(
        `${header}.${base64url(editPayload(Buffer.from(payload, 'base64url').toString(), pick))}`, signature
      )
    },
    'another header and payload': token => {
      const [, payload = '', signature = ''] = token.split('.')
      return finish(
        `${base64url(pick(HEADERS))}.${base64url(editPayload(Buffer.from(payload, 'base64url').toString(), pick))}`,
        signature
      )
    }
  }
  const entries = Object.entries(kinds)

  return () => {
    for (;;) {
      const [kind, change] = pick(entries)
      const credential = change(pick(tokens))
      if (!known.has(credential)) return { kind, credential }
    }
  }
}
