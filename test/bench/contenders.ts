import type { CreateContender } from './contender.js'
import * as others from './others.js'
import * as ours from './ours.js'

/** Compared with each other, under the names that the table shows. The first is what the others are compared with. */
export const compared: Record<string, CreateContender> = {
  'bare Fastify': others.bare,
  'bare Fastify again': others.bare,
  floor: others.floor,
  'ours, hit': ours.hit,
  'ours, hit by query': ours.query,
  'ours, no credential': ours.none,
  'ours, miss': ours.miss,
  'ours, lease lost': ours.leaseLost,
  'ours, forged': ours.forged,
  'ours, revoked': ours.revoked,
  '@fastify/jwt': others.fastifyJwt,
  '@fastify/bearer-auth': others.bearerAuth,
  '@fastify/jwt + SELECT': others.jwtAndSelect,
  '@fastify/jwt + SELECT + UPDATE': others.jwtAndUpdate,
  'Express + jsonwebtoken + SELECT': others.express,
  'better-auth api-key': others.betterAuth
}

/** All that a server process can be. */
export const contenders: Record<string, CreateContender> = {
  ...compared, node: ours.node, create: ours.create, list: ours.list
}
