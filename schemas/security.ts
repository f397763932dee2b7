/** How a token is presented, for `components.securitySchemes` of an OpenAPI document. */
export const securitySchemes = {
  applicationToken: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT', description: 'An application token in the header `Authorization`' },
  applicationTokenInQuery: { type: 'apiKey', in: 'query', name: 'token', description: 'An application token in the URL, for what can not send a header' }
} as const
