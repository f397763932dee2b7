import { readdir, readFile } from 'node:fs/promises'
import t from 'tap'
import { anchorOf, findDeadLinks } from '../support/docs.js'

const pages = [
  'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md',
  ...(await readdir('docs')).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)
]

for (const page of pages) {
  t.test(`${page}: its links lead to existing pages and headings`, async t => {
    t.strictSame(await findDeadLinks(page, await readFile(page, 'utf8')), [])
  })
}

// What these still lack is for those who measure and design.
const NOT_YET = ['docs/architecture.md', 'docs/performance.md']

for (const page of pages.filter(page => page.startsWith('docs/') && !NOT_YET.includes(page))) {
  t.test(`${page}: a long page links to each of its sections, and no cell of a table is a paragraph`, async t => {
    // The lines of the log are quoted as they are.
    const text = (await readFile(page, 'utf8')).replace(/^```[^]*?^```|^## What the log says[^]*?(?=^## )/gm, '')
    const sections = [...text.matchAll(/^## (.*)$/gm)].map(([, heading = '']) => anchorOf(heading))
    if (text.split('\n').length > 100) t.strictSame(sections.filter(anchor => !text.includes(`(#${anchor})`)), [])
    const cells = (text.match(/^\|.*\|$/gm) ?? []).flatMap(row => row.replace(/\]\([^)]*\)/g, ']').split('|'))
    t.strictSame(cells.filter(cell => cell.length > 140), [])
  })
}

t.test('the check finds dead links, and ignores text that only looks like one', async t => {
  const text = `# One & two: \`three\`
## One & two: \`three\`
[a](host-integration.md#your-own-tests) [b](#one--two-three) [c](#one--two-three-1) [d](https://example.com/#x) [e](../README.md) \`[f](code.md)\`
[1](missing.md) [2](#missing) [3](host-integration.md#missing) [4](../../outside.md) [5](javascript:alert) [6](#One--two-three)
\`\`\`
[g](block.md)
## in a block
\`\`\`
[7](#in-a-block)`
  t.strictSame(await findDeadLinks('docs/page.md', text), [
    'missing.md', '#missing', 'host-integration.md#missing', '../../outside.md', 'javascript:alert', '#One--two-three', '#in-a-block'
  ])
})
