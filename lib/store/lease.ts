/** Milliseconds from one question to the next. */
const QUESTION = 500
/** How long a proof holds, in milliseconds from when its question was sent. */
const LEASE = 2000
/** Milliseconds after which a question without an answer, or a beat not received, means a dead connection. */
export const SILENCE = 1000
/** Milliseconds from a beat to the next: `own` after this node's, `other` to `other + spread` after another's. */
const BEAT = { own: 450, other: 750, spread: 500 }
/** The same after connecting: up to this many. */
export const FIRST_BEAT = 250

interface Question { xmax: bigint, sent: number, sentDate: number }

/** What the lease needs of a connection that listens. */
interface LeaseConnection {
  /** The `xmax` of a snapshot: no transaction with this id or a higher one has ended yet. */
  ask: () => Promise<bigint>
  /** Notifies all nodes, with the id of the notifying transaction. */
  beat: () => Promise<unknown>
  /** Called when the lease is acquired. */
  onHeld: () => void
  /** Called when the connection is dead. */
  onDead: (error: Error) => void
}

export interface Lease {
  /** Whether every change older than two seconds was received. `at` and `date`: now, by monotonic and wall clock. */
  isHeld: (at?: number, date?: number) => boolean
  /** Whether the last beat received was this node's: true on one node at a time. */
  isBeater: () => boolean
  start: () => void
  /** A beat arrived. */
  hear: (payload: string, isOwn: boolean) => void
  end: () => void
}

/**
 * Proves that a connection receives changes, at a cost for Postgres that is proportional to the number of nodes: all
 * ask, one beats. A beat whose transaction id is not below `xmax` was committed after the answer to the question.
 * Notifications arrive in the order of commits. So every change that was committed before the question was sent has
 * been received when the beat arrives.
 */
export function createLease ({ ask, beat, onHeld, onDead }: LeaseConnection): Lease {
  /** Questions that wait for a beat. They are few: a connection that receives none is replaced within four seconds. */
  const open: Question[] = []
  let last = -1n
  let until = -Infinity
  let untilDate = -Infinity
  let isHeard = false
  let isBeater = false
  let isEnded = false
  let questionTimer: NodeJS.Timeout | undefined
  let beatTimer: NodeJS.Timeout | undefined

  // The monotonic clock stands still while a machine sleeps; the wall clock may be set back.
  const isHeld = (at = performance.now(), date = Date.now()): boolean => at < until && date < untilDate

  async function question (): Promise<void> {
    const [sent, sentDate] = [performance.now(), Date.now()]
    const xmax = await ask()
    if (isEnded) return
    open.push({ xmax, sent, sentDate })
    // The beat may be here already.
    prove()
    questionTimer = setTimeout(run, Math.max(0, sent + QUESTION - performance.now()), question).unref()
  }

  function prove (): void {
    const proved = open.findLastIndex(({ xmax }) => last >= xmax)
    const [newest] = open.splice(0, proved + 1).slice(-1)
    if (newest === undefined) return
    const wasHeld = isHeld()
    until = newest.sent + LEASE
    untilDate = newest.sentDate + LEASE
    if (!wasHeld && isHeld()) onHeld()
  }

  async function send (): Promise<void> {
    isHeard = false
    await beat()
    if (isEnded || isHeard) return
    clearTimeout(beatTimer)
    beatTimer = setTimeout(onDead, SILENCE, new Error('this node does not receive its own notification')).unref()
  }

  function sendAfter (milliseconds: number): void {
    clearTimeout(beatTimer)
    beatTimer = setTimeout(run, milliseconds, send).unref()
  }

  function run (work: () => Promise<void>): void {
    work().catch(onDead)
  }

  return {
    isHeld,
    isBeater: () => isBeater,
    start () {
      run(question)
      sendAfter(FIRST_BEAT * randomFraction())
    },
    hear (payload, isOwn) {
      if (isEnded || !/^\d{1,20}$/.test(payload)) return
      const id = BigInt(payload)
      // Concurrent beats may be committed in another order than that of their ids: the one received first counts.
      if (id <= last) return
      last = id
      isHeard = true
      isBeater = isOwn
      sendAfter(isOwn ? BEAT.own : BEAT.other + BEAT.spread * randomFraction())
      prove()
    },
    end () {
      isEnded = true
      until = -Infinity
      clearTimeout(questionTimer)
      clearTimeout(beatTimer)
    }
  }
}

/** A random fraction of the longest wait, so that about one node goes first, whatever their number. */
export function randomFraction (): number {
  return Math.max(0, 1 + Math.log(Math.random()) / Math.log(10_000))
}
