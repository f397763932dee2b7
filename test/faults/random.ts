import { randomInt } from 'node:crypto'

/** Repeats what a run did: `FAULT_SEED`, else another each time. Times are not repeated. */
export const SEED = Number(process.env.FAULT_SEED ?? randomInt(2 ** 32))

/** 0 to 1, the same sequence from the same seed (mulberry32). */
export type Random = () => number

export function createRandom (seed = SEED): Random {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

export function pick<T> (random: Random, list: readonly T[]): T | undefined {
  return list[Math.floor(random() * list.length)]
}
