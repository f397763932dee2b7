import pg from 'pg'
import { DatabaseError, DeadlineError, OptionError } from '../errors.js'
import type { Log, PostgresClient, PostgresConfig, PostgresPool } from '../types.js'

/** How long a call may take, the wait for a connection included, in milliseconds: so that who waits for it has an answer within a second. */
export const DEADLINE = 900

/** Postgres's code where it ends a session that was idle for too long, which is no trouble of anybody. */
const IDLE_SESSION_TIMEOUT = '57P05'

/** Every column is text, which a pool of the host with `binary: true` hands over as bytes; its own parsers are not asked. */
const AS_TEXT = { getTypeParser: () => String }

export interface Query { text: string, values?: unknown[], name?: string }

export type Run = <Row>(query: Query) => Promise<Row[]>

/** A way to Postgres. Nothing connects before the first call. */
export interface Connection {
  /** Host, port and database, for people: no password. */
  place: string
  /**
   * Gives `work` a client, for at most a second. Whose pool it is, and how it is set, makes no difference: a client that comes too late
   * goes back unused, and one that may still be at work when time is up, or that met an error, is closed, which also ends its transaction.
   * @param deadline in milliseconds, where it is not the usual one
   * @throws DeadlineError, or what `work` throws
   */
  withClient: <T>(work: (run: Run) => Promise<T>, deadline?: number) => Promise<T>
  /** The same way, for a client of one's own. Read it for each: the host may change the password of its pool. */
  readonly config: PostgresConfig
  /** Ends the pool, unless it is the host's. */
  close: () => Promise<void>
}

/** @throws OptionError for a connection string that can't be read */
export function createConnection (postgres: string | PostgresConfig | PostgresPool, log: Log): Connection {
  const isTheirs = isPool(postgres)
  const configure = (): PostgresConfig => isTheirs ? configOf(postgres) : typeof postgres === 'string' ? { connectionString: postgres } : postgres
  const config = configure()
  const place = describePlace(config)
  const own = isTheirs ? undefined : createPool(config)
  const pool = own ?? postgres as PostgresPool

  // Without a listener, a pool whose idle connection ends would end the process.
  const onError = (error: Error): void => {
    if (codeOf(error) !== IDLE_SESSION_TIMEOUT) log.warn({ err: error }, `lost a connection to Postgres at ${place}`)
  }
  pool.on('error', onError)

  return {
    place,
    get config () { return configure() },
    withClient (work, deadline = DEADLINE) {
      // A connection that comes later than the call's deadline would keep others from connecting.
      if (own !== undefined && config.connectionTimeoutMillis === undefined) own.options.connectionTimeoutMillis = deadline
      return withClient(pool, work, deadline)
    },
    async close () {
      if (own === undefined) pool.off('error', onError)
      else await closeInTime(own.end(), log)
    }
  }
}

/** What to do, by Postgres's code: its own sentence says only what went wrong. */
const ADVICE: Record<string, string> = {
  28000: 'check the user, and which addresses and TLS modes pg_hba.conf allows',
  '28P01': 'check the user and the password',
  42501: 'let the role create the schema (GRANT CREATE ON DATABASE … TO …), or migrate as another role and set the option "migrate" to false: see "Migrations by hand" in docs/host-integration.md',
  '3D000': 'create the database, or correct its name'
}

/** pg says so, without a code, where Postgres asks for a password and there is none. */
const NO_PASSWORD = /client password must be a/

/** The code that Postgres or Node gave an error, where one did. */
export function codeOf (error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? ''
}

/** What went wrong at this place, for whoever starts the host. */
export function explain (place: string, cause: unknown): Error {
  const { message } = cause as Error
  const code = codeOf(cause)
  const advice = NO_PASSWORD.test(message) ? 'the user needs a password: postgres://user:password@…, or PGPASSWORD' : ADVICE[code]
  // Node refuses `localhost` with an AggregateError, whose own message is empty.
  return new DatabaseError(`Postgres at ${place} can't be used: ${message === '' ? code : message}${advice === undefined ? '' : `; ${advice}`}`, { cause })
}

/** Waits for a connection to say goodbye, which one that has gone silent never does: then the host closes without. */
export async function closeInTime (closing: Promise<void>, log: Log): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    // Not unref'ed: a connection that closes holds the process no more, but who waits for it must hear of it.
    timer = setTimeout(() => { reject(new DeadlineError(DEADLINE)) }, DEADLINE)
  })
  await Promise.race([closing, late]).catch((error: unknown) => {
    log.warn({ err: error }, 'a connection to Postgres did not close in time')
  })
  clearTimeout(timer)
}

function withClient<T> (pool: PostgresPool, work: (run: Run) => Promise<T>, deadline: number): Promise<T> {
  return new Promise((resolve, reject) => {
    let client: PostgresClient | undefined
    let isOver = false
    function end (isSound: boolean, settle: () => void): void {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      if (client !== undefined) {
        client.off('error', ignore)
        client.release(!isSound)
      }
      settle()
    }
    const fail = (error: unknown): void => { end(false, () => { reject(error) }) }
    // Not unref'ed: as above. In a process that was busy, an answer that waits to be read came in time.
    const timer = setTimeout(setImmediate, deadline, () => { fail(new DeadlineError(deadline)) })

    // By callback: a client may fail in the very turn in which it comes, before a promise of it is heard of.
    pool.connect((error, fresh) => {
      if (fresh === undefined) {
        fail(error)
      } else if (isOver) {
        fresh.release()
      } else {
        client = fresh
        // Without a listener, a connection that ends meanwhile would end the process.
        client.on('error', ignore)
        work(runOn(fresh)).then(result => { end(true, () => { resolve(result) }) }, fail)
      }
    })
  })
}

/** Asks on a client of one's own. */
export function runOn (client: Pick<PostgresClient, 'query'>): Run {
  return async query => (await client.query({ ...query, types: AS_TEXT })).rows as never
}

/** A lost connection's second report: the first is the query's. */
function ignore (): void {}

function isPool (postgres: string | PostgresConfig | PostgresPool): postgres is PostgresPool {
  return typeof postgres === 'object' && typeof postgres.connect === 'function'
}

/** How a pool connects. It hides its password from whoever lists its options. */
function configOf (pool: PostgresPool): PostgresConfig {
  const { options = {} } = pool as { options?: PostgresConfig }
  return { ...options, password: options.password }
}

function createPool (config: PostgresConfig): pg.Pool {
  return new pg.Pool({ application_name: 'fastify-mmc-tokens', connectionTimeoutMillis: DEADLINE, keepAlive: true, allowExitOnIdle: true, ...config })
}

function describePlace (config: PostgresConfig): string {
  try {
    const { host, port, database } = new pg.Client(config)
    return `${host}:${port}, database ${JSON.stringify(database)}`
  } catch {
    // The cause would show the password.
    throw new OptionError('option "postgres" is not a connection string that pg can read: write postgres://user:password@host:5432/database, its special characters percent-encoded')
  }
}
