import { setTimeout } from 'node:timers/promises'
import pg from 'pg'
import type { Test } from 'tap'
import { SECRET } from '../support/build-host.js'
import { type Postgres, startPostgres } from '../support/postgres.js'
import { createProxy, type Proxy } from '../support/proxy.js'
import { buildNode } from './build-node.js'
import type { BugName } from './bugs.js'
import { type Row } from './check.js'
import { type Node, startNode } from './start-node.js'

/** A Postgres, and three nodes on it. */
export interface World {
  postgres: Postgres
  /** Of the nodes `far` and `apart`. */
  proxy: Proxy
  /** On a socket of Postgres, with a pool of the host's own. */
  near: Node
  /** Behind the proxy, with a connection string. */
  far: Node
  /** Behind the proxy, too, but for the connection that listens. */
  apart: Node
  nodes: readonly [Node, ...Node[]]
  /** An operator's connection, made when it is asked for. */
  connect: () => Promise<pg.Client>
  /** What is in the table, which is empty then: a list of many pages may break off. */
  takeRows: () => Promise<Row[]>
  /** Resolves when no node holds its lease. */
  untilLost: () => Promise<void>
}

export const SETTINGS = ['max_connections=1000']

export async function startServer (t: Test): Promise<Postgres> {
  const postgres = await startPostgres({ settings: SETTINGS })
  t.teardown(() => postgres.end())
  return postgres
}

/** @param isMovable all nodes behind the proxy, so that it may lead them to another server */
export async function createWorld (t: Test, postgres: Postgres, bug?: BugName, isMovable = false): Promise<World> {
  const build = await buildNode(bug)
  t.teardown(build.remove)
  const proxy = await createProxy(t, postgres.url)
  const direct = isMovable ? proxy.url : postgres.url
  const nodes = await Promise.all([
    startNode('near', build, { postgres: direct, secret: SECRET, ownPool: 10 }),
    startNode('far', build, { postgres: proxy.url, secret: SECRET }),
    startNode('apart', build, { postgres: proxy.url, listen: direct, secret: SECRET })
  ])
  for (const node of nodes) t.teardown(node.kill)
  const [near, far, apart] = nodes

  return {
    postgres,
    proxy,
    near,
    far,
    apart,
    nodes,
    connect: async () => await connectTo(direct),
    async takeRows () {
      const client = await connectTo(direct)
      // First, since nodes write when tokens were last used, and each would wait for the other's rows.
      await client.query('BEGIN; LOCK TABLE mmc_tokens.tokens IN EXCLUSIVE MODE')
      const { rows } = await client.query<Row>('DELETE FROM mmc_tokens.tokens RETURNING hash, name')
      await client.query('COMMIT')
      await client.end()
      return rows
    },
    async untilLost () {
      for (const { address } of nodes) {
        while ((await (await fetch(`${address}/health`)).json() as { lease: string }).lease !== 'lost') await setTimeout(20)
      }
    }
  }
}

export async function connectTo (url: string): Promise<pg.Client> {
  const client = new pg.Client(url)
  // The server may go away.
  client.on('error', () => {})
  await client.connect()
  return client
}
