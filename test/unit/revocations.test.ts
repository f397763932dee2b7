import pg from 'pg'
import t, { type Test } from 'tap'
import { createRevocations, type Revocations } from '../../lib/store/revocations.js'
import { databaseUrl } from '../support/database.js'

interface Timer { run: () => void, delay: number, handle: NodeJS.Timeout }

interface Listening {
  revocations: Revocations
  /** The clock, in milliseconds. */
  clock: { now: number }
  /** What the plugin sent, by channel and payload. */
  beats: Array<{ channel: string, payload: string }>
  /** The heartbeats and new attempts that wait for their time. */
  timers: Timer[]
  clients: pg.Client[]
  heard: string[]
  lines: string[]
  /** Why the lease was lost. */
  reasons: string[]
  /** Resolves when so many heartbeats were sent. */
  beat: (count: number) => Promise<void>
  /** A notification, as from Postgres. */
  notify: (channel: string, payload?: string) => void
  /** A heartbeat that is back. */
  prove: (index: number) => void
}

/** A listener on a real connection, its heartbeats, its clock and its timers in our hands. */
async function createListening (t: Test, send = async (): Promise<void> => {}): Promise<Listening> {
  const clock = { now: 10_000 }
  const [beats, timers, clients, heard, lines, reasons]: [Listening['beats'], Timer[], pg.Client[], string[], string[], string[]] = [[], [], [], [], [], []]
  let wanted = 0
  let tell = (): void => {}
  const { connect } = pg.Client.prototype
  t.intercept(pg.Client.prototype, 'connect', { value (this: pg.Client) { clients.push(this); return Reflect.apply(connect, this, []) as unknown } })
  t.intercept(performance, 'now', { value: () => clock.now })
  t.intercept(Math, 'random', { value: () => 0.5 })
  const { setTimeout } = globalThis
  t.intercept(globalThis, 'setTimeout', {
    value (run: (...args: unknown[]) => void, delay: number, ...args: unknown[]) {
      if (run.name !== 'beat' && run.name !== 'connect') return setTimeout(run, delay, ...args)
      const handle = setTimeout(() => {}, 1e9)
      timers.push({ run: () => { run(...args) }, delay, handle })
      return handle
    }
  })
  const listener = { clear () { heard.push('clear') }, forget (hash: string) { heard.push(`forget ${hash}`) }, ended () { heard.push('ended') } }
  const neighbours = { channel: 'neighbours', greet () { heard.push('greet') }, hear (payload: string) { heard.push(`hear ${payload}`) } }
  const log = { info: (line: string) => { lines.push(`info ${line}`) }, warn ({ err }: { err: Error }, line: string) { lines.push(`warn ${line}`); reasons.push(err.message) }, error () {} }
  const revocations = createRevocations({ config: { connectionString: await databaseUrl() }, place: 'here' }, async (channel, payload) => {
    beats.push({ channel, payload })
    if (beats.length >= wanted) tell()
    await send()
  }, listener, neighbours, log as never)
  t.teardown(async () => {
    await revocations.close()
    for (const { handle } of timers) clearTimeout(handle)
  })
  const notify = (channel: string, payload?: string): void => { clients.at(-1)?.emit('notification', { channel, payload }) }
  return {
    revocations,
    clock,
    beats,
    timers,
    clients,
    heard,
    lines,
    reasons,
    beat: count => new Promise(resolve => {
      wanted = count
      tell = resolve
      if (beats.length >= count) resolve()
    }),
    notify,
    prove: index => { const { channel, payload } = beats[index] as Listening['beats'][number]; notify(channel, payload) }
  }
}

t.test('a heartbeat that is back holds the lease for two seconds from when it was sent, whichever came back last', async t => {
  const { revocations, clock, timers, lines, heard, beat, prove, notify, beats } = await createListening(t)
  t.equal(revocations.isTrusted(), false)
  revocations.start()
  await beat(1)
  t.strictSame(heard, ['clear'], 'nobody heard of what changed before')
  t.equal(revocations.isTrusted(), false, 'sent is not back')
  notify(beats[0]?.channel ?? '', 'of another')
  t.equal(revocations.isTrusted(), false, 'not ours')
  t.strictSame(timers.map(({ delay, handle }) => [delay, handle.hasRef()]), [[500, false]], 'twice a second, which keeps no process')
  clock.now += 500
  timers[0]?.run()
  t.equal(beats.length, 2)
  clock.now += 100
  prove(1)
  t.equal(revocations.isTrusted(), true)
  prove(0)
  clock.now = 10_000 + 500 + 1999
  t.equal(revocations.isTrusted(), true)
  clock.now++
  t.equal(revocations.isTrusted(), false)
  prove(0)
  prove(1)
  t.equal(revocations.isTrusted(), false, 'a heartbeat proves once')
  t.strictSame([lines, heard], [['info hears of revocations from Postgres at here'], ['clear', 'greet', 'ended']], 'said once')
})

t.test('it hears of each token, of all at once, and of its neighbours; what has no payload is not all', async t => {
  const { revocations, heard, beat, notify } = await createListening(t)
  revocations.start()
  await beat(1)
  heard.length = 0
  notify('mmc_tokens', 'a')
  notify('mmc_tokens', '*')
  notify('neighbours', 'b')
  notify('mmc_tokens')
  t.strictSame(heard, ['forget a', 'clear', 'hear b', 'forget '])
})

t.test('a heartbeat that is not back after a second costs the lease, and the connection; one that just came back does not', async t => {
  const { revocations, clock, timers, clients, lines, beats, beat, prove } = await createListening(t)
  revocations.start()
  await beat(1)
  clock.now += 500
  timers[0]?.run()
  clock.now += 500
  prove(1)
  timers[1]?.run()
  t.equal(revocations.isTrusted(), true, 'a second is not yet too late')
  prove(0)
  prove(2)
  clock.now += 1000
  timers[2]?.run()
  clock.now += 500
  timers[3]?.run()
  prove(4)
  clock.now += 501
  t.equal(revocations.isTrusted(), true)
  timers[4]?.run()
  t.equal(revocations.isTrusted(), false)
  t.match(lines.at(-1), /^warn does not hear of revocations from Postgres at here/)
  t.strictSame([timers[5]?.delay, timers[5]?.handle.hasRef(), clients.length, beats.length], [75, false, 1, 5])
  timers[5]?.run()
  await beat(6)
  t.equal(clients.length, 2)
  clock.now += 1000
  timers[6]?.run()
  t.strictSame([clients.length, beats.length], [2, 7], 'what waited on the first is forgotten')
})

t.test('however the client says that it ended, the lease is lost at once, and once', async t => {
  for (const [reason, say] of [['broken', (client: pg.Client) => client.emit('error', new Error('broken'))], ['the connection ended', (client: pg.Client) => client.emit('end')]] as const) {
    const { revocations, timers, clients, lines, reasons, beat, prove } = await createListening(t)
    revocations.start()
    await beat(1)
    prove(0)
    const [client] = clients as [pg.Client]
    t.equal(revocations.isTrusted(), true)
    say(client)
    t.equal(revocations.isTrusted(), false)
    t.equal((timers[0]?.handle as unknown as { _destroyed: boolean })._destroyed, true, 'no more heartbeats on it')
    say(client)
    t.strictSame([timers.length, lines.length, reasons], [2, 2, [reason]])
    timers[1]?.run()
    await beat(2)
    prove(1)
    t.equal(revocations.isTrusted(), true)
    say(client)
    t.equal(revocations.isTrusted(), true, 'an old client says nothing of the new one')
  }
})

t.test('it tries again ever more slowly, up to a second, says so once, and begins anew after success', async t => {
  let isDown = true
  const { revocations, timers, lines, beat, prove, beats } = await createListening(t, async () => { if (isDown) throw new Error('no') })
  const tries = (): Timer[] => timers.filter(({ delay }) => delay !== 500)
  const next = async (count: number): Promise<void> => {
    await beat(count)
    while (tries().length < count) await new Promise(resolve => { setImmediate(resolve) })
  }
  revocations.start()
  for (let count = 1; count <= 6; count++) {
    await next(count)
    tries().at(-1)?.run()
  }
  t.strictSame(tries().map(({ delay }) => delay), [75, 150, 300, 600, 750, 750])
  t.equal(lines.length, 1)
  isDown = false
  await beat(7)
  isDown = true
  prove(6)
  timers.at(-1)?.run()
  while (tries().length < 7) await new Promise(resolve => { setImmediate(resolve) })
  t.equal(tries().at(-1)?.delay, 75)
  t.match(lines, [/^warn does/, /^info hears/, /^warn does/])
  t.equal(beats.length, 8)
})

t.test('it starts once, also while it waits to try again, and after it was closed it is silent', async t => {
  let isDown = false
  const { revocations, timers, clients, beat, prove } = await createListening(t, async () => { if (isDown) throw new Error('no') })
  revocations.start()
  revocations.start()
  await beat(1)
  t.equal(clients.length, 1)
  isDown = true
  timers[0]?.run()
  while (timers.length < 3) await new Promise(resolve => { setImmediate(resolve) })
  revocations.start()
  t.equal(clients.length, 1)
  isDown = false
  timers[2]?.run()
  await beat(3)
  prove(2)
  t.equal(revocations.isTrusted(), true)
  const closing = revocations.close()
  t.equal(revocations.isTrusted(), false)
  t.equal((timers[3]?.handle as unknown as { _destroyed: boolean })._destroyed, true)
  await closing
  t.strictSame([timers.length, clients.length], [4, 2])
})

t.test('a connection that can not listen is given up and closed, and another is tried', async t => {
  const { query } = pg.Client.prototype
  const { revocations, timers, clients, reasons, beat } = await createListening(t)
  const ends = t.capture(pg.Client.prototype, 'end', pg.Client.prototype.end)
  let isDeaf = true
  t.intercept(pg.Client.prototype, 'query', {
    async value (this: pg.Client, text: string) {
      if (isDeaf) throw new Error('no LISTEN')
      return await (Reflect.apply(query, this, [text]) as Promise<unknown>)
    }
  })
  revocations.start()
  while (timers.length === 0) await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame([reasons, timers.map(({ delay }) => delay), ends().length], [['no LISTEN'], [75], 1])
  isDeaf = false
  timers[0]?.run()
  await beat(1)
  t.equal(clients.length, 2)
})

t.test('closed while it begins to listen, it sends nothing', async t => {
  const { revocations, timers, beats } = await createListening(t)
  const { query } = pg.Client.prototype
  const closed = new Promise<void>(resolve => {
    t.intercept(pg.Client.prototype, 'query', {
      async value (this: pg.Client, text: string) {
        const answer = await (Reflect.apply(query, this, [text]) as Promise<unknown>)
        resolve(revocations.close())
        return answer
      }
    })
  })
  revocations.start()
  await closed
  t.strictSame([beats, timers], [[], []])
})

t.test('its connection is kept alive, known by its name, and closed with it, without holding the process', async t => {
  const { revocations, clients, beat } = await createListening(t)
  revocations.start()
  await beat(1)
  t.match(clients, [{ connection: { _keepAlive: true }, connectionParameters: { application_name: 'fastify-mmc-tokens listener' } }])
  const ends = t.capture(pg.Client.prototype, 'end', pg.Client.prototype.end)
  const unrefs = t.capture(pg.Client.prototype, 'unref' as 'end', (pg.Client.prototype as unknown as { unref: () => Promise<void> }).unref)
  await revocations.close()
  t.strictSame([ends().length, unrefs().length], [1, 1])
})
