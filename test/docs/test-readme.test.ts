import { readdir, readFile } from 'node:fs/promises'
import t from 'tap'

const readme = await readFile('test/README.md', 'utf8')
const rows = [...readme.matchAll(/^\| ([^|]+) \| ([^|]+) \|$/gm)].map(([, name = '', value = '']) => ({ name, value }))
const codes = (text: string): string[] => [...text.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code)

t.test('each section of the contract names existing test files, another folder or "not built yet", and no file is missing', async t => {
  const from = rows.findIndex(({ name }) => name === 'section')
  const sections = rows.slice(from + 1, rows.findIndex(({ name }) => name === 'folder')).filter(
    ({ name }) => !name.startsWith('---')
  )
  t.strictSame(sections.map(({ name }) => name), [
    'A token', 'Routes', 'Errors', 'Accept', 'Credentials', 'Disabled', 'Open connections', 'Several nodes', 'Events', 'The database in trouble', 'The demo host'
  ])
  for (const { name, value } of sections) t.ok(value === 'not built yet' || codes(value).length > 0, name)
  const listed = sections.flatMap(({ value }) => codes(value)).filter(code => !code.includes('/'))
  const files = (await readdir('test/contract')).map(name => name.replace(/\.test\.ts$/, ''))
  t.strictSame(listed.sort(), files.sort())
})

t.test('each other folder of test/ is listed', async t => {
  const folders = (await readdir('test', { withFileTypes: true })).filter(entry =>
    entry.isDirectory() && entry.name !== 'contract')
  const listed = rows.slice(rows.findIndex(({ name }) => name === 'folder')).flatMap(({ name }) => codes(name))
  t.strictSame(listed.sort(), folders.map(({ name }) => `${name}/`).sort())
})
