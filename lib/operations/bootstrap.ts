import { readFile } from 'node:fs/promises'
import { type Static, type TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { BootstrapEntrySchema } from '../../schemas/token.js'
import { BootstrapError, mustBe, TokensError } from '../errors.js'
import type { Log, Store, Token } from '../types.js'
import { parseName, parseRole, parseValidUntil } from '../tokens/new-token.js'
import { UNKNOWN_ORIGIN } from '../tokens/tokens.js'
import type { Audit } from './audit.js'

/** Who asked for these tokens, as their records say. */
const ACTOR = 'bootstrap'

interface Parts {
  store: Pick<Store, 'bootstrap'>
  audit: Pick<Audit, 'issued'>
  roles: readonly string[]
  log: Log
  /** Its path; `undefined`: there is none. */
  file: string | undefined
  /** Whether what is no good rejects, when all else is done. Otherwise the log has it. */
  isStrict: boolean
}

/**
 * Sees to it that the tokens of a file are in the store, each of them once: one that was revoked stays so. What is no good keeps none of
 * the others out.
 * @throws BootstrapError
 */
export async function bootstrap ({ store, audit, roles, log, file, isStrict }: Parts, now: number): Promise<void> {
  if (file === undefined) return
  const failures: Error[] = []

  async function add (entry: unknown): Promise<void> {
    const token = toToken(entry, roles, now)
    const outcome = await store.bootstrap(token)
    if (outcome === 'stored') audit.issued(token, { ...UNKNOWN_ORIGIN, actor: ACTOR })
    if (outcome === 'taken') throw new BootstrapError('another token has its name: revoke that one, or give this one another name')
  }

  try {
    for (const [index, entry] of (await read(file)).entries()) {
      await add(entry).catch((error: unknown) => {
        // The database out of reach is no fault of an entry.
        if (!(error instanceof TokensError || error instanceof BootstrapError)) throw error
        failures.push(new BootstrapError(`entry ${index + 1}${nameOf(entry)} of the bootstrap file ${file}: ${error.message}`))
      })
    }
  } catch (error) {
    if (!(error instanceof BootstrapError)) throw error
    failures.push(error)
  }
  if (isStrict && failures[0] !== undefined) throw failures[0]
  for (const err of failures) log.error({ err }, 'a token of the option "bootstrap" is not there')
}

// What is in the file is not shown, nor what JSON.parse would show of it: it may be the wrong file, or hold a secret.
async function read (file: string): Promise<unknown[]> {
  const text = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    throw new BootstrapError(`the bootstrap file ${file} can't be read: ${error.code}`)
  })
  let entries: unknown
  try {
    entries = JSON.parse(text.toString())
  } catch {
    // As what is no list.
  }
  if (!Array.isArray(entries)) throw new BootstrapError(`the bootstrap file ${file} must be a JSON array of objects with name, role, validUntil and hash`)
  return entries
}

function toToken (entry: unknown, roles: readonly string[], now: number): Token {
  const error = Value.Errors(BootstrapEntrySchema, entry).First()
  if (error !== undefined) {
    const property = error.path.slice(1)
    const schema = (BootstrapEntrySchema.properties as Record<string, TSchema>)[property]
    throw schema === undefined ? mustBe('it', BootstrapEntrySchema) : mustBe(property, schema)
  }
  const { name, role, validUntil, hash } = entry as Static<typeof BootstrapEntrySchema>
  const issueDate = new Date(now).toISOString()
  return {
    name: parseName(name),
    hash,
    // One that has expired meanwhile is no mistake of the file's.
    validUntil: new Date(parseValidUntil(validUntil, 0)).toISOString(),
    role: parseRole(role, roles),
    requestedBy: ACTOR,
    issueDate,
    lastUsed: issueDate
  }
}

function nameOf (entry: unknown): string {
  const { name } = (entry ?? {}) as { name?: unknown }
  return typeof name === 'string' ? ` (${JSON.stringify(name)})` : ''
}
