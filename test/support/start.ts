import { once } from 'node:events'
import { createServer } from 'node:net'

// Printed before the slow imports.
const port = process.env.CEDALO_MC_PROXY_PORT || '8088'
console.log(`Starting the demo host on port ${port} …`)
try {
  // First, so that a port in use leaves nothing behind.
  const probe = createServer().listen({ host: 'localhost', port: Number(port) })
  await once(probe, 'listening')
  await once(probe.close(), 'close')
  await (await import('./demo.js')).startDemo(Number(port))
} catch (error) {
  console.error(sentenceOf(error as NodeJS.ErrnoException))
  process.exitCode = 1
}

/** One sentence for errors that an operator can fix; unexpected errors keep their stack. */
function sentenceOf (error: NodeJS.ErrnoException): unknown {
  if (error.code === 'EADDRINUSE') return `Port ${port} is in use. Choose another: CEDALO_MC_PROXY_PORT=8089 npm start`
  if (error.syscall === 'listen' ||
    error.code === 'ERR_SOCKET_BAD_PORT') return `Could not listen on CEDALO_MC_PROXY_PORT=${port}: ${error.message}`
  if (error.code === 'ERR_INVALID_URL') return 'DATABASE_URL is invalid: it must be a connection string such as postgres://user:password@host:5432/database'
  return error.code?.startsWith('MMC_TOKENS_') === true ? error.message : error
}
