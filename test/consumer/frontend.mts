import { type CreateToken, isCreateToken, isErrorBody, isToken, ROLES, securitySchemes, type Token, TokenSchema } from 'fastify-mmc-tokens/schemas'

const form: CreateToken = { name: 'ci', role: ROLES[0], validUntil: '2099-01-01T00:00:00Z' }
const answer: unknown = JSON.parse('null')
if (isToken(answer)) {
  const token: Token = answer
  console.log(token.name)
} else if (isErrorBody(answer)) {
  console.log(answer.data?.session)
}
console.log(isCreateToken(form), TokenSchema.required, securitySchemes.applicationToken.scheme)
// @ts-expect-error a record has no secret
export type Secret = Token['token']
