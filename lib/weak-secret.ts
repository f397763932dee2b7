/** What a failed substitution leaves, and placeholders. */
const LEFT_OVER = new RegExp([
  'undefined|^null[^A-Za-z0-9]|\\[object ',
  '\\$\\{[A-Za-z_]\\w{2,}([:?+-][^}]*)?\\}|\\$\\([A-Za-z_][\\w ./-]{2,}\\)',
  '\\{\\{.*\\}\\}|%[A-Z_][A-Z0-9_]{4,}%|^\\$[A-Z_][A-Z0-9_]*$',
  '^<[\\w .-]+>$|[Cc](hange|HANGE)[-_ ]?([Mm]e|ME|it|IT|this|THIS)|[Rr](eplace|EPLACE)[-_ ]?([Mm]e|ME|this|THIS)',
  '[Yy](our|OUR)[-_ ].*([Ss]ecret|SECRET)|placeholder|PLACEHOLDER'
].join('|'))

/** 1 in 775 random secrets of 32 decimal digits has fewer than 8 different ones (31 % have fewer than 10). */
const DIFFERENT = 8

/** The longest pattern whose repetition is refused. */
const SHORT = 20

/** Why a secret is easily guessed, as the end of a sentence, or `null`. */
export function weaknessOf (secret: string): string | null {
  if (LEFT_OVER.test(secret)) return 'contains a placeholder or an unreplaced variable'
  if (new Set(secret).size < DIFFERENT) return `has fewer than ${DIFFERENT} different characters`
  const lengths = Array.from({ length: SHORT }, (_, index) => index + 1)
  return lengths.some(length => secret.startsWith(secret.slice(length))) ? 'repeats a short pattern' : null
}
