/**
 * The clock of `measure` ticks every so many milliseconds; a tick is late by so many where the process did not get its
 * turn.
 */
const [TICK, LATE] = [10, 15]

interface Measured<T> {
  result: T
  /** How long it took, in milliseconds, without the time in which a busy machine gave this process no turn. */
  took: number
  /** That time. */
  stalled: number
}

/** How long something takes. */
export async function measure<T> (work: () => Promise<T>): Promise<Measured<T>> {
  const started = performance.now()
  let last = started
  let stalled = 0
  const look = (): void => {
    const now = performance.now()
    if (now - last > LATE) stalled += now - last - TICK
    last = now
  }
  const clock = setInterval(look, TICK)
  try {
    const result = await work()
    look()
    return { result, took: last - started - stalled, stalled }
  } finally {
    clearInterval(clock)
  }
}

/** Measures again, up to ten times, while the machine is too busy for the limit. */
export async function measureAgain<T> (limit: number, work: () => Promise<T>): Promise<Measured<T>> {
  let measured = await measure(work)
  for (let tries = 1; tries < 10 && measured.took >= limit &&
    measured.stalled > LATE; tries++) measured = await measure(work)
  return measured
}
