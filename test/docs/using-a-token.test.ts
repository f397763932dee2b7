import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import t from 'tap'
import { buildHost } from '../support/build-host.js'
import { blocksOf } from '../support/docs.js'
import { lacks } from '../support/tools.js'

const PAGE = 'docs/using-a-token.md'
const [variables = '', hash = '', ...curl] = await blocksOf(PAGE, 'sh')
const [node = ''] = await blocksOf(PAGE, 'js')
const [python = ''] = await blocksOf(PAGE, 'python')

const PROGRAMS: Record<string, { needs: string[], file: string, args: string[] }> = {
  curl: { needs: ['curl'], file: 'sh', args: ['-ec', curl[0] ?? ''] },
  'curl with a pipe': { needs: ['curl'], file: 'sh', args: ['-ec', curl[1] ?? ''] },
  'Node.js': { needs: [], file: process.execPath, args: ['--input-type=module', '--eval', node] },
  Python: { needs: ['python3'], file: 'python3', args: ['-c', python] }
}

/** All that a program prints, however it ends. */
async function run (file: string, args: string[], env: object): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(file, args, { env: { ...process.env, NODE_OPTIONS: '', ...env } })
    .catch((error: unknown) => error as { stdout: string, stderr: string })
  return stdout + stderr
}

for (const [name, { needs, file, args }] of Object.entries(PROGRAMS)) {
  t.test(`${PAGE}: the example for ${name} is let in with a token, and shows why a revoked one is refused`, { skip: lacks(...needs) }, async t => {
    const { app, issue } = await buildHost(t)
    const [MMC_URL, { token: MMC_TOKEN, hash }] = [await app.listen({ host: '127.0.0.1', port: 0 }), await issue()]
    t.match(await run(file, args, { MMC_URL, MMC_TOKEN }), 'Hello, viewer')
    await app.tokens.revoke(hash)
    t.match(await run(file, args, { MMC_URL, MMC_TOKEN }), /The token is not valid/)
  })
}

t.test(`${PAGE}: the variables and the hash are set as the page says`, { skip: lacks('sha256sum') }, async t => {
  const said = await run('sh', ['-ec', `${variables}\n${hash}\necho "$MMC_URL"`], {})
  const [, token = ''] = /MMC_TOKEN=(\S+)/.exec(variables) ?? []
  t.equal(said, `${createHash('sha256').update(token).digest('hex')}  -\nhttp://localhost:8088\n`)
  t.equal(curl.length, 2, 'every block is known to this test')
})

t.test(`${PAGE}: every refusal that it explains is in docs/errors.md`, async t => {
  const [page, errors] = [await readFile(PAGE, 'utf8'), await readFile('docs/errors.md', 'utf8')]
  const refusals = [...page.matchAll(/^\| (\d{3}) \| `(\w+)` \|/gm)]
  t.equal(refusals.length, 6)
  for (const [row] of refusals) t.ok(errors.includes(row), row)
  t.ok(errors.includes('`The token is not valid`'))
})
