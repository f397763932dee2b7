import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import axe from 'axe-core'
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'

// First the one without a window, since it takes two thirds of the CPU.
const CHROMIUM = [
  '/usr/bin/chromium-headless-shell', '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome',
  '/opt/google/chrome/chrome', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
].find(path => existsSync(path))
const SCREENSHOTS = fileURLToPath(new URL('../../.data/screenshots/', import.meta.url))
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'
]

/** Why the tests of the page can not run here, or false. */
export const skip = CHROMIUM === undefined &&
  'NO CHROMIUM: the tests of the page did not run. Install it: apt-get install chromium'
if (skip !== false) console.error(`\n\n==== ${skip}\n\n`)

let browser: Promise<Browser> | undefined

/** A page of a browser that has never been here; closed with the test, and complaining of every error that it meets. */
export async function openPage (t: Test, options: BrowserContextOptions = {}): Promise<Page> {
  browser ??= launch()
  const context = await (await browser).newContext({
    colorScheme: 'light',
    locale: 'en-GB',
    permissions: ['clipboard-read', 'clipboard-write'],
    // Frames of animations are drawn by the CPU.
    reducedMotion: 'reduce',
    ...options
  })
  t.teardown(() => context.close())
  context.setDefaultTimeout(20_000)
  // It starts without a clock that is moved for the tests: Chromium hangs under libfaketime.
  if (process.env.FAKETIME !== undefined) await context.clock.setSystemTime(Date.now())
  const page = await context.newPage()
  page.on('pageerror', error => { t.fail(`the page threw: ${error.message}`) })
  page.on('console', message => {
    // An answer that is an error is for the page to show.
    if (message.type() === 'error' &&
      !/^(Failed to load resource|WebSocket connection to \S+ failed)/.test(message.text())) {
      t.fail(
      `the browser complains: ${message.text()}`
      )
    }
  })
  return page
}

async function launch (): Promise<Browser> {
  const launched = await chromium.launch({
    executablePath: CHROMIUM as string, args: FLAGS, env: { ...process.env, LD_PRELOAD: undefined }
  })
  t.teardown(() => launched.close())
  return launched
}

/**
 * Keeps a picture for people to look at, and lets axe-core judge what can be seen.
 * @param flaws rules of axe that are broken, which others must fix
 */
export async function judge (t: Test, page: Page, name: string, flaws: string[] = []): Promise<void> {
  await page.screenshot({ path: `${SCREENSHOTS}${name}.png`, animations: 'disabled', caret: 'initial' })
  await page.evaluate(axe.source)
  const violations = await page.evaluate<Array<{ id: string, nodes: Array<{ html: string }> }>>(
    'axe.run({ resultTypes: ["violations"] }).then(({ violations }) => violations)'
  )
  const unexpected = violations.filter(({ id }) => !flaws.includes(id)).map(({ id, nodes }) =>
    `${id}: ${nodes.map(node => node.html).join(' ')}`)
  t.strictSame(unexpected, [], `accessible: ${name}`)
  t.strictSame(flaws.filter(flaw =>
    !violations.some(({ id }) => id === flaw)), [], `no flaw of ${name} is fixed by now`)
}

export async function readClipboard (page: Page): Promise<string> {
  return await page.evaluate('navigator.clipboard.readText()')
}
