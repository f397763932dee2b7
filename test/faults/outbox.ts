import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import type { TokenEvent } from '../../lib/index.js'
import { bearer, SECRET } from '../support/build-host.js'
import { createProxy } from '../support/proxy.js'
import { until } from '../support/until.js'
import { buildNode } from './build-node.js'
import type { BugName } from './bugs.js'
import { login } from './load.js'
import { createRandom, pick } from './random.js'
import { type Node, startNode } from './start-node.js'
import { connectTo, startServer } from './world.js'

export type OutboxFault = 'a node is killed' | 'Postgres is restarted' | 'the answer of each statement is lost once'

interface Options {
  fault: OutboxFault
  /** Creates and revokes. */
  acts: number
  bug?: BugName
}

interface Act { what: 'INSERT' | 'DELETE', hash: string, name: string }

/** Who acts at a time. */
const LANES = 4
/** Of so many revocations one is by SQL. */
const SQL = 20
/** How often the fault happens in a run. */
const TIMES = 8
/** The statements that the outbox needs: each writes to it. */
const STATEMENTS = ['insert', 'remove', 'claim', 'drop', 'defer']

/** An act is the lane's of its name, by another actor where it ends. */
const actorOf = ({ what, name }: Act): string | null => {
  const lane = Number(name.split(' ')[0])
  if (what === 'DELETE' && name.endsWith('sql')) return null
  return Number.isNaN(lane) ? 'cedalo' : `token:actor ${what === 'INSERT' ? lane : (lane + 1) % LANES}`
}

/**
 * Two nodes, a fault that strikes again and again while tokens are created and revoked on both, and a publication for
 * all tables. A trigger of the test writes down what happened; every event that a listener took is compared with that.
 */
export async function auditUnder (t: Test, { fault, acts, bug }: Options) {
  const [postgres, build, folder] = await Promise.all([
    startServer(t), buildNode(bug), mkdtemp(join(tmpdir(), 'mmc-tokens-'))
  ])
  t.teardown(async () => { await Promise.all([build.remove(), rm(folder, { recursive: true })]) })
  await mkdir(join(folder, 'told'))
  const proxy = await createProxy(t, postgres.url)
  const random = createRandom()
  let started = 0
  const start = async (): Promise<Node> => await startNode(`node ${++started}`, build, {
    postgres: proxy.url, secret: SECRET, events: join(folder, 'told', String(started))
  })
  const nodes = [await start(), await start()] as [Node, Node]
  t.teardown(async () => { for (const node of nodes) await node.kill() })
  const client = await connectTo(postgres.url)
  await client.query(`
    CREATE TABLE witness (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, hash text, name text);
    CREATE FUNCTION witness () RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF TG_OP = 'INSERT' THEN INSERT INTO public.witness (what, hash, name) VALUES (TG_OP, NEW.hash, NEW.name);
      ELSE INSERT INTO public.witness (what, hash, name) VALUES (TG_OP, OLD.hash, OLD.name); END IF;
      RETURN NULL;
    END $$;
    CREATE TRIGGER witness AFTER INSERT OR DELETE ON mmc_tokens.tokens FOR EACH ROW EXECUTE FUNCTION witness();
    CREATE PUBLICATION capture FOR ALL TABLES`)
  await client.end()

  /** Whether it was answered, and how. */
  async function ask (
    method: string, path: string, headers: Record<string, string>, body?: object
  ): Promise<{ status: number, body: unknown }> {
    const init = {
      method,
      headers: { ...headers, ...body && { 'content-type': 'application/json' } },
      signal: AbortSignal.timeout(10_000),
      ...body && { body: JSON.stringify(body) }
    }
    try {
      const response = await fetch(`${pick(random, nodes)?.address}${path}`, init)
      return { status: response.status, body: await response.json() }
    } catch {
      return { status: 0, body: null }
    }
  }

  const session = await login(nodes[0])
  const issue = async (name: string, headers: Record<string, string>, role = 'viewer'): Promise<{ hash: string, token: string } | undefined> => {
    const { status, body } = await ask('POST', '/api/tokens', headers, {
      name, role, validUntil: '2999-01-01T00:00:00Z'
    })
    return status === 200 ? body as { hash: string, token: string } : undefined
  }
  const actors: string[] = []
  for (let lane = 0; lane < LANES; lane++) actors.push(String((await issue(`actor ${lane}`, session, 'admin'))?.token))

  async function sql (text: string, values: unknown[]): Promise<Act[]> {
    const client = await connectTo(postgres.url)
    return await client.query<Act>(text, values).then(({ rows }) => rows).finally(
      () => { client.end().catch(() => {}) }
    )
  }

  let done = 0
  let unanswered = 0
  async function work (lane: number): Promise<void> {
    for (let n = 0; done < acts; n++) {
      const isSql = n % SQL === SQL - 1
      const issued = await issue(`${lane} ${n}${isSql ? ' sql' : ''}`, bearer(String(actors[lane])))
      done++
      if (issued === undefined) {
        unanswered++
        await pause(20)
        continue
      }
      const end = async (): Promise<boolean> => {
        if (isSql) {
          return await sql(
            'DELETE FROM mmc_tokens.tokens WHERE hash = $1', [issued.hash]
          ).then(() => true, () => false)
        }
        return (await ask(
          'DELETE', `/api/tokens/${issued.hash}`, bearer(String(actors[(lane + 1) % LANES]))
        )).status === 200
      }
      done++
      while (!await end()) {
        unanswered++
        await pause(20)
      }
    }
  }

  async function strike (time: number): Promise<void> {
    if (fault === 'a node is killed') {
      const index = random() < 0.5 ? 0 : 1
      await nodes[index].kill()
      nodes[index] = await start()
    } else if (fault === 'Postgres is restarted') {
      await postgres.stop(time % 2 === 0 ? 'SIGINT' : 'SIGQUIT')
      await postgres.start()
      // The lease and the pools come back.
      await pause(1000)
    } else {
      const statement = STATEMENTS[time]
      if (statement !== undefined) await proxy.lose(`.mmc_tokens.${statement}\0`.slice(1))
    }
  }

  const lanes = Promise.all(actors.map(async (_, lane) => { await work(lane) }))
  const isOver = (): boolean => done >= acts
  for (let time = 0; time < TIMES && !isOver(); time++) {
    const next = done + random() * 2 * acts / TIMES
    await until(() => done >= Math.min(next, acts))
    await strike(time)
  }
  await lanes

  // What a dead node had claimed is free after a minute, and so is what failed; each act lets a node look.
  let nudges = 0
  await until(async () => {
    await pause(1000)
    // Whether time does it is no question to a planted bug.
    if (bug !== undefined) await sql('UPDATE mmc_tokens.events SET claimed_until = now()', [])
    await issue(`nudge ${++nudges}`, session)
    return (await sql('SELECT 1 FROM mmc_tokens.events WHERE name NOT LIKE $1 LIMIT 1', ['nudge%'])).length === 0
  })
  const files = await Promise.all((await readdir(join(folder, 'told'))).map(async file =>
    await readFile(join(folder, 'told', file), 'utf8')))
  const told = files.flatMap(text =>
    text.split('\n').filter(line => line !== '')).map(line => JSON.parse(line) as TokenEvent)
  const happened = await sql('SELECT what, hash, name FROM witness WHERE name NOT LIKE $1 ORDER BY n', ['nudge%'])
  const type = { INSERT: 'token.issued', DELETE: 'token.revoked' } as const
  const about = (act: Act): TokenEvent[] =>
    told.filter(event => event.type === type[act.what] && event.hash === act.hash)
  const missing = happened.filter(act => about(act).length === 0).map(({ what, name }) => `${what} of ${name}`)
  const wrong = happened.filter(act => about(act).some(({ actor, databaseUser }) =>
    actor !== actorOf(act) || databaseUser !== 'postgres')).map(({ what, name }) => `${what} of ${name}`)
  return {
    missing,
    wrong,
    figures: {
      fault,
      acts: happened.length,
      unanswered,
      told: told.length,
      twice: told.length - new Set(told.map(({ id }) => id)).size
    }
  }
}
