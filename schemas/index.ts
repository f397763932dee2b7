import { type Static, type TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { ErrorSchema } from './error.js'
import { CreateTokenSchema, IssuedTokenSchema, TokenSchema } from './token.js'

export { type ErrorBody, ErrorSchema } from './error.js'
export { security, securitySchemes } from './security.js'
export {
  type CreateToken, CreateTokenSchema, createTokenSchema, type IssuedToken, IssuedTokenSchema, ROLES, type Token,
  TokenSchema, TokensSchema
} from './token.js'

function check<Schema extends TSchema> (schema: Schema) {
  return (value: unknown): value is Static<Schema> => Value.Check(schema, value)
}

/** Whether this is a token as the routes return it, without its secret. */
export const isToken = check(TokenSchema)

/** Whether this is the response to a POST: a token with its secret. */
export const isIssuedToken = check(IssuedTokenSchema)

/** Whether this has the properties that a POST requires. The server checks their values. */
export const isCreateToken = check(CreateTokenSchema)

/** Whether this is the body of an error. */
export const isErrorBody = check(ErrorSchema)
