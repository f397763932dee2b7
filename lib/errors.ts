import createError from '@fastify/error'

/** An error that a client may see: its message reveals nothing internal, its `cause` is for the log. */
export class TokensError extends Error {
  declare readonly code: string
  declare readonly statusCode: number
}

// Guards throw these for every request that they refuse, so they capture no stack.
function clientError<Arg extends unknown[] = [options?: ErrorOptions]> (
  statusCode: number, code: string, message: string
) {
  return createError<string, number, Arg>(code, message, statusCode, TokensError as unknown as ErrorConstructor, false)
}

/** 400: the message names the property and what it must be. */
export const InvalidError = clientError<[string]>(400, 'INVALID', '%s')

/** 400: what a property must be, by the description of its schema. */
export function mustBe (property: string, { description }: { description?: string }): TokensError {
  return new InvalidError(`${property} must be ${String(description)}`)
}

/** 400: several tokens in one request (RFC 6750 §2). */
export const TwoCredentialsError = clientError(400, 'INVALID', 'A request must carry one token, not several')

/** 401: no token and no session. */
export const UnauthorizedError = clientError(401, 'UNAUTHORIZED', 'Log in, or present a token')

/** 401: an invalid token. Only the log has the reason. */
export const InvalidTokenError = clientError(401, 'UNAUTHORIZED', 'The token is not valid')

/** 403: authenticated, not allowed. */
export const NotAllowedError = clientError<[string]>(403, 'NOT_ALLOWED', '%s')

/** 404: the plugin is disabled. */
export const NotEnabledError = clientError(404, 'NOT_FOUND', 'Plugin not enabled')

/** 404: no token has this hash. */
export const NotFoundError = clientError(404, 'NOT_FOUND', 'No token has this hash')

/** 406: the request accepts no version that is served. */
export const NotAcceptableError = clientError<[string]>(406, 'NOT_ACCEPTABLE', '%s')

/** 409: the name is taken. */
export const ConflictError = clientError(409, 'CONFLICT', 'A token with this name exists')

/** 413: the body is over the host's limit. */
export const TooLargeError = clientError(413, 'INVALID', 'The body is too large')

/** 415: the body is not JSON. */
export const UnsupportedMediaTypeError = clientError(
  415, 'INVALID', 'The body must be JSON in UTF-8, with content-type application/json'
)

/** 500: anything unexpected. */
export const InternalError = clientError(500, 'INTERNAL_ERROR', 'Internal error')

// For the host's developer at startup, and for the operator in the log. They never reach a client, so they have no
// status.
function operatorError<Arg extends unknown[] = [message: string, options?: ErrorOptions]> (
  code: string, message = '%s'
) {
  return createError<Arg>(code, message, 0)
}

/** An option is invalid. */
export const OptionError = operatorError('MMC_TOKENS_INVALID_OPTION')

/** The bootstrap file or an entry of it is invalid; the message names it. */
export const BootstrapError = operatorError('MMC_TOKENS_BOOTSTRAP')

/** Postgres can't be used; the message names host, port and database. */
export const DatabaseError = operatorError('MMC_TOKENS_DATABASE')

/** A call to Postgres did not end in time. */
export const DeadlineError = operatorError<[milliseconds: number]>(
  'MMC_TOKENS_DEADLINE', 'Postgres did not answer within %d ms'
)

/** Too many calls wait for Postgres, or too many lookups are pending. */
export const OverloadError = createError<[]>('MMC_TOKENS_OVERLOAD', 'Too many calls wait for Postgres', 500)

/** The reason of a signal: the token was revoked, or has another role or name. */
export const TokenRevokedError = operatorError<[]>('MMC_TOKENS_REVOKED', 'The token was revoked')

/** The reason of a signal: the token expired. */
export const TokenExpiredError = operatorError<[]>('MMC_TOKENS_EXPIRED', 'The token expired')

/** The reason of a signal: tokens were disabled. */
export const TokensDisabledError = operatorError<[]>('MMC_TOKENS_DISABLED', 'Tokens were disabled')

/** `signal` was called without an emitter of `close`. */
export const SignalError = operatorError('MMC_TOKENS_SIGNAL')

/** The plugin can't work where or how it was registered. */
export const HostError = operatorError('MMC_TOKENS_HOST')

/** `requireRole` was called without a role, or with an invalid one. */
export const GuardError = operatorError('MMC_TOKENS_GUARD')
