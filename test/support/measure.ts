/** The clock of `measure` ticks every so many milliseconds; a tick is late by so many where the process did not get its turn. */
const [TICK, LATE] = [10, 20]

/** How long something takes, in milliseconds, without the time in which a busy machine gave this process no turn. */
export async function measure<T> (work: () => Promise<T>): Promise<{ result: T, took: number }> {
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
    return { result, took: last - started - stalled }
  } finally {
    clearInterval(clock)
  }
}
