import { STATUS_CODES } from 'node:http'
import { ErrorSchema } from '../../schemas/error.js'
import { TIME } from '../../schemas/token.js'
import {
  InternalError, NotAllowedError, NotEnabledError, type TokensError, TwoCredentialsError, UnauthorizedError
} from '../errors.js'
import { notAcceptable } from './version.js'

/**
 * What @fastify/swagger says of each route, in objects of its own, since a host may change them. Routes name no
 * security scheme: it throws if the host has not declared it.
 */
export const describeRoute = (served: string[]) => ({
  tags: ['tokens'],
  description: `For admins, by session or token. \`Accept: ${served[0]}\` selects the representation.`
})

/** The responses to errors of every route. */
export const errorsOfEvery = (served: string[]) => [
  new TwoCredentialsError(), new UnauthorizedError(), new NotAllowedError('Only an admin may manage tokens'),
  new NotEnabledError(), notAcceptable(served), new InternalError()
]

/** Describes responses to errors. */
export function describe (...errors: TokensError[]): Record<number, object> {
  return Object.fromEntries(errors.map(({ statusCode, code, message }) => [statusCode, {
    ...ErrorSchema,
    description: STATUS_CODES[statusCode],
    examples: [{ code, message, ...statusCode === 401 && { data: { session: false } } }]
  }]))
}

/** For a host that transforms schemas of another kind, such as zod. Adds the format of times. */
export function swaggerTransform ({ schema, url }: { schema: object, url: string }) {
  return {
    url,
    schema: JSON.parse(JSON.stringify(schema), (_key, value: { pattern?: string } | null): unknown => {
      return value?.pattern === TIME ? { ...value, format: 'date-time' } : value
    }) as object
  }
}
