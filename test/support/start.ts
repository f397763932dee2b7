import { once } from 'node:events'
import { createServer } from 'node:net'

// The first word comes before what takes a while to load.
const port = process.env.CEDALO_MC_PROXY_PORT ?? '8088'
console.log(`Starting the demo host on port ${port} …`)
try {
  // Before anything is made that a port which is taken would leave behind.
  const probe = createServer().listen({ host: 'localhost', port: Number(port) })
  await once(probe, 'listening')
  await once(probe.close(), 'close')
  await (await import('./demo.js')).startDemo(Number(port))
} catch (error) {
  console.error(sentenceOf(error as NodeJS.ErrnoException))
  process.exitCode = 1
}

/** What an operator can cure is a sentence; what nobody foresaw keeps its stack. */
function sentenceOf (error: NodeJS.ErrnoException): unknown {
  if (error.code === 'EADDRINUSE') return `Port ${port} is taken. Choose another: CEDALO_MC_PROXY_PORT=8089 npm start`
  if (error.syscall === 'listen' || error.code === 'ERR_SOCKET_BAD_PORT') return `CEDALO_MC_PROXY_PORT=${port} can't be listened on: ${error.message}`
  if (error.code === 'ERR_INVALID_URL') return 'DATABASE_URL is not a connection string: write postgres://user:password@host:5432/database'
  return error.code?.startsWith('MMC_TOKENS_') === true ? error.message : error
}
