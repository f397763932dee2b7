import { spawn } from 'node:child_process'
import { startPostgres } from './postgres.js'

// Runs a command with DATABASE_URL set: to what it is, else to a server that lives as long as the command.
const [command = '', ...args] = process.argv.slice(2)
const postgres = process.env.DATABASE_URL === undefined
  ? await startPostgres({ settings: ['max_connections=300'] })
  : undefined
const child = spawn(command, args, {
  stdio: 'inherit', env: { ...process.env, ...postgres && { DATABASE_URL: postgres.url } }
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => { child.kill(signal) })
child.on('exit', async (code, signal) => {
  process.exitCode = code ?? 1
  if (signal !== null) console.error(`${command} was ended by ${signal}`)
  await postgres?.end()
})
