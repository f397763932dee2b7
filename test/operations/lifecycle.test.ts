import t from 'tap'
import { createLifecycle } from '../../lib/lifecycle.js'
import { buildHost } from '../support/build-host.js'
import { collectEvents } from '../support/events.js'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

t.test('two calls of enable() at the same time share one start: the bootstrap file is read once', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'mmc-tokens-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const bootstrap = join(folder, 'tokens.json')
  await writeFile(bootstrap, '[{}]')
  const errors: unknown[] = []
  const events = collectEvents()
  const { app } = await buildHost(t, { tokens: { enabled: false, bootstrap, onEvent: events.onEvent } })
  app.log.error = (...words: unknown[]) => { errors.push(words) }
  await Promise.all([app.tokens.enable(), app.tokens.enable()])
  t.equal(app.tokens.enabled, true)
  t.equal(errors.length, 1, 'its invalid entry is reported once')
  await app.tokens.enable()
  t.equal(errors.length, 1, 'nothing starts again')
})

t.test('a start that failed rejects all who share it, and the next enable() starts anew', async t => {
  const outcomes = [Promise.reject(new Error('away')), Promise.resolve()]
  const lifecycle = createLifecycle({ start: async () => { await outcomes.shift() }, stop: async () => {} })
  const results = await Promise.allSettled([lifecycle.enable(), lifecycle.enable()])
  t.strictSame(results.map(({ status }) => status), ['rejected', 'rejected'])
  t.equal(lifecycle.isEnabled, false)
  await lifecycle.enable()
  t.equal(lifecycle.isEnabled, true)
})

t.test('close() waits for the start under way, stops once, and leaves tokens disabled', async t => {
  const steps: string[] = []
  let finish = (): void => {}
  const lifecycle = createLifecycle({
    async start () {
      await new Promise<void>(resolve => { finish = resolve })
      steps.push('started')
    },
    async stop () { steps.push('stopped') }
  })
  const enabling = lifecycle.enable()
  const closing = Promise.all([lifecycle.close(), lifecycle.close()])
  finish()
  await Promise.all([enabling, closing])
  t.strictSame(steps, ['started', 'stopped'])
  t.equal(lifecycle.isEnabled, false)
})
