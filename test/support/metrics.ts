import type { FastifyInstance } from 'fastify'
import { Counter, Gauge, Registry } from 'prom-client'

/** `GET /metrics` in the format of Prometheus: what `app.tokens.metrics()` tells, read when it is asked for. */
export function addMetrics (app: FastifyInstance): void {
  const registers = [new Registry()]
  const counter = (name: string, help: string, labelNames: string[] = []) => new Counter({ name: `mmc_tokens_${name}`, help, labelNames, registers })
  const gauge = (name: string, help: string, labelNames: string[] = []) => new Gauge({ name: `mmc_tokens_${name}`, help, labelNames, registers })
  const authentications = counter('authentications_total', 'Requests with a token, by what became of them', ['outcome'])
  const cacheHits = counter('cache_hits_total', 'Requests that were judged from memory')
  const lookups = counter('lookups_total', 'How often Postgres was asked for a token')
  const leaseHeld = gauge('lease_held', 'Whether this process hears of revocations')
  const leaseLosses = counter('lease_losses_total', 'How often it ceased to')
  const waiting = gauge('usage_waiting', 'Uses that are not yet written')
  const lag = gauge('usage_lag_seconds', 'How long the first of them has waited')
  const tokens = gauge('tokens', 'Tokens on all nodes', ['role', 'state'])

  app.get('/metrics', async (_request, reply) => {
    const now = await app.tokens.metrics()
    for (const metric of [authentications, cacheHits, lookups, leaseLosses, tokens]) metric.reset()
    for (const [outcome, count] of Object.entries(now.authentications)) authentications.inc({ outcome }, count)
    cacheHits.inc(now.cacheHits)
    lookups.inc(now.lookups)
    leaseHeld.set(now.lease.held)
    leaseLosses.inc(now.lease.losses)
    waiting.set(now.usage.waiting)
    lag.set(now.usage.lagSeconds)
    for (const { role, state, count } of now.tokens ?? []) tokens.set({ role, state }, count)
    const [register] = registers as [Registry]
    return await reply.type(register.contentType).send(await register.metrics())
  })
}
