import { transform } from 'esbuild'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'

/** The code blocks of a page, in their order. */
export async function blocksOf (page: string, language: string): Promise<string[]> {
  return [
    ...(await readFile(page, 'utf8')).matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))
  ].map(([, code = '']) => code)
}

/** Runs a block, which is JavaScript and sees these values in place of what it imports; answers what it exports. */
export async function runBlock (code: string, values: Record<string, unknown>): Promise<Record<string, unknown>> {
  const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor as
    new (...args: string[]) => (...args: unknown[]) => Promise<Record<string, unknown>>
  const exported = [...code.matchAll(/^export (?:async function|const) (\w+)/gm)].map(([, name]) => name)
  const { code: plain } = await transform(code, {
    loader: 'ts', tsconfigRaw: { compilerOptions: { verbatimModuleSyntax: true } }
  })
  const body = plain.replace(/^import .*$/gm, '').replace(/^export /gm, '')
  return await new AsyncFunction(
    ...Object.keys(values), `${body}; return { ${exported.join()} }`
  )(...Object.values(values))
}

/**
 * The links of a page that lead nowhere in a folder. What lies outside of it is only read, so that no network is
 * needed.
 */
export async function findDeadLinks (page: string, text: string, folder = '.'): Promise<string[]> {
  const dead: string[] = []
  for (const [, link = ''] of withoutCode(text).matchAll(/\]\(\s*<?([^)>\s]+)/g)) {
    if (/^[a-z]+:/i.test(link)) {
      if (!/^(https?|mailto):/.test(link) || !URL.canParse(link)) dead.push(link)
      continue
    }
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? page : join(dirname(page), decodeURI(path))
    const isThere = target === page || (existsSync(join(folder, target)) && !relative('.', target).startsWith('..'))
    if (!isThere || (anchor !== undefined && !anchorsOf(target === page
      ? text
      : await readFile(join(folder, target), 'utf8')).includes(anchor))) dead.push(link)
  }
  return dead
}

const withoutCode = (text: string): string => text.replace(/^```[^]*?^```/gm, '').replace(/`[^`\n]*`/g, '')

/** What GitHub makes of a heading. */
export function anchorOf (heading: string): string {
  return heading.toLowerCase().replace(/\]\([^)]*\)/g, '').replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '').replaceAll(' ', '-')
}

/** Those of all headings, the same ones numbered. */
function anchorsOf (text: string): string[] {
  const seen = new Map<string, number>()
  return [...text.replace(/^```[^]*?^```/gm, '').matchAll(/^#{1,6} +(.*?) *#*$/gm)].map(([, heading = '']) => {
    const slug = anchorOf(heading)
    const count = seen.get(slug) ?? 0
    seen.set(slug, count + 1)
    return count === 0 ? slug : `${slug}-${count}`
  })
}
