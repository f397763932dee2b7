import { BOUND, type Call } from './load.js'

export interface Row { hash: string, name: string }

export interface Rules {
  /** When the fault came and went. */
  struck: number
  /** When it was there in full. */
  full: number
  healed: number
  /** Nodes that were frozen themselves, so that nothing can be asked of their pace. */
  frozen?: readonly string[]
  /**
   * How many calls to Postgres a request may wait for meanwhile. At most two: a DELETE also lists, a lookup that was
   * overtaken is made again.
   */
  calls?: number
  /** What a token may be answered while it is there in full. */
  only?: readonly number[]
}

/** The figure of the contract, in milliseconds. */
const RECOVERY = 3000
/** A call to Postgres may take a second. */
const CALL = 1000
/** What a busy machine adds to it, beside what it adds to requests that ask for nothing. */
const SLACK = 500

const EXPECTED: Record<Call['what'], readonly number[]> = {
  use: [200, 401, 500], forged: [401], issue: [200, 500], revoke: [200, 500], plain: [200]
}

/** What a history, and the table at its end, say against the contract: nothing, if all is well. */
export function check (history: readonly Call[], rows: readonly Row[], {
  struck, full, healed, frozen = [], calls = 2, only = EXPECTED.use
}: Rules): string[] {
  const revocations = revocationsOf(history)
  const violations: string[] = []
  const slack = SLACK + slowestPlain(history, frozen)
  const say = (call: Call, what: string): void => {
    violations.push(
      `${what}: ${call.what} of ${call.name ?? 'nothing'} on ${call.node}, ${call.status} after ${Math.round(call.ended - call.begun)} ms, begun ${Math.round(call.begun - struck)} ms after the fault`
    )
  }
  for (const call of history) {
    const { what, status, hash = '', begun, ended, node } = call
    if (!EXPECTED[what].includes(status)) {
      say(
        call, what === 'plain' ? 'a request without a credential failed' : 'an answer that nothing explains'
      )
    }
    const { answered = Infinity, answeredBy = new Map<string, number>(), tried = Infinity } = revocations.get(hash) ??
      {}
    if (what === 'use' && status === 200) {
      if (begun >= (answeredBy.get(node) ??
        Infinity)) say(call, 'accepted by the node that had answered its revocation')
      if (begun > answered + BOUND) {
        say(
          call, `accepted ${Math.round(begun - answered)} ms after its revocation was answered`
        )
      }
    }
    if (what === 'use' && status === 401 && ended < tried) say(call, 'a good token was refused')
    const isMeanwhile = begun > full && ended < healed
    if (what === 'use' && isMeanwhile && !only.includes(status)) say(call, 'a guess')
    if (status === 500 && ended < struck) say(call, 'an error without a fault')
    if (status !== 200 && status !== 401 && begun > healed + RECOVERY) say(call, 'not recovered in time')
    if (ended - begun > (isMeanwhile ? calls : 2) * CALL + slack &&
      !frozen.includes(node)) say(call, 'not answered in time')
  }
  return [...violations, ...checkTable(history, rows)]
}

/** Each answered POST is in the table once, each answered DELETE is not, whatever befell the hosts. */
export function checkTable (history: readonly Call[], rows: readonly Row[]): string[] {
  const revocations = revocationsOf(history)
  const count = new Map<string, number>()
  for (const { name } of rows) count.set(name, (count.get(name) ?? 0) + 1)
  const hashes = new Set(rows.map(({ hash }) => hash))
  const violations = [...count].filter(([, times]) => times > 1).map(([name, times]) =>
    `stored ${times} times: ${name}`)
  for (const { what, status, name, hash = '' } of history) {
    if (what === 'issue' && status === 200 && !hashes.has(hash) &&
      !revocations.has(hash)) violations.push(`lost: ${name}`)
    if (what === 'revoke' && status === 200 && hashes.has(hash)) violations.push(`revoked and back: ${name}`)
  }
  return violations
}

interface Revocation {
  /** When the first DELETE was asked for, and when one was answered. */
  tried: number
  answered: number
  answeredBy: Map<string, number>
}

function revocationsOf (history: readonly Call[]): Map<string, Revocation> {
  const revocations = new Map<string, Revocation>()
  for (const { what, hash = '', node, status, begun, ended } of history) {
    if (what !== 'revoke') continue
    const known = revocations.get(hash) ??
      { tried: Infinity, answered: Infinity, answeredBy: new Map<string, number>() }
    revocations.set(hash, known)
    known.tried = Math.min(known.tried, begun)
    if (status === 200) {
      known.answered = Math.min(known.answered, ended)
      known.answeredBy.set(node, Math.min(known.answeredBy.get(node) ?? Infinity, ended))
    }
  }
  return revocations
}

/** What a node takes for a request that needs no Postgres, in milliseconds. */
function slowestPlain (history: readonly Call[], frozen: readonly string[]): number {
  return Math.max(0, ...history.filter(({ what, node }) =>
    what === 'plain' && !frozen.includes(node)).map(({ begun, ended }) => ended - begun))
}

export type Figures = ReturnType<typeof measure>

/** What was measured, in whole milliseconds. */
export function measure (history: readonly Call[], { struck, full, healed, frozen = [] }: Rules) {
  const revocations = revocationsOf(history)
  const most = (calls: readonly Call[], value: (call: Call) => number): number =>
    Math.round(Math.max(0, ...calls.map(value)))
  const took = ({ begun, ended }: Call): number => ended - begun
  const sinceHealed = ({ begun }: Call): number => begun - healed
  const paced = history.filter(({ node }) => !frozen.includes(node))
  const errors = history.filter(({ status }) => status !== 200 && status !== 401)
  const uses = history.filter(({ what }) => what === 'use')
  return {
    calls: history.length,
    errors: errors.length,
    /** After the answer of the DELETE. */
    lastAccepted: most(uses.filter(({ status }) => status === 200), ({ hash = '', begun }) =>
      begun - (revocations.get(hash)?.answered ?? Infinity)),
    slowest: most(history, took),
    slowestError: most(errors.filter(call => paced.includes(call)), took),
    slowestPlain: Math.round(slowestPlain(history, frozen)),
    /** After the fault was healed. */
    errorsUntil: most(errors, sinceHealed),
    leaseLostUntil: most(history.filter(({ lease }) => lease === 'lost'), sinceHealed),
    clock: most(history, ({ clock = 0 }) => Math.abs(clock)),
    lostLease: history.some(({ lease, begun }) => lease === 'lost' && begun >= struck),
    usesMeanwhile: [...new Set(uses.filter(({ begun, ended }) =>
      begun > full && ended < healed).map(({ status }) => status))].sort()
  }
}
