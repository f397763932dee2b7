import pg from 'pg'
import { DatabaseError, DeadlineError, OptionError, OverloadError } from '../errors.js'
import type { Log, PostgresClient, PostgresConfig, PostgresPool } from '../types.js'
import { cancel } from './cancel.js'
import { closeByDeadline, DEADLINE } from './deadline.js'

/** The maximum number of calls that wait for a client. Late ones count: a pool queues them until a client is free. */
const MAX_WAITING = 10_000

/** Postgres's code for a session that was idle for too long, which is no problem. */
const IDLE_SESSION_TIMEOUT = '57P05'

/** Every column is text, also if the host's pool has `binary: true` or parsers of its own. */
const AS_TEXT = { getTypeParser: () => String }

/** How the plugin's own pool differs from the defaults of pg. */
const POOL = {
  application_name: 'fastify-mmc-tokens', connectionTimeoutMillis: DEADLINE, keepAlive: true, allowExitOnIdle: true
}

export interface SqlQuery { text: string, values?: unknown[], name?: string }

export type Run = <Row>(query: SqlQuery) => Promise<Row[]>

/** A connection to Postgres; the first call opens it. */
export interface Connection {
  /** Host, port and database, for messages; no password. */
  target: string
  /** Whether no pooler is in between. */
  isDirect: boolean
  /**
   * Runs `work` with a client, for at most the deadline, whatever the settings of the pool. A client that arrives too
   * late is returned unused. One that met an error, or may still be busy, is closed, which also ends its transaction.
   * @param deadline in milliseconds
   * @param isCancelled whether a statement that is given up is cancelled. Behind a pooler none is: it would take one of
   * its connections, and arrive after the client has left
   * @throws DeadlineError, or what `work` throws
   */
  withClient: <T>(work: (run: Run) => Promise<T>, deadline?: number, isCancelled?: boolean) => Promise<T>
  /** For a separate client. Read it for each: the host may change the password of its pool. */
  readonly config: PostgresConfig
  /** Ends the pool, unless it is the host's. */
  close: () => Promise<void>
}

/** @throws OptionError for a connection string that can't be read */
export function createConnection (
  postgres: string | PostgresConfig | PostgresPool, log: Log, isDirect = true
): Connection {
  const given = typeof postgres === 'string' ? { connectionString: postgres } : postgres
  const configure = (): PostgresConfig => isPool(given) ? configOf(given) : given
  const config = configure()
  const target = describe(config)
  const own = isPool(given) ? undefined : new pg.Pool({ ...POOL, ...config })
  const pool = own ?? given as PostgresPool
  let waiting = 0

  // Without a listener, a pool that loses an idle connection would end the process.
  const onError = (error: Error): void => {
    // pg's pool adds the client, which has the passphrase of the TLS key and the secret that cancels its queries.
    Object.defineProperty(error, 'client', { enumerable: false })
    if (codeOf(error) !== IDLE_SESSION_TIMEOUT) log.warn({ err: error }, `lost a connection to Postgres at ${target}`)
  }
  pool.on('error', onError)

  return {
    target,
    isDirect,
    get config () { return configure() },
    async withClient (work, deadline = DEADLINE, isCancelled = true) {
      // A connection that takes longer than the deadline would keep others from connecting.
      if (own && config.connectionTimeoutMillis === undefined) own.options.connectionTimeoutMillis = deadline
      if (waiting >= MAX_WAITING) throw new OverloadError()
      waiting++
      const giveUp = (client: PostgresClient): void => { if (isDirect && isCancelled) cancel(client, configure()) }
      return await withClient(pool, work, deadline, () => { waiting-- }, giveUp)
    },
    async close () {
      if (own === undefined) pool.off('error', onError)
      else await closeByDeadline(own.end(), log)
    }
  }
}

/** What to do, by Postgres's code: its message says only what went wrong. */
const ADVICE: Record<string, string> = {
  28000: 'check the user, and which addresses and TLS modes pg_hba.conf allows',
  '28P01': 'check the user and the password',
  42501: 'grant the role what it lacks: CREATE ON DATABASE to migrate, otherwise the GRANTs of "Migrations by hand" ' +
    'in docs/postgres.md',
  'no password': 'the user needs a password: postgres://user:password@…, or PGPASSWORD',
  '3D000': 'create the database, or correct its name'
}

/** pg's message, without a code, if Postgres asks for a password and there is none. */
const NO_PASSWORD = /client password must be a/

/** The code of an error of Postgres or Node, or an empty string. */
export function codeOf (error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? ''
}

/** Explains why Postgres can't be used, for the developer who starts the host. */
export function explain (target: string, cause: unknown): Error {
  const { message } = cause as Error
  const code = codeOf(cause)
  const advice = ADVICE[NO_PASSWORD.test(message) ? 'no password' : code]
  // Node refuses `localhost` with an AggregateError, whose own message is empty.
  const reason = [message === '' ? code : message, advice].filter(Boolean).join('; ')
  return new DatabaseError(`Postgres at ${target} can't be used: ${reason}`, { cause })
}

function withClient<T> (
  pool: PostgresPool, work: (run: Run) => Promise<T>, deadline: number, onAnswer: () => void,
  giveUp: (client: PostgresClient) => void
): Promise<T> {
  return new Promise((resolve, reject) => {
    let client: PostgresClient | undefined
    let [isOver, isAnswered] = [false, false]
    function end (settle: () => void, error?: Error): void {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      if (client !== undefined) {
        // Without an answer of Postgres, its statement may still run.
        if (error instanceof DeadlineError || (error !== undefined && codeOf(error) === '')) giveUp(client)
        giveBack(client, error !== undefined)
      }
      settle()
    }
    const fail = (error: Error): void => { end(() => { reject(error) }, error) }
    // Not unref'ed: the caller waits. After `setImmediate`, so that an answer that has already arrived is read first.
    const timer = setTimeout(setImmediate, deadline, () => { fail(new DeadlineError(deadline)) })

    // By callback: a client may fail in the turn in which it arrives, before a promise would resolve.
    const onClient = (error: unknown, fresh?: PostgresClient): void => {
      if (isAnswered) return
      isAnswered = true
      onAnswer()
      // Without a listener, a connection that is lost would end the process.
      fresh?.on('error', ignore)
      if (fresh === undefined) {
        fail(error as Error)
      } else if (isOver) {
        // In a later tick: the pool would call the next late callback from here, until the stack overflows.
        process.nextTick(() => { giveBack(fresh) })
      } else {
        client = fresh
        work(runOn(fresh)).then(result => { end(() => { resolve(result) }) }, fail)
      }
    }
    // A pool of the host may throw, or return a promise and ignore the callback.
    const connect = async (): Promise<void> => {
      const fresh = await pool.connect(onClient) as PostgresClient | undefined
      if (fresh?.query !== undefined) onClient(undefined, fresh)
    }
    connect().catch(onClient)
  })
}

function giveBack (client: PostgresClient, isBroken?: boolean): void {
  client.off('error', ignore)
  client.release(isBroken)
}

/** Queries on this client. */
export function runOn (client: Pick<PostgresClient, 'query'>): Run {
  return async query => (await client.query({ ...query, types: AS_TEXT })).rows as never
}

/** A lost connection reports twice: the query has the error. */
function ignore (): void {}

function isPool (postgres: string | PostgresConfig | PostgresPool): postgres is PostgresPool {
  return typeof postgres === 'object' && typeof (postgres as PostgresPool).connect === 'function'
}

/** How a pool connects. Its password is not enumerable. */
function configOf (pool: PostgresPool): PostgresConfig {
  const { options = {} } = pool as { options?: PostgresConfig }
  return { ...options, password: options.password }
}

/** An `@` behind the address: pg takes a part of the password for the port, the database or a parameter. */
const UNENCODED = /^postgres(ql)?:\/\/[^/?#]*(\/[^?#]*@|[^?#]*\?[^=#]*@|[^#]*#.*@)/i
const UNREADABLE = 'is not a connection string that pg can read: write postgres://user:password@host:5432/database, ' +
  'with special characters percent-encoded'

function describe (config: PostgresConfig): string {
  try {
    if (UNENCODED.test(config.connectionString ?? '')) throw new Error()
    const { host, port, database } = new pg.Client(config)
    return `${host}:${port}, database ${JSON.stringify(database)}`
  } catch (error) {
    const { path } = error as NodeJS.ErrnoException
    const reason = path === undefined ? UNREADABLE : `names the file ${path}, which can't be read`
    // The cause would show the password.
    throw new OptionError(`option "postgres" or "listen" ${reason}`)
  }
}
