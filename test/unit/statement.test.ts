import t from 'tap'
import type { Connection, SqlQuery } from '../../lib/store/connection.js'
import { createSend } from '../../lib/store/statement.js'

const QUERY = { name: 'a name', text: 'SELECT 1', values: [] }

/** A way to Postgres on which each statement meets the next of these errors. */
function create (codes: string[], isDirect = true) {
  const [sent, deadlines, cancelled]: [SqlQuery[], unknown[], unknown[]] = [[], [], []]
  const connection = {
    isDirect,
    async withClient (work: Parameters<Connection['withClient']>[0], deadline?: number, isCancelled?: boolean) {
      deadlines.push(deadline)
      cancelled.push(isCancelled)
      return await work(async query => {
        sent.push(query)
        const code = codes.shift()
        if (code !== undefined) throw Object.assign(new Error(code), { code })
        return []
      })
    }
  } as unknown as Connection
  return { send: createSend(connection), sent, deadlines, cancelled }
}

t.test("a prepared statement that the server lost, already has or can't run is sent again unprepared, and so are all after it", async t => {
  for (const code of ['26000', '42P05', '0A000']) {
    const { send, sent } = create([code])
    t.strictSame(await send(QUERY), [])
    await send(QUERY)
    t.strictSame(sent.map(({ name }) => name), ['a name', undefined, undefined], code)
  }
  const two = create(['26000', '26000'])
  await Promise.all([two.send(QUERY), two.send(QUERY)])
  t.strictSame(two.sent.map(({ name }) => name), ['a name', 'a name', undefined, undefined], 'two that were under way')
})

t.test('the same error of an unprepared statement is an error', async t => {
  for (const isPrepared of [true, false]) {
    const { send, sent } = create(isPrepared ? ['0A000', '0A000'] : ['0A000'], isPrepared)
    await t.rejects(send(QUERY), { code: '0A000' })
    t.equal(sent.at(-1)?.name, undefined)
  }
})

t.test('statements are retried after a serialization failure, a deadlock, a lock timeout or a statement timeout', async t => {
  const { send, sent, deadlines } = create(['40001', '40P01', '55P03', '57014', '40001'])
  await send(QUERY)
  t.strictSame([sent.length, sent[5], deadlines], [6, QUERY, [undefined]])
})

t.test('any other error is thrown, unless the caller retries it', async t => {
  for (const code of ['23505', '57P01', 'ECONNRESET']) await t.rejects(create([code]).send(QUERY), { code })
  const { send, deadlines } = create(['23505', '40001'])
  await t.rejects(send(QUERY, { deadline: 1234, transient: ['23505'] }), { code: '40001' })
  t.strictSame(deadlines, [1234])
})

t.test('what is given up is cancelled, unless the caller forbids it', async t => {
  const { send, cancelled } = create([])
  await send(QUERY)
  await send(QUERY, { isCancelled: false })
  t.strictSame(cancelled, [undefined, false])
})
