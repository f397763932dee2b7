import { cp, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { createRoot, env, NPM, run } from './folder.js'

t.setTimeout(900_000)
const { root, tarball } = await createRoot(t)
const folder = join(root, 'host')
await mkdir(folder)
await cp('test/consumer', folder, { recursive: true })
await writeFile(join(folder, 'package.json'), '{ "private": true }')
const versions = { 'typescript-6': '6.0.3', 'typescript-7': '7.0.2' }
const { dependencies, devDependencies } = JSON.parse(
  await readFile('package.json', 'utf8')
) as Record<string, Record<string, string>>
const needed = [
  'fastify', '@fastify/jwt', '@fastify/passport', '@fastify/secure-session', '@types/node', '@types/passport',
  '@types/pg'
].map(name => `${name}@${{ ...dependencies, ...devDependencies }[name]}`)
await run('npm', [
  'install', ...NPM, tarball, ...needed, ...Object.entries(versions).map(([name, version]) => `${name}@npm:typescript@${version}`)
], { cwd: folder, env })

// TypeScript 5.9 is that of test/consumer.
for (const [name, version] of Object.entries(versions)) {
  for (const neighbour of ['@fastify/jwt', '@fastify/passport']) {
    t.test(`TypeScript ${version} compiles a host with ${neighbour}, strict and with every declaration checked`, async t => {
      const failure = await run(
        process.execPath, [`node_modules/${name}/bin/tsc`, '--types', `node,${neighbour}`], { cwd: folder, env }
      ).then(() => '', (error: { stdout: string, message: string }) => error.stdout || error.message)
      t.equal(failure, '')
    })
  }
}
