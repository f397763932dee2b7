import { setImmediate as turn } from 'node:timers/promises'
import pg from 'pg'
import t, { type Test } from 'tap'
import { type Listener, createListener } from '../../lib/store/listener.js'
import type { Token } from '../../lib/types.js'
import { databaseUrl } from '../support/database.js'
import { holdTimers } from '../support/timers.js'

interface Listening {
  listener: Listener
  /** The clock, in milliseconds. */
  clock: { now: number }
  /** Lets time pass, on the clock and for timers. */
  pass: (milliseconds: number) => void
  /** Clients that the listener made, and those that ended. */
  clients: pg.Client[]
  ended: Set<pg.Client>
  /** What came of it: what changes and the key check heard, and what was asked. */
  heard: string[]
  lines: string[]
  /** Why the lease was lost. */
  reasons: string[]
  /** Resolves when `text` was heard so often since the last time. */
  until: (text: string, count?: number) => Promise<void>
  /** A notification, as from Postgres, of another session. */
  notify: (channel: string, payload?: string, processId?: number) => void
  /** From the first connection to the lease, by what a lone node sends. */
  hold: () => Promise<void>
}

interface Faults {
  /** What becomes of a statement on the connection that listens. */
  ask?: (text: string, answer: () => Promise<unknown>) => Promise<unknown>
  /** Where the pool answers. */
  askPool?: () => Promise<string>
  findAll?: (hashes: string[]) => Promise<Token[]>
}

/** The backend of its connection. */
const ID = 7

/** A listener on a real connection, its clock and its timers in our hands, and what is sent on it. */
async function createListening (t: Test, {
  ask = async (_text, answer) => await answer(), askPool = async () => 'here', findAll = async () => []
}: Faults = {}): Promise<Listening> {
  const clock = { now: 10_000 }
  const [clients, heard, lines, reasons]: [pg.Client[], string[], string[], string[]] = [[], [], [], []]
  const ended = new Set<pg.Client>()
  const answers: Array<[part: string, name: string, row: object]> = [
    ['pg_snapshot_xmax', 'question', { xmax: '100' }], ['pg_current_xact_id', 'beat', {}], [
      'pg_backend_pid', 'hello', { server_id: 'here', pid: String(ID) }
    ]
  ]
  class Client extends pg.Client {
    constructor (config?: string | pg.ClientConfig) {
      super(config)
      clients.push(this)
      this.on('end', () => { ended.add(this) })
      const query = this.query.bind(this) as (asked: { text: string }) => Promise<unknown>
      Object.assign(this, {
        query: async (asked: { text: string }) => await ask(asked.text, async () => {
          const [, name, row] = answers.find(([part]) => asked.text.includes(part)) ?? []
          heard.push(name ?? 'LISTEN')
          return row === undefined ? await query(asked) : { rows: [row] }
        })
      })
    }
  }
  t.intercept(performance, 'now', { value: () => clock.now })
  const tick = holdTimers(t, 'setTimeout')
  const listener = createListener({
    connection: { config: { connectionString: await databaseUrl() }, target: 'here' },
    beats: ['beats', 'older beats'],
    keys: {
      channel: 'keys', ask () { heard.push('ask') }, hear (payload: string) { heard.push(`key ${payload}`) }
    },
    serverIdSql: "'here'",
    askPool,
    findAll: async (_run, hashes) => await findAll(hashes),
    changes: ['first', 'second'].map(name => ({
      clear () { heard.push(`${name} clear`) }, forget (hash: string) { heard.push(`${name} forget ${hash}`) }
    })),
    cache: { wasUsed: () => true, refresh: async find => (await find(['a'])).map(({ hash }) => hash) },
    onEventsWaiting: () => { heard.push('acted') },
    log: {
      info: (line: string) => { lines.push(`info ${line}`) },
      warn ({ err }: { err: Error }, line: string) { lines.push(`warn ${line}`); reasons.push(err.message) }
    } as never
  }, Client)
  // A connection that closes keeps no process.
  const stay = setInterval(() => {}, 1000)
  t.teardown(async () => {
    await listener.close()
    clearInterval(stay)
  })
  const notify = (channel: string, payload?: string, processId = 0): void => {
    clients.at(-1)?.emit('notification', { channel, payload, processId })
  }
  let xid = 99
  async function until (text: string, count = 1): Promise<void> {
    while (heard.filter(one => one === text).length < count) await turn()
    heard.length = 0
  }
  return {
    listener,
    clock,
    pass (milliseconds) {
      for (let passed = 0; passed < milliseconds; passed++) {
        clock.now++
        tick(1)
      }
    },
    clients,
    ended,
    heard,
    lines,
    reasons,
    until,
    notify,
    async hold () {
      await until('second clear')
      notify('keys', 'asking')
      await until('question')
      await turn()
      notify('beats', String(++xid))
      if (heard.splice(0).join() !== 'first clear,second clear') {
        throw new Error(
          'what was loaded without the lease is believed'
        )
      }
    }
  }
}

t.test('the lease begins with the first notification that arrives while nothing is asked, as none does through a pooler', async t => {
  const { listener, pass, notify, until, heard, lines } = await createListening(t, {
    async ask (text, answer) {
      const rows = await answer()
      // What a pooler hands on with an answer.
      notify('beats', '100', ID)
      return rows
    }
  })
  listener.start()
  await until('second clear')
  pass(1)
  await turn()
  t.strictSame(heard, ['ask'], 'nothing else is asked')
  notify('keys', 'a?')
  await until('question')
  await turn()
  t.equal(listener.isTrusted(), true)
  t.strictSame(lines, ['info revocation listener connected (here): accepting known tokens from memory'])
})

t.test('a connection on which nothing arrives is replaced a second after the asking', async t => {
  const { listener, pass, until, clients, reasons, heard } = await createListening(t)
  listener.start()
  await until('second clear')
  pass(1)
  t.strictSame(heard, ['ask'])
  pass(999)
  t.strictSame(reasons, [])
  pass(1)
  t.match(reasons, [/^no notification arrives: does the listening connection reach the same database/])
  pass(100)
  t.equal(clients.length, 2)
})

t.test('only a new node asks whatever it hears: those that come back at once would be too many', async t => {
  const { listener, pass, until, clients, heard, notify, hold } = await createListening(t)
  listener.start()
  await hold()
  clients[0]?.emit('end')
  pass(100)
  await until('second clear')
  pass(1)
  notify('beats', '200')
  pass(300)
  t.notOk(heard.includes('ask'))
  clients[1]?.emit('end')
  pass(200)
  await until('second clear')
  pass(250)
  t.strictSame(heard, ['ask'], 'where it hears nothing it does')
})

t.test('notifications reach all their receivers: one token, all tokens, keys; one without a payload is not all tokens', async t => {
  const { listener, heard, hold, notify } = await createListening(t)
  listener.start()
  await hold()
  t.strictSame(heard, [])
  notify('mmc_tokens', 'a')
  notify('mmc_tokens', '*')
  notify('keys', 'b')
  notify('mmc_tokens')
  notify('older beats', '101')
  t.strictSame(heard, [
    'first forget a', 'second forget a', 'first clear', 'second clear', 'key b', 'first forget ', 'second forget '
  ])
})

t.test('of what somebody else did the node hears that beat last, and no other', async t => {
  const { listener, heard, hold, notify } = await createListening(t)
  listener.start()
  notify('mmc_tokens', '!')
  await hold()
  notify('mmc_tokens', '!')
  t.strictSame(heard, [], 'another beat')
  notify('beats', '101', ID)
  notify('mmc_tokens', '!')
  t.strictSame(heard.splice(0), ['acted'])
  notify('beats', '102')
  notify('mmc_tokens', '!')
  t.strictSame(heard, [])
})

t.test('however the client says that it ended, the lease is lost at once, and once', async t => {
  for (const [reason, say] of [['broken', (client: pg.Client) => client.emit('error', new Error('broken'))], [
    'the connection ended', (client: pg.Client) => client.emit('end')
  ]] as const) {
    await t.test(reason, async t => {
      const { listener, pass, clients, lines, reasons, hold } = await createListening(t)
      listener.start()
      await hold()
      const [client] = clients as [pg.Client]
      t.equal(listener.isTrusted(), true)
      say(client)
      t.equal(listener.isTrusted(), false)
      say(client)
      t.strictSame([lines.length, reasons], [2, [reason]])
      pass(1000)
      t.equal(clients.length, 2)
      await hold()
      t.equal(listener.isTrusted(), true)
      say(client)
      t.equal(listener.isTrusted(), true, 'an old client says nothing of the new one')
    })
  }
})

t.test('a question without an answer for a second ends the connection; an answer that is read when the second is over counts', async t => {
  for (const isRead of [true, false]) {
    await t.test(isRead ? 'read' : 'not read', async t => {
      let isSilent = false
      let read = (): void => {}
      const { listener, pass, hold, reasons } = await createListening(t, {
        async ask (text, answer) {
          if (isSilent && text.includes('pg_snapshot_xmax')) await new Promise<void>(resolve => { read = resolve })
          return await answer()
        }
      })
      listener.start()
      await hold()
      isSilent = true
      pass(500)
      for (let n = 0; n < 5; n++) await turn()
      pass(1000)
      // As after a time in which nothing could be read.
      if (isRead) read()
      for (let n = 0; n < 5; n++) await turn()
      t.strictSame([listener.isTrusted(), reasons], isRead ? [true, []] : [false, ['Postgres did not answer within 1000 ms']])
    })
  }
})

t.test('what one connection proved or asked is nothing to the next', async t => {
  const { listener, pass, clients, until, notify, hold, heard } = await createListening(t)
  listener.start()
  await hold()
  clients[0]?.emit('end')
  pass(100)
  await until('second clear')
  notify('keys', 'asking')
  await until('question')
  await turn()
  clients[0]?.emit('notification', { channel: 'beats', payload: '999', processId: 0 })
  t.equal(listener.isTrusted(), false)
  notify('beats', '100')
  t.equal(listener.isTrusted(), true, 'a beat that the one before would have heard before')
  t.notOk(heard.includes('beat'))
})

t.test('it tries again ever more slowly, up to half a minute, says so once, and begins anew after a connection that was sound', async t => {
  let isDown = true
  const { listener, pass, clock, clients, ended, lines, hold } = await createListening(t, {
    async ask (_text, answer) {
      if (isDown) throw new Error('no')
      return await answer()
    }
  })
  t.intercept(Math, 'random', { value: () => 0.5 })
  const pauseIs = async (pause: number, before: number): Promise<void> => {
    pass(pause - 1)
    t.equal(clients.length, before)
    pass(1)
    t.equal(clients.length, before + 1, `${pause} ms`)
  }
  listener.start()
  const seen = [75, 150, 300, 600, 1200, 2400, 4800, 9600, 19_200, 22_500, 22_500]
  for (const [index, pause] of seen.entries()) {
    while (ended.size <= index) await turn()
    await pauseIs(pause, index + 1)
  }
  t.equal(lines.length, 1)
  isDown = false
  await hold()
  clients.at(-1)?.emit('end')
  await pauseIs(22_500, seen.length + 1)
  await hold()
  clock.now += 2001
  clients.at(-1)?.emit('end')
  await pauseIs(75, seen.length + 2)
  const [lost, connected] = [/^warn revocation listener lost/, /^info revocation listener connected/]
  t.match(lines, [lost, connected, lost, connected, lost])
})

t.test('it starts once, also while it waits to try again, and after it was closed it is silent', async t => {
  const { listener, pass, clients, heard, hold } = await createListening(t)
  listener.start()
  listener.start()
  await hold()
  t.equal(clients.length, 1)
  clients[0]?.emit('end')
  listener.start()
  t.equal(clients.length, 1)
  pass(1000)
  await hold()
  t.equal(listener.isTrusted(), true)
  const closing = listener.close()
  t.equal(listener.isTrusted(), false)
  await closing
  heard.length = 0
  pass(5000)
  await turn()
  t.strictSame([clients.length, heard], [2, []])
})

t.test('closed while it waits to try again, it does not', async t => {
  const { listener, pass, clients, ended } = await createListening(t, { async ask () { throw new Error('no') } })
  listener.start()
  while (ended.size === 0) await turn()
  await listener.close()
  pass(60_000)
  t.equal(clients.length, 1)
})

t.test('closed while it begins to listen, it sends nothing', async t => {
  let closing: Promise<void> | undefined
  const { listener, pass, heard, clients, ended } = await createListening(t, {
    async ask (text, answer) {
      const rows = await answer()
      if (text.includes('LISTEN')) closing = listener.close()
      return rows
    }
  })
  listener.start()
  while (ended.size === 0) await turn()
  await closing
  pass(5000)
  t.strictSame([heard, clients.length], [['hello', 'LISTEN'], 1])
})

t.test('its connection is closed with it', async t => {
  const { listener, clients, ended, hold } = await createListening(t)
  listener.start()
  await hold()
  await listener.close()
  t.strictSame([...ended], clients)
})

t.test('an answer of the pool from another place is an error, and ends the lease, until both are at one place', async t => {
  const { listener, pass, clients, ended, lines, hold, until } = await createListening(t)
  listener.check('elsewhere')
  listener.start()
  listener.check('elsewhere')
  await hold()
  listener.check('here')
  t.equal(listener.isTrusted(), true)
  t.throws(() => { listener.check('elsewhere') }, { code: 'MMC_TOKENS_DATABASE' })
  t.equal(listener.isTrusted(), false)
  pass(100)
  t.equal(clients.length, 2)
  for (let n = 0; n < 2; n++) t.throws(() => { listener.check('elsewhere') }, 'also while it connects')
  listener.check('here')
  await until('second clear')
  t.equal(clients.length, 2)
  for (let n = 3; n < 9; n++) {
    t.throws(() => { listener.check('elsewhere') })
    pass(1000)
    t.equal(clients.length, n, 'within a second')
    await until('second clear')
  }
  clients.at(-1)?.emit('end')
  listener.check('elsewhere')
  t.equal(lines.length, 2)
  while (ended.size < 8) await turn()
})

/** Lets time pass, second by second, as fast as what it brings about is answered, the lease held. */
async function passSeconds ({ pass, notify, heard }: Listening, seconds: number, xid = 1000): Promise<void> {
  for (let half = 0; half < 2 * seconds; half++) {
    pass(500)
    for (let n = 0; n < 10; n++) await turn()
    notify('beats', String(xid + half))
  }
  heard.length = 0
}

t.test('while what is known is used, the pool is asked once a second where it is; no answer ends nothing, another place does', async t => {
  let place: string | Error = new Error('exhausted')
  let asked = 0
  const listening = await createListening(t, {
    async askPool () {
      asked++
      if (place instanceof Error) throw place
      return place
    }
  })
  const { listener, hold, pass, reasons } = listening
  listener.start()
  await hold()
  await passSeconds(listening, 10)
  t.strictSame([asked, listener.isTrusted()], [10, true])
  place = 'here'
  await passSeconds(listening, 1, 2000)
  t.equal(listener.isTrusted(), true)
  place = 'elsewhere'
  pass(1000)
  for (let n = 0; n < 10; n++) await turn()
  t.equal(listener.isTrusted(), false)
  t.match(reasons, [/do not reach the same primary$/])
})

t.test('what is believed is asked for again on the same connection; what Postgres refuses is a warning, what it does not answer a dead connection', async t => {
  let error: Error | undefined
  const asked: string[][] = []
  const listening = await createListening(t, {
    async findAll (hashes) {
      asked.push(hashes)
      if (error !== undefined) throw error
      return []
    }
  })
  const { listener, hold, lines, reasons } = listening
  listener.start()
  await hold()
  await passSeconds(listening, 2)
  t.strictSame([asked, lines.length], [[['a'], ['a']], 1])
  error = Object.assign(new Error('no such table'), { code: '42P01' })
  await passSeconds(listening, 3, 2000)
  t.strictSame([listener.isTrusted(), reasons], [true, ['no such table']], 'said once')
  error = undefined
  await passSeconds(listening, 1, 3000)
  error = Object.assign(new Error('no lock'), { code: '55P03' })
  await passSeconds(listening, 1, 4000)
  t.strictSame([listener.isTrusted(), reasons], [true, ['no such table', 'no lock']])
  error = new Error('Query read timeout')
  await passSeconds(listening, 1, 5000)
  t.strictSame([listener.isTrusted(), reasons.at(-1)], [false, 'Query read timeout'])
})
