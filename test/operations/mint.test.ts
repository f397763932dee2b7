import { mkdir, rm, writeFile } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { OptionsSchema } from '../../schemas/options.js'
import { bearer, buildHost, SECRET } from '../support/build-host.js'

let runs = 0

/** Runs the command with these arguments, in this process, so that its coverage counts. */
async function run (t: Test, args: string[], secret: string | null = SECRET) {
  const { argv, env, exitCode } = process
  t.teardown(() => Object.assign(process, { argv, env, exitCode }))
  Object.assign(process, { argv: ['node', 'bin.js', ...args], env: { ...env, TOKENS_SECRET: secret ?? undefined } })
  const [out, err] = [t.capture(console, 'log'), t.capture(console, 'error')]
  await import(`../../lib/bin.js?${++runs}`)
  const [said, complaint] = [out, err].map(to => to().map(({ args }) => String(args[0])).join('\n'))
  const result = { said, complaint, code: process.exitCode ?? 0 }
  process.exitCode = 0
  return result
}

const VIEWER = ['mint', '--name', 'ci', '--role', 'viewer', '--valid-until', '2099-01-01T00:00:00Z']

t.test('a token that the command mints works in a host that is given its entry', async t => {
  const { said = '', code } = await run(t, VIEWER)
  const { token, entry } = JSON.parse(said) as { token: string, entry: object }
  t.equal(code, 0)
  const bootstrap = `.data/mint-${process.pid}.json`
  t.teardown(() => rm(bootstrap))
  await mkdir('.data', { recursive: true })
  await writeFile(bootstrap, JSON.stringify([entry]))
  const { app } = await buildHost(t, { tokens: { bootstrap, bootstrapStrict: true } })
  t.equal((await app.inject({ url: '/api/viewer', headers: bearer(token) })).statusCode, 200)
})

t.test("it takes the host's issuer and roles, by default those of the options", async t => {
  const claims = async (...args: string[]): Promise<unknown> => {
    const { token = '' } = JSON.parse((await run(t, [...VIEWER, ...args])).said ?? '') as { token?: string }
    return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
  }
  t.match(await claims(), { role: 'viewer', iss: OptionsSchema.properties.issuer.default as string })
  t.match(await claims('--issuer', 'me', '--role', 'robot', '--roles', 'admin,robot'), { role: 'robot', iss: 'me' })
})

t.test('it takes the secret from TOKENS_SECRET alone, and never shows it', async t => {
  const given = await run(t, [...VIEWER, `--secret=${SECRET}`], null)
  t.match(given, { said: '', complaint: /Unknown option '--secret'[^]*environment variable TOKENS_SECRET/, code: 1 })
  t.notMatch(given.complaint, SECRET)
  t.match(await run(t, VIEWER, null), { said: '', complaint: /^Set the environment variable TOKENS_SECRET/, code: 1 })
  const weak = await run(t, VIEWER, 'changeme-changeme-changeme-changeme')
  t.match(weak, { said: '', complaint: /^option "secret" must be .*a placeholder/, code: 1 })
  t.notMatch(weak.complaint, 'changeme-')
})

t.test('a value in several arguments is refused, instead of a token with the first of them', async t => {
  for (const args of [
    ['mint', '--name', 'my', 'token', ...VIEWER.slice(3)], [...VIEWER, 'mint'], ['mint', ...VIEWER], [...VIEWER, '']
  ]) {
    t.match(await run(t, args), { said: '', complaint: /^Write each value as one argument, .*\n\nUsage: /, code: 1 })
  }
  t.match(await run(t, [...VIEWER.slice(1), 'mint']), { complaint: '', code: 0 })
})

t.test('invalid arguments are named, with the usage; --help prints it', async t => {
  for (const [args, complaint] of [
    [[], /^There is one command: mint\n\nUsage: /],
    [['list'], /^There is one command: mint/],
    [VIEWER.slice(0, 3), /^validUntil must be a time in the future/],
    [[...VIEWER, '--role', 'robot'], /^role must be one of admin, /],
    [[...VIEWER, '--name', ''], /^name must be a string /]
  ] as const) {
    t.match(await run(t, [...args]), { said: '', complaint, code: 1 })
  }
  t.match(await run(t, ['--help']), { said: /^Usage: /, complaint: '', code: 0 })
})
