import { STATUS_CODES } from 'node:http'
import { Readable } from 'node:stream'
import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import { type TypeBoxTypeProvider, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest, FastifySerializerCompiler } from 'fastify'
import { ErrorSchema } from '../../schemas/error.js'
import { createTokenSchema, IssuedTokenSchema, TokenParamsSchema, TokenSchema, TokensSchema } from '../../schemas/token.js'
import {
  ConflictError, InternalError, InvalidError, mustBe, NotAcceptableError, NotAllowedError, NotEnabledError, NotFoundError, TokensError, TooLargeError,
  TwoCredentialsError, UnauthorizedError, UnsupportedMediaTypeError
} from '../errors.js'
import type { Tokens } from '../tokens/tokens.js'
import type { Token, TokenPrincipal } from '../types.js'
import { requireAdmin, type Session } from './authorize.js'
import { checkBody, deferBodyErrors } from './body.js'
import { isLeftAlone } from './credential.js'
import type { SendError } from './send-error.js'
import { checkVersion } from './version.js'

interface Parts {
  tokens: Tokens
  isEnabled: () => boolean
  session: Session
  roles: readonly string[]
  versions: readonly number[]
  sendError: SendError
}

// How the routes describe themselves, for @fastify/swagger. They name no security scheme: it throws where the host did not declare that.
const common = { tags: ['tokens'], description: 'For admins, by session or by token. `Accept: application/json;version=1` picks the representation.' }
const EVERY = [
  new TwoCredentialsError(), new UnauthorizedError(), new NotAllowedError('Only an admin may manage tokens'), new NotEnabledError(),
  new NotAcceptableError('Accept must allow one of: application/json;version=1'), new InternalError()
]
const describe = (...errors: TokensError[]) => Object.fromEntries(errors.map(({ statusCode, code, message }) => [statusCode, {
  ...ErrorSchema,
  description: STATUS_CODES[statusCode],
  examples: [{ code, message, ...statusCode === 401 && { data: { session: false } } }]
}]))

/**
 * The four routes, for a child of the host that is not wrapped by fastify-plugin: its parsers and its error handler are its own.
 */
export function createRoutes ({ tokens, isEnabled, session, roles, versions, sendError }: Parts) {
  const createToken = createTokenSchema(roles)
  const admins = new WeakMap<FastifyRequest, TokenPrincipal>()

  /** Judges everything but the body, in the order of the contract, once the host has restored its session. */
  async function judge (request: FastifyRequest): Promise<void> {
    if (!isEnabled() || isLeftAlone(request)) throw new NotEnabledError()
    admins.set(request, await requireAdmin(request, session))
    checkVersion(request, versions)
  }

  /** The first page is waited for, so that a database out of reach is a 500; the others follow as fast as they are read. */
  async function sendList (reply: FastifyReply): Promise<FastifyReply> {
    const pages = tokens.list()[Symbol.asyncIterator]()
    const first = await pages.next()
    return reply.type('application/json; charset=utf-8').send(Readable.from(toJson(first, pages)))
  }

  return async function routes (host: FastifyInstance): Promise<void> {
    const app = host.withTypeProvider<TypeBoxTypeProvider>()
    // The host may have compilers for schemas of another kind, such as zod.
    app.setValidatorCompiler(TypeBoxValidatorCompiler)
    app.setSerializerCompiler(SerializerSelector()() as FastifySerializerCompiler<unknown>)
    deferBodyErrors(host)
    app.setErrorHandler<FastifyError>(async (error, request, reply) => {
      await sendError(request, reply, translate(error))
    })
    app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('cache-control', 'no-store')
      done(null, payload)
    })

    app.get('/api/tokens', {
      preHandler: judge,
      schema: {
        ...common,
        operationId: 'listApplicationTokens',
        summary: 'List all tokens, oldest first',
        response: { 200: TokensSchema, ...describe(...EVERY) }
      }
    }, async (_request, reply) => await sendList(reply))

    app.post('/api/tokens', {
      preHandler: [judge, async request => { checkBody(request, createToken) }],
      attachValidation: true,
      schema: {
        ...common,
        operationId: 'createApplicationToken',
        summary: 'Create a token; the answer is the only place where its secret ever stands',
        body: createToken,
        response: {
          200: IssuedTokenSchema,
          ...describe(...EVERY, mustBe('name', createToken.properties.name), new ConflictError(), new TooLargeError(), new UnsupportedMediaTypeError())
        }
      }
    }, async request => {
      const { name, role, validUntil } = request.body
      return await tokens.issue({ name, role, validUntil, requestedBy: (admins.get(request) as TokenPrincipal).username }, Date.now())
    })

    app.get('/api/tokens/:tokenHash', {
      preHandler: judge,
      schema: {
        ...common,
        operationId: 'getApplicationToken',
        summary: 'Get the token with this hash',
        params: TokenParamsSchema,
        response: { 200: TokenSchema, ...describe(...EVERY, new NotFoundError()) }
      }
    }, async request => {
      const token = await tokens.get(request.params.tokenHash)
      if (token === null) throw new NotFoundError()
      return token
    })

    app.delete('/api/tokens/:tokenHash', {
      preHandler: judge,
      schema: {
        ...common,
        operationId: 'revokeApplicationToken',
        summary: 'Revoke the token with this hash; the answer lists the tokens that remain',
        params: TokenParamsSchema,
        response: { 200: TokensSchema, ...describe(...EVERY) }
      }
    }, async (request, reply) => {
      await tokens.revoke(request.params.tokenHash)
      return await sendList(reply)
    })
  }
}

/**
 * Fastify's own errors as ours.
 * @throws what a hook of the host refuses with, such as its rate limit, which its own error handler answers
 */
function translate (error: FastifyError): unknown {
  if (error instanceof TokensError) return error
  if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') return new TooLargeError()
  if (error.code === 'FST_ERR_CTP_INVALID_CONTENT_LENGTH') return new InvalidError('content-length must be the length of the body')
  if (error.statusCode !== undefined) throw error
  return error
}

/** An array in JSON, page by page. */
async function * toJson (first: IteratorResult<Token[]>, pages: AsyncIterator<Token[]>): AsyncGenerator<string> {
  let before = '['
  for (let page = first; page.done !== true; page = await pages.next()) {
    yield before + JSON.stringify(page.value).slice(1, -1)
    before = ','
  }
  yield before === '[' ? '[]' : ']'
}
