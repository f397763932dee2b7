import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { promisify } from 'node:util'
import t from 'tap'
import { createSeparateDatabase } from '../support/database.js'
import { lacks } from '../support/tools.js'

const run = promisify(execFile)

t.test('docs/getting-started.md: the commands, run one after another in a new folder, create, use and revoke a token', { skip: lacks('curl', 'sha256sum', 'openssl') }, async t => {
  const page = await readFile('docs/getting-started.md', 'utf8')
  const [make = '', start = '', ...rest] = [...page.matchAll(/```sh\n([^]*?)```/g)].map(([, code = '']) => code)
  const host = /```js\n([^]*?)```/.exec(page)?.[1] ?? ''
  const { url } = await createSeparateDatabase(t)
  await mkdir('.data', { recursive: true })
  const folder = await mkdtemp(`${process.cwd()}/.data/start-`)
  // Not in dist/, which other tests build at the same time.
  await run('npx', ['tsc', '-p', 'lib', '--noCheck', '--outDir', `${folder}/package/dist`])
  await copyFile('package.json', `${folder}/package/package.json`)
  await symlink(`${process.cwd()}/node_modules`, `${folder}/package/node_modules`)
  t.teardown(() => rm(folder, { recursive: true }))
  const reserved = createServer().listen(0, 'localhost')
  await once(reserved, 'listening')
  const { port } = reserved.address() as AddressInfo
  await once(reserved.close(), 'close')

  // Nothing comes from the registry, the database is the tests', the port a free one, and the host is waited for and
  // ended.
  const install = /^npm install (.*)$/m.exec(make)?.[1] ?? ''
  const links = install.split(' ').map(name =>
    `ln -s "${name === 'fastify-mmc-tokens' ? `${folder}/package` : `${process.cwd()}/node_modules/${name}`}" node_modules/${name}`)
  const script = [
    'set -e', make.replace(/^npm init.*$/m, '$& > init.log').replace(
      /^npm install.*$/m, ['mkdir node_modules', ...links].join('\n')
    ),
    `cat > host.mjs <<'END'\n${host}END`,
    start.replace(
      /^export DATABASE_URL=.*$/m, `export DATABASE_URL='${url}'`
    ).replace('host.mjs &', 'host.mjs > host.log 2>&1 &'), "trap 'kill $HOST; wait' EXIT; HOST=$!",
    'until curl -s -o wait.log http://localhost:3000/; do kill -0 $HOST || { cat host.log; exit 1; }; done', ...rest.flatMap(block => [block, 'echo'])
  ].join('\n').replaceAll('3000', String(port))
  const { stdout } = await run('sh', ['-c', script], { cwd: folder, env: { ...process.env, NODE_OPTIONS: '' } })

  const { token, hash } = JSON.parse(/^\{"token".*?\}/m.exec(stdout)?.[0] ?? '{}') as { token?: string, hash?: string }
  t.match({ token, hash }, { token: /^[\w-]+\.[\w-]+\.[\w-]+$/, hash: /^[0-9a-f]{64}$/ }, stdout)
  const [hello = '', unauthorized = ''] = [...page.matchAll(/prints `(.*)`\.$/gm)].map(([, said = '']) => said)
  t.ok(stdout.includes(`${hello}${hello}\n[]{`) && stdout.trimEnd().includes(unauthorized), stdout)
})
