/** What a server process is given. */
export interface Setting {
  /** Connection string. */
  postgres: string
  /** Schema for the tables of this contender. */
  schema: string
}

/** One of the requests that are sent to a contender. */
export interface Sent {
  path: string
  authorization?: string
}

/** One server under test. */
export interface Contender {
  /** Starts to listen on a free port; answers the base URL. */
  listen: () => Promise<string>
  /** What is sent to it, one after the other and again from the first. */
  sent: Sent[]
  /** What it answers to each. */
  status: 200 | 401
  /** Milliseconds from the first registration to ready, where somebody wants to know. */
  readyIn?: number
  /** What it can do besides, asked by the parent process. */
  tasks?: Record<string, (argument: number) => Promise<unknown>>
}

export type CreateContender = (setting: Setting) => Promise<Contender>

export const SECRET = 'a secret of the benchmark, long enough: 0123456789'

export const LISTEN = { host: '127.0.0.1', port: 0 }

/** The handler that all have. */
export const hello = async () => ({ hello: 'world' })
