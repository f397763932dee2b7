import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { type Fault, hasErrors, isAccepted, isSlow, LASTS, losesLease } from './fault.js'
import { NETWORK_FAULTS } from './network-faults.js'

const HOUR = 60 * 60 * 1000

/** Single faults, from outside: of Postgres, of a node. */
const OTHERS: readonly Fault[] = [
  {
    name: 'Postgres is stopped',
    strike: async ({ postgres }) => {
      await postgres.stop()
      return postgres.start
    },
    isFelt: hasErrors,
    calls: 1,
    bug: 'an error of the database is a 401',
    caught: /a good token was refused/
  },
  {
    name: 'Postgres crashes (-m immediate)',
    strike: async ({ postgres }) => {
      await postgres.stop('SIGQUIT')
      return postgres.start
    },
    isFelt: hasErrors,
    bug: 'nobody listens to the errors of a pool',
    caught: /a request without a credential failed/
  },
  {
    name: 'backends are terminated every 100 ms',
    strike: async ({ connect }) => {
      const client = await connect()
      const timer = setInterval(() => {
        client.query(
          'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()'
        ).catch(() => {})
      }, 100)
      return async () => {
        clearInterval(timer)
        await client.end()
      }
    },
    isFelt: losesLease,
    bug: 'the cache is kept when the connection is replaced',
    caught: isAccepted
  },
  {
    name: 'Postgres is frozen (SIGSTOP)',
    strike: async ({ postgres, connect }) => {
      const [client, server] = [await connect(), await postgres.pid()]
      // First the process that starts backends, then the backends, and last the one that lists them.
      process.kill(server, 'SIGSTOP')
      const { rows } = await client.query<{ pid: number }>(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' ORDER BY pid = pg_backend_pid()"
      )
      const pids = [server, ...rows.map(({ pid }) => pid)]
      for (const pid of pids.slice(1)) process.kill(pid, 'SIGSTOP')
      return async () => {
        for (const pid of pids) process.kill(pid, 'SIGCONT')
        await client.end()
      }
    },
    isFelt: hasErrors,
    calls: 1,
    bug: 'a call may take 5 s',
    caught: isSlow
  },
  {
    name: 'a node is frozen (SIGSTOP), and its connections end meanwhile',
    strike: async ({ far, proxy }) => {
      process.kill(far.pid, 'SIGSTOP')
      await setTimeout(200)
      proxy.cut()
      return () => process.kill(far.pid, 'SIGCONT')
    },
    isFelt: ({ slowest }) => slowest > LASTS / 2,
    frozen: ['far'],
    bug: 'nobody listens to the errors of a pool',
    caught: /a request without a credential failed/
  },
  {
    name: "slow queries hold the host's own pool",
    strike: async ({ near }) => {
      near.tell({ exhaust: LASTS })
      return () => {}
    },
    isFelt: hasErrors,
    calls: 1,
    bug: 'a request without a credential asks Postgres',
    caught: /a request without a credential failed/
  },
  {
    name: 'all rows are locked',
    strike: async ({ connect }) => {
      const client = await connect()
      await client.query('BEGIN; SELECT hash FROM mmc_tokens.tokens ORDER BY hash FOR UPDATE')
      return async () => { await client.end() }
    },
    isFelt: hasErrors,
    bug: 'a failed delete is a 200',
    caught: /accepted by the node/
  },
  {
    name: 'the table is locked',
    strike: async ({ connect }) => {
      const client = await connect()
      await client.query('BEGIN; LOCK TABLE mmc_tokens.tokens IN ACCESS EXCLUSIVE MODE')
      return async () => { await client.end() }
    },
    isFelt: hasErrors,
    bug: 'a call may take 5 s',
    caught: isSlow
  },
  {
    name: 'the database is read-only (default_transaction_read_only)',
    strike: async ({ connect }) => {
      const client = await connect()
      await client.query('SET default_transaction_read_only = off')
      await client.query('ALTER SYSTEM SET default_transaction_read_only = on')
      await client.query('SELECT pg_reload_conf()')
      return async () => {
        await client.query('ALTER SYSTEM RESET default_transaction_read_only')
        await client.query('SELECT pg_reload_conf()')
        await client.end()
      }
    },
    isFelt: hasErrors,
    bug: 'a failed insert is a 200',
    caught: /lost/
  },
  {
    name: 'lookups reach a server in recovery',
    strike: async ({ postgres, untilLost }) => {
      const signal = join(postgres.folder, 'standby.signal')
      await postgres.stop()
      await writeFile(signal, '')
      await postgres.start()
      await untilLost()
      return async () => {
        await postgres.stop()
        await rm(signal)
        await postgres.start()
      }
    },
    isFelt: hasErrors,
    only: [500],
    bug: 'a standby is believed',
    caught: /a guess/
  },
  {
    name: 'the clock of a node steps an hour on, then two back',
    strike: async ({ far }) => {
      far.tell({ clock: HOUR })
      await setTimeout(LASTS / 2)
      far.tell({ clock: -HOUR })
      return () => { far.tell({ clock: 0 }) }
    },
    isFelt: ({ clock }) => clock > HOUR / 2,
    bug: 'a token of the future is refused',
    caught: /a good token was refused/
  }
]

/** All, or those whose name holds `FAULT`. */
export function chosen (): Fault[] {
  return [...OTHERS, ...NETWORK_FAULTS].filter(({ name }) => name.includes(process.env.FAULT ?? ''))
}
