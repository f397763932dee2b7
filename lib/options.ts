import { Value } from '@sinclair/typebox/value'
import type { FastifyInstance } from 'fastify'
import { closestMatch } from 'leven'
import { type DataOptions, OptionsSchema } from '../schemas/options.js'
import { OptionError } from './errors.js'
import type { TokensPluginOptions } from './types.js'
import { weaknessOf } from './weak-secret.js'

export type Settings = Omit<DataOptions, 'secret'> & Pick<TokensPluginOptions, 'postgres' | 'listen' | 'session' | 'onEvent'> & { secrets: string[] }

/**
 * What else comes in the same object: the keys of Fastify's `register`, and what an application of fastify-cli hands to each plugin, which
 * are the options of its server and `skipOverride`. Those that the server's `initialConfig` has are not repeated here.
 */
const OTHERS_KEYS = new Set(['logLevel', 'logSerializers', 'skipOverride', 'logger', 'loggerInstance', 'logController', 'childLoggerFactory', 'genReqId',
  'trustProxy', 'http', 'https', 'http2', 'serverFactory', 'serializerOpts', 'routerOptions', 'querystringParser', 'rewriteUrl', 'constraints', 'ajv',
  'schemaController', 'schemaErrorFormatter', 'frameworkErrors', 'clientErrorHandler', 'allowErrorHandlerOverride', 'forceCloseConnections',
  'return503OnClosing', 'allowHTTP1'])
const KNOWN = ['postgres', 'listen', 'session', 'onEvent', ...Object.keys(OptionsSchema.properties)]

/**
 * Checks the options and fills in the defaults. The caller's object stays as it is.
 * @throws OptionError, which says what to write instead
 */
export function checkOptions (options: TokensPluginOptions, { initialConfig, log }: Pick<FastifyInstance, 'initialConfig' | 'log'>): Settings {
  const given = Object.entries(options).filter(([name, value]) => value !== undefined && !OTHERS_KEYS.has(name) && !Object.hasOwn(initialConfig, name))
  const unknown = given.find(([name]) => !KNOWN.includes(name))
  if (unknown !== undefined) throw unknownOption(unknown[0])

  const { postgres, listen, session, onEvent, ...data } = Object.fromEntries(given) as unknown as TokensPluginOptions
  if (!isConfig(postgres) && !isPool(postgres)) {
    throw mustBe('postgres', 'a connection string such as postgres://user:password@host:5432/database, a configuration object for pg, or a Pool of pg')
  }
  if (listen !== undefined && !isConfig(listen)) {
    throw mustBe('listen', 'a connection string or a configuration object for pg that reaches Postgres directly, not through a pooler')
  }
  if (session !== undefined && typeof session !== 'function') {
    throw mustBe('session', 'a function that takes the request and returns { username, roles } or null, or a promise of it')
  }
  if (onEvent !== undefined && typeof onEvent !== 'function') {
    throw mustBe('onEvent', 'a function that takes an event, such as { type: "token.issued", name, … }')
  }
  const settings = Value.Default(OptionsSchema, data) as DataOptions
  for (const { path } of Value.Errors(OptionsSchema, settings)) refuse(path.split('/')[1] as keyof DataOptions)
  const { secret, ...others } = settings
  const secrets = [secret].flat()
  if (!secrets.every(isSecret) || new Set(secrets).size < secrets.length) refuse('secret')
  const [weakness, ...weaknesses] = secrets.map(weaknessOf)
  if (weakness) refuse('secret', `, and the first ${weakness}`)
  for (const [index, weakness] of weaknesses.entries()) {
    // Were they refused, nobody could replace a weak secret.
    if (weakness !== null) log.warn(`secret ${index + 2} of the option "secret" ${weakness}, so that it may be guessed: remove it once the tokens that it signed are replaced`)
  }
  return { ...others, secrets, postgres, ...listen && { listen }, ...session && { session }, ...onEvent && { onEvent } }
}

function unknownOption (name: string): Error {
  const meant = closestMatch(name, KNOWN, { maxDistance: 3 })
  return new OptionError(`there is no option "${name}": the options are ${KNOWN.join(', ')}${meant === undefined ? '' : `; did you mean "${meant}"?`}`)
}

/** To pg anything is a connection string: "localhost:5432/mmc" is the database "432/mmc" of a host without a name. */
const CONNECTION_STRING = /^(postgres(ql)?:\/\/\/*[^/]|socket:.|\/)/i

function isConfig (value: unknown): boolean {
  if (typeof value === 'string') return CONNECTION_STRING.test(value)
  if (typeof value !== 'object' || value === null || value instanceof URL || Array.isArray(value) || 'connect' in value) return false
  return !('connectionString' in value) || value.connectionString === undefined || (typeof value.connectionString === 'string' && isConfig(value.connectionString))
}

// A single client of pg can connect, too, but can't be shared.
function isPool (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'connect' in value && 'totalCount' in value
}

// PEM and JWK are keys of other kinds: whoever pastes one has something else in mind, and may hand us a public key.
function isSecret (secret: string): boolean {
  return Buffer.byteLength(secret) >= 32 && !secret.includes('-----BEGIN') && !/^\s*\{[^]*"kty"/.test(secret)
}

function refuse (name: keyof DataOptions, besides = ''): never {
  throw mustBe(name, `${OptionsSchema.properties[name].description}${besides}`)
}

function mustBe (name: string, what: string): Error {
  return new OptionError(`option "${name}" must be ${what}`)
}
