/** What a failed substitution leaves, and what was to be replaced by hand. */
const LEFT_OVER = new RegExp([
  'undefined|^null[^A-Za-z0-9]|\\[object ',
  '\\$\\{[A-Za-z_]\\w{2,}([:?+-][^}]*)?\\}|\\$\\([A-Za-z_][\\w ./-]{2,}\\)|\\{\\{.*\\}\\}|%[A-Z_][A-Z0-9_]{4,}%|^\\$[A-Z_][A-Z0-9_]*$',
  '^<[\\w .-]+>$|[Cc](hange|HANGE)[-_ ]?([Mm]e|ME|it|IT|this|THIS)|[Rr](eplace|EPLACE)[-_ ]?([Mm]e|ME|this|THIS)|[Yy](our|OUR)[-_ ].*([Ss]ecret|SECRET)|placeholder|PLACEHOLDER'
].join('|'))

/** Of 32 random decimal digits 31 in 100 have fewer than 10 different ones, 1 in 775 has fewer than 8; of other random secrets none. */
const DIFFERENT = 8

/** How long a pattern may be that is all there is to a secret. */
const SHORT = 20

/** Why a secret of sufficient length is easily guessed, as the end of a sentence; `null` where nothing is wrong with it. */
export function weaknessOf (secret: string): string | null {
  if (LEFT_OVER.test(secret)) return 'has what a failed substitution or a template leaves'
  if (new Set(secret).size < DIFFERENT) return `has fewer than ${DIFFERENT} different characters`
  for (let length = 1; length <= SHORT; length++) if (secret.startsWith(secret.slice(length))) return 'repeats a short pattern'
  return null
}
