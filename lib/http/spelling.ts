// Each character of a name may be percent-encoded or not (RFC 3986 §2.1).

/** A name in any spelling, as the source of a regular expression. */
export function patternOf (name: string): string {
  return [...name].map(character => {
    const escape = hexOf(character).replace(/[a-f]/, digit => `[${digit}${digit.toUpperCase()}]`)
    return `(?:${character === '.' ? '\\.' : character}|%${escape})`
  }).join('')
}

/** For each position, the characters of a name in any spelling, followed by a bracket or by `after`. */
export function placesOf (name: string, after: string): string[] {
  const places = Array.from({ length: name.length + 1 }, () => '')
  const add = (place: number, characters: string): void => {
    if (place < places.length) places[place] += characters
  }
  for (const [index, character] of [...name, '['].entries()) {
    const [high = '', low = ''] = hexOf(character)
    // Each escape before it moves it by two places.
    for (let place = index; place <= 3 * index; place += 2) {
      add(place, index === name.length ? `${character}%${after}` : `${character}%`)
      add(place + 1, high)
      add(place + 2, `${low}${low.toUpperCase()}`)
    }
  }
  return places
}

function hexOf (character: string): string {
  return character.charCodeAt(0).toString(16)
}
