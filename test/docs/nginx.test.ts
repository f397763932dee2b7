import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import websocket from '@fastify/websocket'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { createBareHost, who } from '../support/bare-host.js'
import { blocksOf } from '../support/docs.js'

const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin` }
const skip = spawnSync('nginx', ['-v'], { env }).status !== 0 &&
  'NO NGINX: what docs/host-integration.md says of it was not run. Install it: apt-get install nginx'
if (skip !== false) console.error(`\n\n==== ${skip}\n\n`)

/**
 * An nginx with this block, at a socket instead of a port, that writes the log of nginx's default beside that of the
 * block.
 */
async function startNginx (t: Test, block: string, port: number) {
  const folder = await mkdtemp(join(tmpdir(), 'nginx-'))
  t.teardown(() => rm(folder, { recursive: true }))
  await chmod(folder, 0o755)
  const here = block
    .replace('listen 80;', `listen unix:${folder}/socket;`)
    .replace('/var/log/nginx/access.log no_query;', 'access.log no_query; access_log default.log;')
    .replace(':8088;', `:${port};`)
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path temp;`).join(' ')
  await writeFile(
    join(folder, 'nginx.conf'), `daemon off; pid pid; error_log stderr notice; events {} http { ${folders}\n${here}}`
  )
  const child = spawn('nginx', ['-p', folder, '-c', 'nginx.conf', '-e', 'stderr'], {
    env, stdio: ['ignore', 'ignore', 'pipe']
  })
  const gone = once(child, 'close')
  t.teardown(async () => {
    child.kill('SIGTERM')
    await gone
  })
  let errors = ''
  await new Promise<void>((resolve, reject) => {
    child.once('close', () => { reject(new Error(errors)) })
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      errors += chunk
      if (errors.includes('start worker process ')) resolve()
    })
  })
  return {
    socket: `${folder}/socket`,
    /** Ends it after its last connection, and answers its logs. */
    async end () {
      child.kill('SIGQUIT')
      await gone
      const read = async (log: string): Promise<string> => await readFile(join(folder, log), 'utf8')
      return { access: await read('access.log'), byDefault: await read('default.log'), errors }
    }
  }
}

async function ask (socketPath: string, path: string, headers = {}): Promise<IncomingMessage> {
  const [answer] = await once(get({ socketPath, path, headers }), 'response') as [IncomingMessage]
  return answer
}

t.test('docs/host-integration.md: with its nginx configuration no token is in the access log, and requests, WebSockets and EventSources work', { skip }, async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await app.register(websocket)
  await addTokens()
  const preHandler = app.tokens.requireRole('viewer')
  app.get('/who', { preHandler }, async request => who(request))
  app.get('/events', { preHandler }, (request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write(`data: ${who(request).token}\n\n`)
  })
  app.get('/ws', { preHandler, websocket: true }, (socket, request) => { socket.send(String(who(request).token)) })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const [block = '', ...more] = await blocksOf('docs/host-integration.md', 'nginx')
  t.strictSame(more, [])
  const nginx = await startNginx(t, block, (app.server.address() as AddressInfo).port)
  const { token } = await issue()
  const query = `?a=1&token=${token}`

  const answer = await ask(nginx.socket, `/who${query}`, { referer: `https://mmc.example/${query}` })
  t.match(JSON.parse(await text(answer)), { token: 't1' })
  const events = await ask(nginx.socket, `/events${query}`)
  const [event] = await once(events, 'data') as [Buffer]
  t.equal(String(event), 'data: t1\n\n', 'while the answer goes on')
  events.destroy()
  const socket = new WebSocket(`ws+unix:${nginx.socket}:/ws${query}`)
  const [said] = await once(socket, 'message') as [Buffer]
  t.equal(String(said), 't1')
  socket.close()
  await once(socket, 'close')
  await app.close()
  t.equal((await ask(nginx.socket, `/who${query}`)).resume().statusCode, 502)

  const { access, byDefault, errors } = await nginx.end()
  t.strictSame([...access.matchAll(/"GET (\S+)" (\d+)/g)].map(([, path, status]) => `${path} ${status}`).sort(), [
    '/events 200', '/who 200', '/who 502', '/ws 101'
  ])
  t.notMatch(access, token.slice(0, 20))
  t.equal(byDefault.split(token).length, 6, 'the default has it in each line, and in a referrer')
  t.match(errors, token, 'and so has the error log, as the page says')
})
