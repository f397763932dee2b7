import { type Static, Type } from '@sinclair/typebox'

/** The MMC's error body. */
export const ErrorSchema = Type.Object({
  code: Type.String({ description: 'For programs' }),
  message: Type.String({ description: 'For people' }),
  data: Type.Optional(Type.Object({
    session: Type.Boolean({ description: 'Whether the session of the request is that of a logged-in user' })
  }, { description: 'With 401 only' }))
}, { description: 'An error' })

export type ErrorBody = Static<typeof ErrorSchema>
