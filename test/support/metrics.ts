import type { FastifyInstance } from 'fastify'
import { Counter, Gauge, Registry } from 'prom-client'

/** `GET /metrics` in the Prometheus format, from `app.tokens.metrics()`, for the role monitoringViewer. */
export function addMetrics (app: FastifyInstance): void {
  const registers = [new Registry()]
  const counter = (name: string, help: string, labelNames: string[] = []) => new Counter({
    name: `mmc_tokens_${name}`, help, labelNames, registers
  })
  const gauge = (name: string, help: string, labelNames: string[] = []) => new Gauge({
    name: `mmc_tokens_${name}`, help, labelNames, registers
  })
  const authentications = counter('authentications_total', 'Requests with a token, by outcome', ['outcome'])
  const cacheHits = counter('cache_hits_total', 'Requests answered from memory')
  const lookups = counter('lookups_total', 'Lookups of tokens in Postgres')
  const leaseHeld = gauge('lease_held', 'Whether this process holds the lease')
  const leaseLosses = counter('lease_losses_total', 'How often this process lost the lease')
  const waiting = gauge('usage_waiting', 'Uses not yet written as lastUsed')
  const lag = gauge('usage_lag_seconds', 'Age of the oldest use not yet written')
  const tokens = gauge('tokens', 'Tokens in the database', ['role', 'state'])

  app.get('/metrics', { preHandler: app.tokens.requireRole('monitoringViewer') }, async (_request, reply) => {
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
