/** Characters of a token in a row that give it away. */
const WINDOW = 16
/** Every string of so many characters more holds a whole window. */
const STEP = 8

/**
 * Finds tokens, or a good part of one, and secrets in texts: as they are and in the encodings that programs make of
 * them.
 */
export function createSearch (tokens: readonly string[], secrets: readonly Buffer[]): (text: string) => string[] {
  const windows = new Map<string, string>()
  for (const token of tokens) {
    // All our tokens have one header.
    for (let at = token.indexOf('.') + 1; at + WINDOW <= token.length; at += STEP) {
      windows.set(
        token.slice(at, at + WINDOW), token
      )
    }
  }
  const bytes = secrets.flatMap(secret => [
    ...(['latin1', 'hex', 'base64', 'base64url'] as const).map(encoding =>
      secret.toString(encoding).replace(/=+$/, '')),
    secret.join(','),
    encodeURIComponent(secret.toString('latin1'))
  ])

  function searchPlain (text: string): string[] {
    const found: string[] = bytes.filter(secret => text.includes(secret))
    for (const [run] of text.matchAll(/[\w.-]{16,}/g)) {
      for (let at = 0; at + WINDOW <= run.length; at++) {
        const token = windows.get(run.slice(at, at + WINDOW))
        if (token !== undefined) found.push(token)
      }
    }
    return found
  }
  return text => {
    const encoded = text.split(/[\s"]+/).filter(word => word.includes('%')).join('\n')
    const inBase64 = (text.match(/[\w+/=-]{64,}/g) ??
      []).map(run => Buffer.from(run, 'base64').toString('latin1')).join('\n')
    return [...new Set([text, decode(encoded), decode(decode(encoded)), inBase64].flatMap(searchPlain))]
  }
}

function decode (text: string): string {
  return text.replace(/%([\da-f]{2})/gi, (_match, code: string) => String.fromCharCode(Number.parseInt(code, 16)))
}
