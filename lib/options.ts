import { Value } from '@sinclair/typebox/value'
import { type DataOptions, OptionsSchema } from '../schemas/options.js'
import { OptionError } from './errors.js'
import type { TokensPluginOptions } from './types.js'

export type Settings = Omit<DataOptions, 'secret'> & Pick<TokensPluginOptions, 'postgres' | 'listen' | 'session' | 'onEvent'> & { secrets: string[] }

/** What Fastify's `register` finds in the same object. */
const REGISTER_KEYS = new Set(['logLevel', 'logSerializers'])
const KNOWN = ['postgres', 'listen', 'session', 'onEvent', ...Object.keys(OptionsSchema.properties)]

/**
 * Checks the options and fills in the defaults. The caller's object stays as it is.
 * @throws OptionError, which says what to write instead
 */
export function checkOptions (options: TokensPluginOptions): Settings {
  const given = Object.entries(options).filter(([name, value]) => value !== undefined && !REGISTER_KEYS.has(name))
  const unknown = given.find(([name]) => !KNOWN.includes(name))
  if (unknown !== undefined) throw new OptionError(`there is no option "${unknown[0]}": the options are ${KNOWN.join(', ')}`)

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
  return { ...others, secrets, postgres, ...listen && { listen }, ...session && { session }, ...onEvent && { onEvent } }
}

function isConfig (value: unknown): boolean {
  return typeof value === 'string' ? value !== '' : typeof value === 'object' && value !== null && !('connect' in value)
}

// A single client of pg can connect, too, but can't be shared.
function isPool (value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'connect' in value && 'totalCount' in value
}

// PEM and JWK are keys of other kinds: whoever pastes one has something else in mind, and may hand us a public key.
function isSecret (secret: string): boolean {
  return Buffer.byteLength(secret) >= 32 && new Set(secret).size > 1 && !secret.includes('-----BEGIN') && !/^\s*\{[^]*"kty"/.test(secret)
}

function refuse (name: keyof DataOptions): never {
  throw mustBe(name, OptionsSchema.properties[name].description as string)
}

function mustBe (name: string, what: string): Error {
  return new OptionError(`option "${name}" must be ${what}`)
}
