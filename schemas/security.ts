/**
 * How a token is presented, for `components.securitySchemes` of a host's OpenAPI document. A host with another
 * `queryParameter` changes the name.
 */
export const securitySchemes = {
  applicationToken: {
    type: 'http',
    scheme: 'bearer',
    bearerFormat: 'JWT',
    description: 'An application token in the header `Authorization`'
  },
  applicationTokenInQuery: {
    type: 'apiKey',
    in: 'query',
    name: 'token',
    description: "An application token in the URL, for clients that can't send headers"
  }
} as const

/** Either scheme is enough, on every route: for `security` of the host's OpenAPI document. */
export const security = Object.keys(securitySchemes).map(name => ({ [name]: [] as string[] }))
