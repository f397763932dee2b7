import { mock } from 'node:test'
import type { Test } from 'tap'

/**
 * Timers of this kind that begin from now on wait until their time passes by the function returned; those that run go
 * on by the clock.
 */
export function holdTimers (t: Test, api: 'setTimeout' | 'setInterval'): (milliseconds: number) => void {
  mock.timers.enable({ apis: [api] })
  t.teardown(() => { mock.timers.reset() })
  return milliseconds => { mock.timers.tick(milliseconds) }
}
