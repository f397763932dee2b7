import fc from 'fast-check'
import t from 'tap'
import { createFinder, type Pattern } from '../../lib/http/finder.js'

const PATTERNS: Pattern[] = [['?&', 't', 'o=', '=['], ['a', 'bc'], ['x', 'x', 'yz', 'q', 'x']]

/** The same, one character after the other. */
function findSlowly (text: string, from: number): number {
  for (let at = from; at < text.length; at++) {
    if (PATTERNS.some(places =>
      places.every((characters, place) => characters.includes(text[at + place] ?? ' ')))) return at
  }
  return -1
}

function all (next: (from: number) => number): number[] {
  const found: number[] = []
  for (let at = next(0); at !== -1; at = next(at + 1)) found.push(at)
  return found
}

t.test('a finder finds every match of every pattern, as a slow search does', t => {
  const finder = createFinder(PATTERNS)
  fc.assert(fc.property(fc.string({ unit: fc.constantFrom(...'?&to=[abcxyzq é中') }), text => {
    finder.read(text)
    return String(all(finder.next)) === String(all(from => findSlowly(text, from)))
  }), { numRuns: 5000 })
  t.end()
})

t.test('so it does in a text of any length, and keeps nothing of one that it forgot', t => {
  const finder = createFinder(PATTERNS)
  for (const length of [0, 1, 2, 3, 65_534, 65_535, 65_536, 65_537, 200_001]) {
    for (const end of ['ab', '&to=', 'xxzqx']) {
      const text = `${'-'.repeat(length)}${end}`
      finder.read(text)
      t.equal(finder.next(0), length)
      t.equal(finder.next(length + 1), -1)
      finder.read(text)
      finder.clear()
      t.equal(finder.next(0), -1)
    }
  }
  t.end()
})
