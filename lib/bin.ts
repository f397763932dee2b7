#!/usr/bin/env node
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import { OptionsSchema } from '../schemas/options.js'
import plugin from './index.js'

const USAGE = `Usage: fastify-mmc-tokens mint --name NAME --role ROLE --valid-until TIME [--issuer NAME] [--roles LIST]

Prints a new token, and its entry for the file of the option "bootstrap", as JSON. Needs no database.
Reads the signing secret from the environment variable TOKENS_SECRET.`

const { issuer, roles } = OptionsSchema.properties

try {
  await run()
} catch (error) {
  console.error(`${(error as Error).message}\n\n${USAGE}`)
  process.exitCode = 1
}

async function run (): Promise<void> {
  const { values, positionals: [command, ...surplus] } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean' },
      name: { type: 'string', default: '' },
      role: { type: 'string', default: '' },
      'valid-until': { type: 'string', default: '' },
      issuer: { type: 'string', default: issuer.default as string },
      roles: { type: 'string', default: String(roles.default) }
    }
  })
  if (values.help) return console.log(USAGE)
  if (command !== 'mint') throw new Error('There is one command: mint')
  if (surplus.length > 0) throw new Error('Write each value as one argument, in quotes if it has spaces: --name "a b"')
  // Not an argument, which other users of the machine could see.
  const { TOKENS_SECRET: secret } = process.env
  if (!secret) throw new Error('Set the environment variable TOKENS_SECRET to the signing secret of the host')
  const app = Fastify()
  await app.register(plugin, {
    postgres: 'postgres://none',
    enabled: false,
    secret,
    issuer: values.issuer,
    roles: values.roles.split(',')
  })
  const { name, role, 'valid-until': validUntil } = values
  console.log(JSON.stringify(app.tokens.mint({ name, role, validUntil }), null, 2))
}
