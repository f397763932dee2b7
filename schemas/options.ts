import { type Static, Type } from '@sinclair/typebox'

// Each description continues the sentence "the option <name> must be …".

/** The options of the plugin that are plain data; `postgres` and `session` are checked by hand. */
export const OptionsSchema = Type.Object({
  secret: Type.String({
    description: 'a string of at least 32 random bytes, such as the output of "openssl rand -base64 32"'
  }),
  issuer: Type.String({
    default: 'cedalo',
    pattern: '^[!#-\\[\\]-~]{1,255}$',
    description: 'a string of 1 to 255 printable ASCII characters without spaces, quotes and backslashes; it is the claim iss'
  }),
  enabled: Type.Boolean({
    default: true,
    description: 'true or false; false starts the plugin switched off, without a database connection'
  }),
  prefix: Type.String({
    default: '',
    pattern: '^(/[^/?#*:]+)*$',
    description: 'the base path of the routes: empty, or a path that starts with a slash and does not end with one, such as "/mmc"'
  }),
  schema: Type.String({
    default: 'mmc_tokens',
    pattern: '^[A-Za-z_][A-Za-z0-9_]{0,62}$',
    description: 'the name of the Postgres schema that holds our tables: up to 63 letters, digits and underscores, no digit first'
  })
}, { additionalProperties: false })

export type DataOptions = Static<typeof OptionsSchema>
