import { type ChildProcess, execFile } from 'node:child_process'
import { once } from 'node:events'
import { promisify } from 'node:util'
import t from 'tap'
import { SECRET } from '../support/build-host.js'
import { createSeparateDatabase, databaseUrl } from '../support/database.js'
import { createProxy } from '../support/proxy.js'

/** What a process prints that ends by itself, before anybody loses patience. */
async function run (
  script: string, url?: string, meet = async (_child: ChildProcess): Promise<void> => {}
): Promise<string> {
  const env = { ...process.env, DATABASE_URL: url ?? await databaseUrl() }
  const running = promisify(execFile)(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], {
    env, timeout: 60_000, killSignal: 'SIGKILL'
  })
  await meet(running.child)
  return (await running).stdout.trim()
}

t.test('unwritten uses, a waiting task, a waiting listener and an idle pool do not keep the process running', async t => {
  t.equal(await run(`
    import { createTask } from './lib/operations/task.ts'
    import { createConnection } from './lib/store/connection.ts'
    import { createListener } from './lib/store/listener.ts'
    import { createUsage } from './lib/tokens/usage.ts'
    const never = async () => { console.log('called') }
    createTask({ job: never, interval: 2 ** 30 }).start()
    // 4 s, after which it would fail and wait again.
    createUsage({ async touch () { throw new Error() } }, { warn () {} }).note('h', 0)
    createListener({ connection: { config: { host: '127.0.0.1', port: 1 }, place: '' }, beats: [], keys: { channel: '' }, log: { warn () {} } }).start()
    const { withClient } = createConnection({ connectionString: process.env.DATABASE_URL, idleTimeoutMillis: 0 }, console)
    console.log((await withClient(async run => await run({ text: 'SELECT 1 AS one' }), 2 ** 30))[0].one)
  `), '1')
})

t.test('a call to a Postgres that does not answer rejects, even if nothing else keeps the process running', async t => {
  t.equal(await run(`
    import { createConnection } from './lib/store/connection.ts'
    import { closeByDeadline } from './lib/store/deadline.ts'
    const silent = { options: {}, on () {}, connect () {} }
    await closeByDeadline(Promise.resolve(), console)
    console.log(process.getActiveResourcesInfo().filter(kind => kind === 'Timeout'))
    await createConnection(silent, console).withClient(async () => {}).catch(({ code }) => { console.log(code) })
    await closeByDeadline(new Promise(() => {}), { warn: ({ err }) => { console.log(err.code) } })
  `), '[]\nMMC_TOKENS_DEADLINE\nMMC_TOKENS_DEADLINE')
})

t.test('a host closes even if its connections to Postgres are silent', async t => {
  const { url } = await createSeparateDatabase(t)
  const proxy = await createProxy(t, url)
  t.equal(await run(`
    import Fastify from 'fastify'
    import tokensPlugin from './lib/index.ts'
    const app = Fastify()
    await app.register(tokensPlugin, { postgres: process.env.DATABASE_URL, secret: '${SECRET}' })
    while (app.tokens.health().lease !== 'held') await new Promise(setImmediate)
    console.log('held')
    process.stdin.once('data', async () => {
      process.stdin.destroy()
      await app.close()
      console.log('closed')
    })
  `, proxy.url, async child => {
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    proxy.set('swallow up')
    child.stdin?.write('close')
  }), 'held\nclosed')
})

t.test('a host closes, with all its hooks, even if onEvent hangs and Postgres is gone', async t => {
  const { url } = await createSeparateDatabase(t)
  const proxy = await createProxy(t, url)
  t.equal(await run(`
    import Fastify from 'fastify'
    import tokensPlugin from './lib/index.ts'
    const app = Fastify()
    app.addHook('onClose', async () => { console.log('the last hook') })
    await app.register(tokensPlugin, { postgres: process.env.DATABASE_URL, secret: '${SECRET}', async onEvent () {
      console.log('reporting')
      await new Promise(() => {})
    } })
    while (app.tokens.health().lease !== 'held') await new Promise(setImmediate)
    await app.tokens.issue({ name: 'a', role: 'viewer', validUntil: '2999-01-01T00:00:00Z', requestedBy: 'b' })
    process.stdin.once('data', async () => {
      while (app.tokens.health().lease !== 'lost') await new Promise(setImmediate)
      process.stdin.destroy()
      await app.close()
      console.log('closed')
    })
  `, proxy.url, async child => {
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    proxy.set('refuse')
    proxy.cut()
    child.stdin?.write('close')
  }), 'reporting\nthe last hook\nclosed')
})
