import websocket from '@fastify/websocket'
import t from 'tap'
import { createBareHost, who } from '../support/bare-host.js'
import { openPage, skip } from '../support/browser.js'
import { blocksOf } from '../support/docs.js'

t.test('docs/host-integration.md: with its code an EventSource and a WebSocket of a browser connect, reconnect, and get an error if refused', { skip }, async t => {
  const { app, addTokens, issue } = await createBareHost(t)
  await app.register(websocket)
  await addTokens()
  const preHandler = app.tokens.requireRole('viewer')
  app.get('/', async (_request, reply) =>
    reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,">'))
  app.get('/events', { preHandler }, async (request, reply) =>
    await reply.type('text/event-stream').send(`retry: 1\ndata: ${who(request).token}\n\n`))
  app.get('/ws', { preHandler, websocket: true }, (socket, request) => { socket.send(String(who(request).token)) })
  const { host, href } = new URL(await app.listen({ host: 'localhost', port: 0 }))
  const page = await openPage(t)
  await page.goto(href)
  const [lines = ''] = await blocksOf('docs/host-integration.md', 'js')
  const open = lines.replace('wss://mmc.example', `ws://${host}`)
  t.not(open, lines)

  /**
   * What the two hear first, and the EventSource in the turns after that: it connects again when its answer has ended.
   */
  const hear = async (token: string, turns: number): Promise<unknown> => await page.evaluate(`(async () => {
    const token = ${JSON.stringify(token)}
    ${open}
    const once = target => new Promise(resolve => {
      target.addEventListener('message', ({ data }) => resolve(data), { once: true })
      target.addEventListener('error', ({ type }) => { if (target.readyState !== EventSource.CONNECTING) resolve(type) })
    })
    const heard = await Promise.all([once(socket), once(events)])
    for (let turn = 0; turn < ${turns} && events.readyState !== EventSource.CLOSED; turn++) heard.push(await once(events))
    events.close()
    socket.close()
    return heard
  })()`)
  const { token, hash } = await issue()
  t.strictSame(await hear(token, 2), ['t1', 't1', 't1', 't1'])
  await app.tokens.revoke(hash)
  t.strictSame(await hear(token, 0), ['error', 'error'])
})
