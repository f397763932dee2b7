import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import {
  createTokenSchema, IssuedTokenSchema, ListQuerySchema, TokenParamsSchema, TokenSchema, TokensSchema
} from '../../schemas/token.js'
import {
  ConflictError, InvalidError, mustBe, NotEnabledError, NotFoundError, TokensError, TooLargeError,
  UnsupportedMediaTypeError
} from '../errors.js'
import { isHash } from '../tokens/jwt.js'
import type { Tokens } from '../tokens/tokens.js'
import type { Origin, TokenPrincipal } from '../types.js'
import { requireAdmin, type Session } from './authorize.js'
import { createInputCheck, deferBodyErrors } from './body.js'
import { createLists, linkToNext, parseListQuery } from './list.js'
import { originOf, stateFor, stateOf } from './request-state.js'
import { describe, describeRoute, errorsOfEvery, swaggerTransform } from './route-docs.js'
import { createSendJson, rethrow, type SendError, serializeAny } from './send-error.js'
import { checkVersion, mediaTypes } from './version.js'

interface Parts {
  tokens: Tokens
  isEnabled: () => boolean
  session: Session
  roles: readonly string[]
  versions: readonly number[]
  tokensMayManageTokens: boolean
  sendError: SendError
}

/** The first `return` of `Prefer`, which counts (RFC 7240 §2 and §4.2). */
const RETURN = /(?:^|,)\s*return\s*(?:=\s*"?(\w*)"?\s*)?(?:[,;]|$)/i

/**
 * The four routes, for a child that fastify-plugin does not wrap: its parsers and error handler must not be the host's.
 */
export function createRoutes (parts: Parts) {
  const { tokens, isEnabled, session, roles, versions, tokensMayManageTokens, sendError } = parts
  const lists = createLists(tokens)
  const createToken = createTokenSchema(roles)
  const served = mediaTypes(versions)
  const every = errorsOfEvery(served)
  const sendIssued = createSendJson(IssuedTokenSchema)
  const sendToken = createSendJson(TokenSchema)
  const sendTokens = createSendJson(TokensSchema)

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
    // The host's compilers may be for schemas of another kind, such as zod. It may change the schemas of every route.
    app.setValidatorCompiler(() => () => true)
    // The plugin sends strings. Bodies of the host, of any shape, would not fit the schemas.
    app.setSerializerCompiler(() => serializeAny)
    deferBodyErrors(host)
    app.setErrorHandler<FastifyError>(async (error, request, reply) => {
      await sendError(request, reply, translate(error))
      return reply
    })
    // Early, in case a hook of the host calls `reply.callNotFound()`.
    app.addHook('onRequest', forbidCaching)

    app.get('/api/tokens', {
      ...createOptions(),
      preHandler: [checkRequest, createInputCheck('query', ListQuerySchema)],
      schema: {
        ...describeRoute(served),
        operationId: 'listApplicationTokens',
        summary: 'List all tokens, oldest first',
        querystring: ListQuerySchema,
        response: { 200: TokensSchema, ...describe(...every) }
      }
    }, async ({ query }, reply) => {
      const filter = parseListQuery(query)
      if (query.limit === undefined) return await lists.send(reply, filter)
      const { page, last } = await lists.takePage(Number(query.limit), filter).catch(rethrow)
      if (last !== undefined) reply.header('link', linkToNext(query, last))
      return sendTokens(reply, page)
    })

    app.post('/api/tokens', {
      ...createOptions(),
      preHandler: [checkRequest, createInputCheck('body', createToken)],
      schema: {
        ...describeRoute(served),
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
    }, async (request, reply) => {
      const { name, role, validUntil } = request.body
      const origin = originOfAdmin(request)
      const token = { name, role, validUntil, requestedBy: origin.actor }
      const issued = await tokens.issue(token, Date.now(), origin).catch(rethrow)
      return sendIssued(reply, issued)
    })

    app.get('/api/tokens/:tokenHash', {
      ...createOptions(),
      preHandler: checkRequest,
      schema: {
        ...describeRoute(served),
        operationId: 'getApplicationToken',
        summary: 'Get the token with this hash',
        params: TokenParamsSchema,
        response: { 200: TokenSchema, ...describe(...every, new NotFoundError()) }
      }
    }, async (request, reply) => {
      const { tokenHash } = request.params
      const token = isHash(tokenHash) ? await tokens.get(tokenHash).catch(rethrow) : null
      if (token === null) throw new NotFoundError()
      return sendToken(reply, token)
    })

    app.delete('/api/tokens/:tokenHash', {
      ...createOptions(),
      preHandler: checkRequest,
      schema: {
        ...describeRoute(served),
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
      const isRevoked = isHash(tokenHash) && await tokens.revoke(tokenHash, originOfAdmin(request)).catch(rethrow)
      const preference = RETURN.exec(String(request.headers.prefer))?.[1]
      if (preference?.toLowerCase() !== 'minimal') return await lists.send(reply)
      if (!isRevoked) throw new NotFoundError()
      return await reply.code(204).header('preference-applied', 'return=minimal').send()
    })
  }
}

/** Options of one route: a host may change each. */
const createOptions = () => ({
  config: { swaggerTransform } as object,
  // A hook of the route runs after all hooks of the host. If one of those fails, `onSend` may not run.
  onSend: forbidCaching,
  onError: forbidCaching
})

async function forbidCaching (_request: FastifyRequest, reply: FastifyReply): Promise<void> {
  reply.header('cache-control', 'no-store')
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
