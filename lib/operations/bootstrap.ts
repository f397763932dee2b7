import { readFile } from 'node:fs/promises'
import type { TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { type BootstrapEntry, BootstrapEntrySchema } from '../../schemas/token.js'
import { BootstrapError, mustBe } from '../errors.js'
import type { Log, Store, Token } from '../types.js'
import { parseName, parseRole, parseValidUntil } from '../tokens/new-token.js'
import { UNKNOWN_ORIGIN } from '../tokens/tokens.js'
import type { Audit } from './audit.js'

/** The `requestedBy` of these tokens. */
const ACTOR = 'bootstrap'

interface Parts {
  store: Pick<Store, 'bootstrap'>
  audit: Pick<Audit, 'report'>
  roles: readonly string[]
  log: Log
  file: string | undefined
  /** Whether to reject if the file or an entry is invalid, after the valid entries are stored. Otherwise: log it. */
  isStrict: boolean
}

/**
 * Stores the tokens of a file, each once: a revoked one stays revoked. An invalid entry does not affect the others.
 * @throws BootstrapError
 */
export async function bootstrap ({ store, audit, roles, log, file, isStrict }: Parts, now: number): Promise<void> {
  if (file === undefined) return
  /** By their index in the file. */
  const failures: Error[] = []
  try {
    const entries = await read(file)
    const fail = (index: number, message: string): void => {
      const entry = `entry ${index + 1}${nameOf(entries[index])} of the bootstrap file ${file}`
      failures[index] = new BootstrapError(`${entry}: ${message}`)
    }
    const found = parse(entries, roles, now, fail)
    const origin = { ...UNKNOWN_ORIGIN, actor: ACTOR }
    const outcomes = found.size > 0 ? await store.bootstrap([...found.keys()], origin) : new Map<string, string>()
    if ([...outcomes.values()].includes('stored')) audit.report()
    for (const [token, index] of found) {
      const outcome = outcomes.get(token.hash)
      if (outcome === 'taken') fail(index, 'another token has its name: revoke that one, or give this one another name')
      if (outcome === 'duplicate') fail(index, 'an earlier entry has the same name: remove one of them')
    }
  } catch (error) {
    // Not a fault of the file, but of the database.
    if (!(error instanceof BootstrapError)) throw error
    failures.push(error)
  }
  // Skips the holes of the sparse array.
  const errors = failures.flat()
  if (isStrict && errors[0] !== undefined) throw errors[0]
  for (const err of errors) log.error({ err }, 'could not load a bootstrap token')
}

/** The tokens of entries, each with its index; their hashes differ. */
function parse (
  entries: unknown[], roles: readonly string[], now: number, fail: (index: number, message: string) => void
): Map<Token, number> {
  const found = new Map<Token, number>()
  const hashes = new Set<string>()
  for (const [index, entry] of entries.entries()) {
    try {
      const token = toToken(entry, roles, now)
      if (hashes.has(token.hash)) throw new BootstrapError('an earlier entry has the same hash: remove one of them')
      found.set(token, index)
      hashes.add(token.hash)
    } catch (error) {
      fail(index, (error as Error).message)
    }
  }
  return found
}

// Errors quote nothing from the file, as those of JSON.parse do: it may be the wrong file, or contain a secret.
async function read (file: string): Promise<unknown[]> {
  const text = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    throw new BootstrapError(`the bootstrap file ${file} can't be read: ${error.code}`)
  })
  let entries: unknown
  try {
    entries = JSON.parse(text.toString())
  } catch {
    // Reported below.
  }
  if (Array.isArray(entries)) return entries as unknown[]
  throw new BootstrapError(`the bootstrap file ${file} must be a JSON array of { name, role, validUntil, hash }`)
}

function toToken (entry: unknown, roles: readonly string[], now: number): Token {
  const error = Value.Errors(BootstrapEntrySchema, entry).First()
  if (error !== undefined) {
    const property = error.path.slice(1)
    const schema = (BootstrapEntrySchema.properties as Record<string, TSchema>)[property]
    throw schema === undefined ? mustBe('it', BootstrapEntrySchema) : mustBe(property, schema)
  }
  const { name, role, validUntil, hash } = entry as BootstrapEntry
  const issueDate = new Date(now).toISOString()
  return {
    name: parseName(name),
    hash,
    // 0 instead of `now`: an entry may have expired since it was minted.
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
