import { readdirSync } from 'node:fs'
import { join } from 'node:path'

const sources = ['lib', 'schemas'].flatMap(folder => readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter(file => file.endsWith('.ts'))
  .map(file => join(folder, file)))

/** What the tests together must cover: all that users get. */
export default () => sources
