import { setTimeout } from 'node:timers/promises'
import { type Fault, isAccepted, isSlow, losesLease } from './fault.js'

/** RowDescription and NotificationResponse of Postgres's protocol. */
const isQuestion = (message: Buffer): boolean => message[0] === 0x54 && message.includes('xmax')
const isBeat = (message: Buffer): boolean => message[0] === 0x41 && /\0\d+\0$/.test(message.toString('latin1'))

/** A proxy stands before two of the three nodes. */
export const NETWORK_FAULTS: readonly Fault[] = [
  {
    name: 'the way to Postgres swallows what is sent',
    strike: async ({ proxy }) => {
      proxy.set('swallow up')
      return () => { proxy.set('none') }
    },
    isFelt: losesLease,
    bug: 'a call may take 5 s',
    caught: isSlow
  },
  {
    name: 'the way from Postgres swallows what is sent',
    strike: async ({ proxy }) => {
      proxy.set('swallow down')
      return () => { proxy.set('none') }
    },
    isFelt: losesLease,
    bug: 'the cache is believed without a lease',
    caught: isAccepted
  },
  {
    name: 'notifications are dropped, and nothing else',
    strike: async ({ proxy }) => {
      proxy.set('swallow notifications')
      return () => { proxy.set('none') }
    },
    isFelt: losesLease,
    bug: ['the answer to the question is taken for a proof', 'the answer of the pool is taken for a proof'],
    caught: isAccepted
  },
  {
    name: 'notifications are dropped, and the same node revokes',
    strike: async ({ proxy }) => {
      proxy.set('swallow notifications')
      return () => { proxy.set('none') }
    },
    isFelt: losesLease,
    bug: 'the node that revokes waits for its notification',
    caught: /accepted by the node that had answered/
  },
  {
    name: 'connections are cut and refused',
    strike: async ({ proxy }) => {
      proxy.set('refuse')
      proxy.cut()
      return () => { proxy.set('none') }
    },
    isFelt: losesLease,
    bug: 'the cache is kept when the connection is replaced',
    caught: isAccepted
  },
  {
    name: 'connections are half-open: gone in Postgres, there in the node',
    strike: async ({ proxy }) => {
      proxy.halve()
      return () => {}
    },
    isFelt: ({ slowest }) => slowest > 900,
    bug: 'a call may take 5 s',
    caught: isSlow
  },
  {
    name: 'what Postgres sends is 300 ms late, to one node all but notifications',
    strike: async ({ proxy }) => {
      proxy.delay(300)
      return () => { proxy.delay(0) }
    },
    isFelt: ({ slowest }) => slowest > 290,
    bug: 'a lookup stores what it read before the revocation',
    caught: isAccepted
  },
  {
    name: 'what Postgres sends is 700 ms late, then nothing comes',
    strike: async ({ proxy }) => {
      proxy.delay(700)
      await setTimeout(700)
      // In the moment of a proof: the answer to a question, and a beat after it.
      await proxy.arrived(isQuestion)
      await proxy.arrived(isBeat)
      proxy.set('swallow down')
      return () => {
        proxy.delay(0)
        proxy.set('none')
      }
    },
    isFelt: losesLease,
    bug: 'a lease counts from when the beat was heard',
    caught: isAccepted
  },
  {
    name: 'what Postgres sends is 1.5 s late',
    strike: async ({ proxy }) => {
      proxy.delay(1500)
      return () => { proxy.delay(0) }
    },
    isFelt: losesLease,
    bug: 'a call may take 5 s',
    caught: isSlow
  }
]
