import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import t from 'tap'

/** The links of a page that lead nowhere. What lies outside of the repository is only read, so that no network is needed. */
async function findDeadLinks (page: string, text: string): Promise<string[]> {
  const dead: string[] = []
  for (const [, link = ''] of withoutCode(text).matchAll(/\]\(\s*<?([^)>\s]+)/g)) {
    if (/^[a-z]+:/i.test(link)) {
      if (!/^(https?|mailto):/.test(link) || !URL.canParse(link)) dead.push(link)
      continue
    }
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? page : join(dirname(page), decodeURI(path))
    const isThere = target === page || (existsSync(target) && !relative('.', target).startsWith('..'))
    if (!isThere || (anchor !== undefined && !anchorsOf(target === page ? text : await readFile(target, 'utf8')).includes(anchor))) dead.push(link)
  }
  return dead
}

const withoutCode = (text: string): string => text.replace(/^```[^]*?^```/gm, '').replace(/`[^`\n]*`/g, '')

/** What GitHub makes of the headings, the same ones numbered. */
function anchorsOf (text: string): string[] {
  const seen = new Map<string, number>()
  return [...text.replace(/^```[^]*?^```/gm, '').matchAll(/^#{1,6} +(.*?) *#*$/gm)].map(([, heading = '']) => {
    const slug = heading.toLowerCase().replace(/\]\([^)]*\)/g, '').replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '').replaceAll(' ', '-')
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    return count === 0 ? slug : `${slug}-${count}`
  })
}

const pages = ['README.md', 'CHANGELOG.md', ...(await readdir('docs')).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)]

for (const page of pages) {
  t.test(`${page}: its links lead to pages and headings that are there`, async t => {
    t.strictSame(await findDeadLinks(page, await readFile(page, 'utf8')), [])
  })
}

t.test('a dead link is found, and what only looks like one is not', async t => {
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
