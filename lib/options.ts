import { Value } from '@sinclair/typebox/value'
import { type DataOptions, OptionsSchema } from '../schemas/options.js'
import { OptionError } from './errors.js'
import type { TokensPluginOptions } from './types.js'

export type Settings = DataOptions & Pick<TokensPluginOptions, 'postgres' | 'session'>

/** What Fastify's `register` finds in the same object. */
const REGISTER_KEYS = new Set(['logLevel', 'logSerializers'])
const KNOWN = ['postgres', 'session', ...Object.keys(OptionsSchema.properties)]

/**
 * Checks the options and fills in the defaults. The caller's object stays as it is.
 * @throws OptionError, which says what to write instead
 */
export function checkOptions (options: TokensPluginOptions): Settings {
  const given = Object.entries(options).filter(([name, value]) => value !== undefined && !REGISTER_KEYS.has(name))
  const unknown = given.find(([name]) => !KNOWN.includes(name))
  if (unknown !== undefined) throw new OptionError(`there is no option "${unknown[0]}": the options are ${KNOWN.join(', ')}`)

  const { postgres, session, ...data } = Object.fromEntries(given) as unknown as TokensPluginOptions
  if (!isPostgres(postgres)) {
    throw mustBe('postgres', 'a connection string such as postgres://user:password@host:5432/database, a configuration object for pg, or a Pool of pg')
  }
  if (session !== undefined && typeof session !== 'function') {
    throw mustBe('session', 'a function that takes the request and returns { username, roles } or null, or a promise of it')
  }
  const settings = Value.Default(OptionsSchema, data) as DataOptions
  for (const { path } of Value.Errors(OptionsSchema, settings)) refuse(path.slice(1))
  if (Buffer.byteLength(settings.secret) < 32 || new Set(settings.secret).size < 2) refuse('secret')
  return { ...settings, postgres, ...session && { session } }
}

function isPostgres (value: unknown): boolean {
  if (typeof value === 'string') return value !== ''
  // A single client of pg has `connect`, too, but can't be shared.
  return typeof value === 'object' && value !== null && (!('connect' in value) || 'totalCount' in value)
}

function refuse (name: string): never {
  const properties: Record<string, { description?: string }> = OptionsSchema.properties
  throw mustBe(name, properties[name]?.description ?? '')
}

function mustBe (name: string, what: string): Error {
  return new OptionError(`option "${name}" must be ${what}`)
}
