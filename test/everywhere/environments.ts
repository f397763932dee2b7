import { randomInt } from 'node:crypto'

/** What a test run meets on somebody's machine. */
export interface Environment {
  title: string
  /** Debian packages without which it can't be made. */
  packages: string[]
  /** The name of the folder of the checkout. */
  folder?: string
  /** Who runs the tests; a name that the system knows. Default: who runs this. */
  user?: string
  umask?: string
  /** Variables; `undefined` unsets one. */
  variables: Record<string, string | undefined>
  /** Made with localedef. */
  locale?: string
  /** `npm test` runs in it. */
  wrapper?: string[]
  /** Asks for a Postgres of Debian. */
  hasDebianPostgres?: boolean
  /** Processes that take all of a core each, beside the tests. */
  busyLoops?: number
}

const NONSENSE = 'nonsense'

export const ENVIRONMENTS: Environment[] = [
  {
    title: 'root, no USER, no HOME, LC_ALL=C, no CI',
    packages: [],
    user: 'root',
    variables: { USER: undefined, LOGNAME: undefined, HOME: undefined, LANG: undefined, LC_ALL: 'C', CI: undefined }
  },
  {
    title: 'another user, an odd path, umask 077, Turkish, PG* set',
    packages: ['locales'],
    user: 'www-data',
    folder: 'a b%20c ü',
    umask: '077',
    locale: 'tr_TR.UTF-8',
    variables: {
      LC_ALL: 'tr_TR.UTF-8', CI: undefined, PGHOST: NONSENSE, PGUSER: NONSENSE, PGDATABASE: NONSENSE, PGPASSWORD: NONSENSE, PGSSLMODE: NONSENSE, PGOPTIONS: NONSENSE
    }
  },
  {
    title: 'Pacific/Apia, a Postgres 15 of Debian, CI, FORCE_COLOR, USER',
    packages: ['postgresql-15'],
    hasDebianPostgres: true,
    variables: { TZ: 'Pacific/Apia', CI: 'true', FORCE_COLOR: '1', USER: 'somebody' }
  },
  {
    title: 'the clock 400 days ahead',
    packages: ['faketime'],
    // Not by its program: that shares memory which another user, as who Postgres runs, can't open.
    wrapper: ['sh', '-c', 'export LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketime.so.1); exec "$@"', 'sh'],
    variables: { FAKETIME: '+400d', FAKETIME_DONT_FAKE_MONOTONIC: '1', FAKETIME_DISABLE_SHM: '1' }
  },
  {
    title: 'four busy loops beside it, files in random order, other fonts',
    packages: ['fonts-noto', 'fonts-dejavu'],
    busyLoops: 4,
    variables: { TEST_ORDER_SEED: process.env.TEST_ORDER_SEED ?? String(randomInt(2 ** 32)) }
  }
]
