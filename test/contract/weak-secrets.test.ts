// Secrets of people who forgot to substitute.
/* eslint-disable no-template-curly-in-string */
import { randomBytes } from 'node:crypto'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import tokensPlugin from '../../lib/index.js'
import { SECRET } from '../support/build-host.js'

/** What the start with this secret says: its error, else its warnings. */
async function start (t: Test, secret: string | string[]): Promise<string> {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'warn', stream: { write (line: string) { lines.push((JSON.parse(line) as { msg: string }).msg) } } } })
  t.teardown(() => app.close())
  try {
    await app.register(tokensPlugin, { postgres: 'postgres://localhost/none', secret, enabled: false })
    return lines.join('\n')
  } catch (error) {
    const { code, message } = error as { code: string, message: string }
    return `${code} ${message}`
  }
}

const WEAK: Record<string, string[]> = {
  'has fewer than 8 different characters': [`${'a'.repeat(40)}b`, '0110100110010110100101100110100110010110', 'abcdefgabcegdfabdcegfacbdefgaebcdgf'],
  'repeats a short pattern': ['12345678901234567890123456789012', 'password-Password-password-Password', 'abcdefghijklm'.repeat(3), '00112233445566778899'.repeat(2)],
  'has what a failed substitution or a template leaves': [
    'undefinedundefinedundefinedundefined', 'null-6f1c0e9b5a7d48f2a3c4b5d6e7f80912', '[object Object] 6f1c0e9b5a7d48f2a3c4', '${TOKENS_SECRET}-6f1c0e9b5a7d48f2a3c4', '${TOKENS_SECRET:-} 6f1c0e9b5a7d48f2a3',
    '$(openssl rand -base64 32) and more of it', '{{ .Values.tokens.secret | quote }} of helm', '%TOKENS_SECRET%-6f1c0e9b5a7d48f2a3c4', '$THE_SECRET_THAT_SIGNS_THE_TOKENS_0', '<a random string of 32 characters>',
    'changeme-changeme-changeme-changeme', 'CHANGE_ME 6f1c0e9b5a7d48f2a3c4b5d6e7', 'replace-this-6f1c0e9b5a7d48f2a3c4b5d6', 'your super secret 6f1c0e9b5a7d48f2a3'
  ]
}

t.test('a secret that is easily guessed does not start a host, and the sentence says why', async t => {
  for (const [why, secrets] of Object.entries(WEAK)) {
    for (const secret of secrets) {
      const said = await start(t, secret)
      t.match(said, /^MMC_TOKENS_INVALID_OPTION option "secret" must be a string of at least 32 random bytes/, secret)
      t.ok(said.endsWith(`, and the first ${why}`), said)
      t.notOk(said.includes(secret))
    }
  }
})

t.test('one that is weak can be replaced: after the first it is taken, and warned of', async t => {
  for (const [why, [secret = '']] of Object.entries(WEAK)) {
    t.equal(await start(t, [SECRET, secret, `fresh ${SECRET}`]), `secret 2 of the option "secret" ${why}, so that it may be guessed: remove it once the tokens that it signed are replaced`)
  }
  t.equal(await start(t, [SECRET, `fresh ${SECRET}`]), '')
})

t.test('random secrets start a host: hexadecimal, base64, base64url, and decimal ones but for two in a thousand', async t => {
  for (const encoding of ['hex', 'base64', 'base64url'] as const) {
    for (let n = 0; n < 50; n++) t.equal(await start(t, randomBytes(encoding === 'hex' ? 16 : 32).toString(encoding)), '')
  }
  t.equal(await start(t, '31415926535897932384626433832795'), '')
})
