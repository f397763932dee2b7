import type { TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import type { FastifyInstance } from 'fastify'
import { closestMatch } from 'leven'
import { type Options, OptionsSchema } from '../schemas/options.js'
import { OptionError } from './errors.js'
import type { TokensPluginOptions } from './types.js'
import { weaknessOf } from './weak-secret.js'

export type Settings = Omit<Options, 'secret'> & { secrets: string[] }

/**
 * Keys of the same object that are not the plugin's: those of Fastify's `register`, and `skipOverride` and the server
 * options that fastify-cli passes to each plugin. Further server options are in `initialConfig`.
 */
const OTHERS_KEYS = new Set(['logLevel', 'logSerializers', 'skipOverride', 'logger', 'loggerInstance', 'logController',
  'childLoggerFactory', 'genReqId', 'trustProxy', 'http', 'https', 'http2', 'serverFactory', 'serializerOpts',
  'routerOptions', 'querystringParser', 'rewriteUrl', 'constraints', 'ajv', 'schemaController', 'schemaErrorFormatter',
  'frameworkErrors', 'clientErrorHandler', 'allowErrorHandlerOverride', 'forceCloseConnections', 'return503OnClosing',
  'allowHTTP1'])
const KNOWN = Object.keys(OptionsSchema.properties)
const DEFAULTS = Object.entries<TSchema>(OptionsSchema.properties).filter(([, schema]) => 'default' in schema)
  .map(([name, schema]): [string, unknown] => [name, schema.default])

const isFunction = (value: unknown): boolean => typeof value === 'function'
const CHECKS = {
  postgres: (value: unknown) => isConfig(value) || isPool(value),
  listen: isConfig,
  session: isFunction,
  onEvent: isFunction
}

/**
 * Checks the options and fills in the defaults of schemas/options.ts. The caller's object is not changed.
 * @throws OptionError, which says what to write instead
 */
export function checkOptions (
  options: TokensPluginOptions, { initialConfig, log }: Pick<FastifyInstance, 'initialConfig' | 'log'>
): Settings {
  const given = Object.entries(options).filter(([name, value]) => {
    return value !== undefined && !OTHERS_KEYS.has(name) && !Object.hasOwn(initialConfig, name)
  })
  const unknown = given.find(([name]) => !KNOWN.includes(name))
  if (unknown !== undefined) throw unknownOption(unknown[0])

  // Not `Value.Default`: it writes into the caller's arrays, and merges an object into a default that is an array.
  const settings = Object.fromEntries([...DEFAULTS, ...given].map(([name, value]): [string, unknown] => [
    name, Array.isArray(value) ? [...value as unknown[]] : value
  ])) as Options
  for (const { path } of Value.Errors(OptionsSchema, settings)) refuse(path.split('/')[1] as keyof Options)
  for (const [name, isValid] of Object.entries(CHECKS)) {
    if (name in settings && !isValid(settings[name as keyof Options])) refuse(name as keyof Options)
  }
  const { secret, ...others } = settings
  const secrets = [secret].flat()
  if (!secrets.every(isSecret) || new Set(secrets).size < secrets.length) refuse('secret')
  const [weakness, ...weaknesses] = secrets.map(weaknessOf)
  if (weakness) refuse('secret', `, and the first ${weakness}`)
  for (const [index, weakness] of weaknesses.entries()) {
    // If they were rejected, a weak secret could not be replaced.
    if (weakness === null) continue
    log.warn(`secret ${index + 2} of the option "secret" ${weakness} and may be guessed: ` +
      'remove it once the tokens that it signed are replaced')
  }
  return { ...others, secrets }
}

function unknownOption (name: string): Error {
  const meant = closestMatch(name, KNOWN, { maxDistance: 3 })
  const hint = meant === undefined ? '' : `; did you mean "${meant}"?`
  return new OptionError(`there is no option "${name}": the options are ${KNOWN.join(', ')}${hint}`)
}

/** pg accepts any string: "localhost:5432/mmc" is the database "432/mmc" of a nameless host. */
const CONNECTION_STRING = /^(postgres(ql)?:\/\/\/*[^/]|socket:.|\/)/i

function isConfig (value: unknown): boolean {
  if (typeof value === 'string') return CONNECTION_STRING.test(value)
  if (typeof value !== 'object' || value === null || value instanceof URL || Array.isArray(value)) return false
  if ('connect' in value) return false
  const { connectionString } = value as { connectionString?: unknown }
  return connectionString === undefined || (typeof connectionString === 'string' && isConfig(connectionString))
}

// A Client of pg has `connect`, too, but can't be shared.
function isPool (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'connect' in value && 'totalCount' in value
}

// PEM and JWK are keys of other kinds, and may be public ones.
function isSecret (secret: string): boolean {
  return Buffer.byteLength(secret) >= 32 && !secret.includes('-----BEGIN') && !/^\s*\{[^]*"kty"/.test(secret)
}

function refuse (name: keyof Options, besides = ''): never {
  throw new OptionError(`option "${name}" must be ${OptionsSchema.properties[name].description}${besides}`)
}
