import { STATUS_CODES } from 'node:http'
import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import { type TypeBoxTypeProvider, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import type { FastifyError, FastifyInstance, FastifyRequest, FastifySerializerCompiler } from 'fastify'
import { ErrorSchema } from '../../schemas/error.js'
import {
  createTokenSchema, IssuedTokenSchema, ListQuerySchema, TIME, TokenParamsSchema, TokenSchema, TokensSchema
} from '../../schemas/token.js'
import {
  ConflictError, InternalError, InvalidError, mustBe, NotAllowedError, NotEnabledError, NotFoundError, TokensError,
  TooLargeError, TwoCredentialsError, UnauthorizedError, UnsupportedMediaTypeError
} from '../errors.js'
import { isHash } from '../tokens/jwt.js'
import type { Tokens } from '../tokens/tokens.js'
import type { Origin, TokenPrincipal } from '../types.js'
import { requireAdmin, type Session } from './authorize.js'
import { checkInput, deferBodyErrors } from './body.js'
import { createLists, linkToNext, parseListQuery } from './list.js'
import { originOf } from './origin.js'
import { stateFor, stateOf } from './request-state.js'
import type { SendError } from './send-error.js'
import { checkVersion, mediaTypes, notAcceptable } from './version.js'

interface Parts {
  tokens: Tokens
  isEnabled: () => boolean
  session: Session
  roles: readonly string[]
  versions: readonly number[]
  tokensMayManageTokens: boolean
  sendError: SendError
}

// For @fastify/swagger. Routes name no security scheme: it throws if the host has not declared it.
const describeEvery = (served: string[]) => ({
  tags: ['tokens'],
  description: `For admins, by session or token. \`Accept: ${served[0]}\` selects the representation.`
})
const errorsOfEvery = (served: string[]) => [
  new TwoCredentialsError(), new UnauthorizedError(), new NotAllowedError('Only an admin may manage tokens'),
  new NotEnabledError(), notAcceptable(served), new InternalError()
]
function describe (...errors: TokensError[]) {
  return Object.fromEntries(errors.map(({ statusCode, code, message }) => [statusCode, {
    ...ErrorSchema,
    description: STATUS_CODES[statusCode],
    examples: [{ code, message, ...statusCode === 401 && { data: { session: false } } }]
  }]))
}

/** For @fastify/swagger in a host that transforms schemas of another kind, such as zod. Adds the format of times. */
const config: object = {
  swaggerTransform: ({ schema, url }: { schema: object, url: string }) => ({
    url,
    schema: JSON.parse(JSON.stringify(schema), (_key, value: { pattern?: string } | null): unknown => {
      return value?.pattern === TIME ? { ...value, format: 'date-time' } : value
    }) as object
  })
}

/** `Prefer: return=minimal` (RFC 7240 §4.2). */
const MINIMAL = /(^|[,;])\s*return\s*=\s*("minimal"|minimal)\s*($|[,;])/i

/**
 * The four routes, for a child that fastify-plugin does not wrap: its parsers and error handler must not be the host's.
 */
export function createRoutes (parts: Parts) {
  const { tokens, isEnabled, session, roles, versions, tokensMayManageTokens, sendError } = parts
  const lists = createLists(tokens)
  const createToken = createTokenSchema(roles)
  const served = mediaTypes(versions)
  const [common, every] = [describeEvery(served), errorsOfEvery(served)]

  /** Checks all but the body, in the order of the contract, once the host has restored its session. */
  async function checkRequest (request: FastifyRequest): Promise<void> {
    if (!isEnabled() || stateOf(request)?.isDisabled) throw new NotEnabledError()
    stateFor(request).admin = await requireAdmin(request, session, tokensMayManageTokens)
    checkVersion(request, versions)
  }

  function originOfAdmin (request: FastifyRequest): Origin & { actor: string } {
    const { username: actor } = stateOf(request)?.admin as TokenPrincipal
    return { ...originOf(request, actor), actor }
  }

  return async function routes (host: FastifyInstance): Promise<void> {
    const app = host.withTypeProvider<TypeBoxTypeProvider>()
    // The host's compilers may be for schemas of another kind, such as zod.
    app.setValidatorCompiler(TypeBoxValidatorCompiler)
    app.setSerializerCompiler(SerializerSelector()() as FastifySerializerCompiler<unknown>)
    deferBodyErrors(host)
    app.setErrorHandler<FastifyError>(async (error, request, reply) => {
      await sendError(request, reply, translate(error))
      return reply
    })
    app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('cache-control', 'no-store')
      done(null, payload)
    })

    app.get('/api/tokens', {
      config,
      preHandler: [checkRequest, async request => { checkInput(request, ListQuerySchema) }],
      attachValidation: true,
      schema: {
        ...common,
        operationId: 'listApplicationTokens',
        summary: 'List all tokens, oldest first',
        querystring: ListQuerySchema,
        response: { 200: TokensSchema, ...describe(...every) }
      }
    }, async ({ query }, reply) => {
      const filter = parseListQuery(query)
      if (query.limit === undefined) return await lists.send(reply, filter)
      const { page, last } = await lists.takePage(Number(query.limit), filter)
      if (last !== undefined) reply.header('link', linkToNext(query, last))
      return page
    })

    app.post('/api/tokens', {
      config,
      preHandler: [checkRequest, async request => { checkInput(request, createToken) }],
      attachValidation: true,
      schema: {
        ...common,
        operationId: 'createApplicationToken',
        summary: 'Create a token; the secret is returned only in this response',
        body: createToken,
        response: {
          200: IssuedTokenSchema,
          ...describe(
            ...every, mustBe('name', createToken.properties.name), new ConflictError(), new TooLargeError(),
            new UnsupportedMediaTypeError()
          )
        }
      }
    }, async request => {
      const { name, role, validUntil } = request.body
      const origin = originOfAdmin(request)
      return await tokens.issue({ name, role, validUntil, requestedBy: origin.actor }, Date.now(), origin)
    })

    app.get('/api/tokens/:tokenHash', {
      config,
      preHandler: checkRequest,
      schema: {
        ...common,
        operationId: 'getApplicationToken',
        summary: 'Get the token with this hash',
        params: TokenParamsSchema,
        response: { 200: TokenSchema, ...describe(...every, new NotFoundError()) }
      }
    }, async request => {
      const { tokenHash } = request.params
      const token = isHash(tokenHash) ? await tokens.get(tokenHash) : null
      if (token === null) throw new NotFoundError()
      return token
    })

    app.delete('/api/tokens/:tokenHash', {
      config,
      preHandler: checkRequest,
      schema: {
        ...common,
        operationId: 'revokeApplicationToken',
        summary: 'Revoke the token with this hash; returns the remaining tokens',
        params: TokenParamsSchema,
        response: {
          // The example token of the other routes is the revoked one.
          200: { ...TokensSchema, examples: [[]] },
          204: { type: 'null', description: 'With `Prefer: return=minimal`, if a token was revoked; otherwise 404' },
          ...describe(...every, new NotFoundError())
        }
      }
    }, async (request, reply) => {
      const { tokenHash } = request.params
      const isRevoked = isHash(tokenHash) && await tokens.revoke(tokenHash, originOfAdmin(request))
      if (!MINIMAL.test(String(request.headers.prefer))) return await lists.send(reply)
      if (!isRevoked) throw new NotFoundError()
      return await reply.code(204).header('preference-applied', 'return=minimal').send()
    })
  }
}

/**
 * Translates Fastify's errors.
 * @throws what a hook of the host throws, such as its rate limit, for the host's error handler
 */
function translate (error: FastifyError): unknown {
  if (error instanceof TokensError) return error
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') return new TooLargeError()
  if (error.code === 'FST_ERR_CTP_INVALID_CONTENT_LENGTH') {
    return new InvalidError('content-length must be the length of the body')
  }
  if (error.statusCode !== undefined) throw error
  return error
}
