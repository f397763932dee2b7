import type { BugName } from './bugs.js'
import type { Figures } from './check.js'
import type { World } from './world.js'

/** How long a fault lasts, in milliseconds: longer than the bound of 2 s. */
export const LASTS = Number(process.env.FAULT_SECONDS ?? 3) * 1000

export interface Strike {
  name: string
  /** Brings it about; what it returns makes it good again. */
  strike: (world: World) => Promise<() => unknown>
  /** Nodes that can't answer while it lasts. */
  frozen?: readonly string[]
  /** How many calls to Postgres a request may wait for. */
  calls?: number
  /** What else than these a token may be answered while it lasts is a guess. */
  only?: readonly number[]
}

export interface Fault extends Strike {
  /** Whether it was there at all. */
  isFelt: (figures: Figures) => boolean
  /** What it must find where it is planted. */
  bug: BugName | readonly BugName[]
  caught: RegExp
}

export const hasErrors = ({ errors }: Figures): boolean => errors > 0
export const losesLease = ({ lostLease }: Figures): boolean => lostLease
export const isAccepted = /accepted (\d+ ms after|by the node that had answered)/
export const isSlow = /not answered in time/
