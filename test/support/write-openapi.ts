import { writeFile } from 'node:fs/promises'
import { createOpenapi } from './openapi.js'

await writeFile('docs/openapi.json', JSON.stringify(await createOpenapi(), null, 2) + '\n')
