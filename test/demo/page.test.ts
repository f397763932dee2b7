import t from 'tap'
import { judge, openPage, readClipboard, skip } from '../support/browser.js'
import { bearer } from '../support/build-host.js'
import { create, listen, logIn } from '../support/token-page.js'

t.test('the page covers the life of a token: log in, create, copy, use, see it used, revoke, log out', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  await page.goto(address)
  await judge(t, page, 'log-in')
  await logIn(page, address)
  await page.getByText('No tokens yet').waitFor()
  await judge(t, page, 'empty')

  await page.getByRole('button', { name: 'Create token' }).click()
  await page.getByLabel('Name').fill('nightly backup')
  await page.getByLabel('Role').selectOption('editor')
  await page.getByLabel('Expires in').selectOption('30 days')
  await judge(t, page, 'create')
  await page.getByRole('button', { name: 'Create', exact: true }).click()

  const secret = await page.getByLabel('The token', { exact: true }).inputValue()
  t.match(await app.tokens.list(), [{ name: 'nightly backup', role: 'editor', requestedBy: 'cedalo' }])
  await judge(t, page, 'secret-shown')
  t.equal((await app.inject({ url: '/api/editor', headers: bearer(secret) })).statusCode, 200)
  t.equal(
    await page.getByLabel('Try it in a terminal', { exact: true }).inputValue(),
    `curl -H 'authorization: Bearer ${secret}' '${address}api/profile'`
  )
  await page.getByRole('button', { name: 'Copy The token' }).click()
  await page.getByText('Copied to the clipboard').waitFor()
  t.equal(await readClipboard(page), secret)
  await page.getByRole('button', { name: 'Done' }).click()

  const row = page.getByRole('row', { name: 'nightly backup' })
  await row.filter(
    { hasText: /active[^]*in 30 days[^]*(now|ago)[^]*by cedalo/ }
  ).filter({ hasNotText: 'never' }).waitFor()
  const fields = await page.locator('input, textarea').evaluateAll(all =>
    all.map(field => (field as unknown as { value: string }).value))
  t.notMatch([await page.content(), ...fields].join(), secret, 'the secret is gone from the page')
  await judge(t, page, 'list')

  await row.getByRole('button', { name: 'Revoke nightly backup' }).click()
  await judge(t, page, 'revoke')
  await page.getByRole('button', { name: 'Cancel' }).click()
  t.equal((await app.tokens.list()).length, 1, 'not without a confirmation')
  await row.getByRole('button').click()
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await page.getByText('Revoked “nightly backup”').waitFor()
  await page.getByText('No tokens yet').waitFor()
  t.equal((await app.inject({ url: '/api/editor', headers: bearer(secret) })).statusCode, 401)

  await page.getByRole('link', { name: 'Log out' }).click()
  await page.getByRole('button', { name: 'Log in' }).waitFor()
  await page.goto(`${address}login?error=authentication-failed`)
  await page.getByRole('alert').filter({ hasText: 'Wrong user name or password' }).waitFor()
})

t.test('a name is shown as text, whatever HTML, emoji or direction it contains', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  await logIn(page, address)
  const names = [
    '<img src=x onerror="document.title=\'hacked\'"><b>bold</b>', '👩‍👩‍👧‍👦 backup 🔑',
    '</textarea></dialog><script>document.title="hacked"</script>', '{{1+1}} &amp; שלום עולם'
  ]
  for (const name of names) {
    await create(page, name)
    t.equal(await page.getByRole('dialog').getByRole('heading').textContent(), `“${name}” is ready`)
    await page.keyboard.press('Escape')
    await page.getByRole('button', { name: 'Close without copying' }).click()
  }
  await page.getByRole('row').nth(names.length).waitFor()
  t.strictSame((await page.getByRole('rowheader').allTextContents()).reverse(), names)
  t.strictSame((await app.tokens.list()).map(token => token.name), names)
  await page.getByRole('row').nth(1).getByRole('button').click()
  t.match(await page.getByRole('dialog').getByRole('heading').textContent(), names.at(-1))
  t.equal(await page.title(), 'Tokens · MMC demo host')
  t.equal(await page.locator('img, b, tr script').count(), 0)
})

t.test('the keyboard is enough, and Escape does not discard a secret that was not copied', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  await logIn(page, address)
  const press = async (...keys: string[]): Promise<void> => { for (const key of keys) await page.keyboard.press(key) }
  const isFocused = async (text: string): Promise<void> => { await page.locator(':focus', { hasText: text }).waitFor() }

  await page.getByText('No tokens yet').waitFor()
  await press('Tab', 'Tab', 'Tab', 'Tab')
  await isFocused('Create token')
  await press('Enter')
  await page.keyboard.type('by keyboard')
  await press('Enter')
  await isFocused('Copy')
  t.equal(await page.locator(':focus').evaluate(element => (globalThis as unknown as {
    getComputedStyle: (element: unknown) => { outline: string }
  }).getComputedStyle(element).outline), 'rgb(1, 114, 173) solid 2px', 'one sees where one is')
  await press('Escape')
  await isFocused('Copy the token')
  await judge(t, page, 'secret-not-copied')
  await press('Escape', 'Escape', 'Escape')
  const field = page.getByLabel('The token', { exact: true })
  const secret = await field.inputValue()
  t.match(await app.tokens.list(), [{ name: 'by keyboard' }])

  const [leaving] = await Promise.all([page.waitForEvent('dialog'), page.close({ runBeforeUnload: true })])
  t.equal(leaving.type(), 'beforeunload', 'nor by closing the window')
  await leaving.dismiss()

  await field.focus()
  await press('Control+c')
  await page.getByText('Copied to the clipboard').waitFor()
  t.equal(await readClipboard(page), secret)
  await press('Escape')
  await isFocused('by keyboard')
  await press('Tab', 'Enter')
  await isFocused('Cancel')
  await press('Tab', 'Enter')
  await page.getByText('Revoked “by keyboard”').waitFor()
  await isFocused('Tokens')
  t.strictSame(await app.tokens.list(), [])
})

t.test('errors are shown where they occur: a name in use, an invalid name, an unreachable database, an ended session', { skip }, async t => {
  const { address, database, issue } = await listen(t)
  await issue({ name: 'taken' })
  const page = await openPage(t)
  await logIn(page, address)
  await page.getByRole('button', { name: 'Create token' }).click()
  await page.getByLabel('Name').fill('taken')
  const submit = page.getByRole('button', { name: 'Create', exact: true })
  await submit.click()
  await page.getByRole('alert').filter({ hasText: 'exists' }).waitFor()
  await judge(t, page, 'create-refused')
  await page.getByLabel('Name').fill(' ')
  await page.getByLabel('Expires in').selectOption('Custom …')
  await page.getByLabel('Expires at').fill('2999-01-01T00:00')
  await submit.click()
  await page.getByRole('alert').filter({ hasText: 'name' }).waitFor()
  await page.getByRole('button', { name: 'Cancel' }).click()

  await database.query('ALTER TABLE tokens RENAME TO away')
  await page.reload()
  await page.getByRole('alert').filter({ hasText: 'Could not load the tokens' }).waitFor()
  await judge(t, page, 'error')
  await database.query('ALTER TABLE away RENAME TO tokens')
  await page.getByRole('button', { name: 'Try again' }).click()
  await page.getByRole('row', { name: 'taken' }).waitFor()

  await page.context().clearCookies()
  await page.getByRole('button', { name: 'Revoke taken' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await page.getByRole('button', { name: 'Log in' }).waitFor()
})

t.test('the page says why it is empty for a user who is not an admin, and while tokens are disabled', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  await logIn(page, address, 'editor')
  await page.getByText('Admins only').waitFor()
  await judge(t, page, 'not-an-admin')
  await app.tokens.disable()
  await page.reload()
  await page.getByText('Tokens are disabled').waitFor()
})

t.test('the page and the API reference work under a base path and without a clipboard API', { skip }, async t => {
  const { address, issue } = await listen(t, { basePath: '/mmc' })
  await issue({ name: 'listed' })
  const page = await openPage(t)
  // As where the page comes without TLS.
  await page.addInitScript('delete Navigator.prototype.clipboard')
  await logIn(page, address)
  await create(page, 'second')
  t.match(await page.getByLabel('Try it in a terminal', { exact: true }).inputValue(), `'${address}api/profile'`)
  await page.getByRole('button', { name: 'Copy The token' }).click()
  await page.getByText('Copied to the clipboard').waitFor()
  await page.getByRole('button', { name: 'Done' }).click()
  await page.getByRole('link', { name: 'API reference' }).click()
  await page.getByText('Revoke the token with this hash').waitFor()
  t.strictSame(await page.locator('.opblock-summary-method').allTextContents(), ['GET', 'POST', 'GET', 'DELETE'])
  t.match(await page.locator('.opblock-summary-path').last().getAttribute('data-path'), '/mmc/api/tokens/{hash}')
  await page.getByRole('banner').filter({ hasText: 'cedalo (admin)' }).waitFor()
  t.equal(
    await page.getByRole('banner').getByRole('link', { name: 'Tokens' }).getAttribute('href'), address, 'the same header'
  )
  await page.getByText('List all tokens').click()
  await page.getByRole('button', { name: 'Try it out' }).click()
  await page.getByRole('button', { name: 'Execute' }).click()
  await page.locator('.live-responses-table').filter({ hasText: '"listed"' }).waitFor()
  t.match(await page.locator('.request-url').textContent(), `${address}api/tokens`)
})

/** What Swagger UI builds, and no style or option of ours can change. */
const SWAGGER_UI = [
  'heading-order', // the tag is an h3 below the title, which is an h1
  'landmark-unique', // the responses of an operation are regions without names
  'nested-interactive', // a link in the button that opens an operation
  'region', // the title and the button "Authorize" are outside of landmarks
  'select-name' // the choices of a parameter stand beside its name, and are not bound to it
]

t.test('the API reference is accessible in light and dark mode and on a phone, except for what Swagger UI does itself', { skip }, async t => {
  const { address } = await listen(t)
  for (const [name, options] of [['light', {}], ['dark', { colorScheme: 'dark' }], [
    'phone', { viewport: { width: 375, height: 812 }, isMobile: true }
  ]] as const) {
    const page = await openPage(t, options)
    await logIn(page, address)
    await page.getByRole('link', { name: 'API reference' }).click()
    await page.getByText('Revoke the token with this hash').waitFor()
    for (const operation of await page.locator('.opblock-summary').all()) await operation.click()
    await page.getByRole('button', { name: 'Try it out' }).first().click()
    await page.getByRole('button', { name: 'Execute' }).click()
    await page.locator('.live-responses-table').waitFor()
    await judge(t, page, `api-reference-${name}`, SWAGGER_UI)
    t.equal(
      await page.evaluate('document.documentElement.scrollWidth <= innerWidth && innerWidth <= screen.width'),
      true,
      'nothing is cut off'
    )
    // What fonts are installed decides how long a text is, so it must not decide whether one can read it.
    await page.addStyleTag({ content: '.swagger-ui * { line-height: 2 !important; letter-spacing: .12em !important }' })
    await judge(t, page, `api-reference-${name}-in-a-wide-font`, SWAGGER_UI)
  }
})

t.test('the page loads nothing from other origins and has nothing inline', { skip }, async t => {
  const { app } = await listen(t)
  for (const path of ['/', '/login', '/page/page.js']) {
    const policy = String((await app.inject(path)).headers['content-security-policy'])
    t.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/)
    t.notMatch(policy, /unsafe|http|\*/)
  }
  for (const path of ['/page/host.ts', '/page/..%2fhost.ts', '/page/constructor']) {
    t.equal(
      (await app.inject(path)).statusCode, 404, path
    )
  }
})

t.test('tokens of every state are readable in dark mode, and on a phone without horizontal scrolling', { skip }, async t => {
  const { address, database, issue } = await listen(t)
  for (const [name, role, days] of [
    ['nightly backup', 'editor', 90],
    ['grafana-dashboard-of-the-second-floor-in-building-seven', 'monitoringViewer', 3], ['old CI job', 'viewer', 30],
    ['🔑', 'connectionManager', 400]
  ] as const) {
    await issue({ name, role, validUntil: new Date(Date.now() + days * 24 * 60 * 60 * 1000).toISOString() })
  }
  await database.query(
    "UPDATE tokens SET issue_date = issue_date - interval '60 days', last_used = last_used - interval '2 hours', valid_until = now() - interval '1 day' WHERE name = 'old CI job'"
  )
  for (const [name, options] of [
    ['dark', { colorScheme: 'dark' }], ['phone', { viewport: { width: 375, height: 812 }, hasTouch: true }]
  ] as const) {
    const page = await openPage(t, options)
    await logIn(page, address)
    await page.getByText('expires soon').waitFor()
    await page.getByText('expired', { exact: true }).waitFor()
    await judge(t, page, `list-${name}`)
    t.equal(await page.evaluate('document.documentElement.scrollWidth <= innerWidth'), true, 'nothing is cut off')
    await create(page, `made on: ${name}`)
    await judge(t, page, `secret-${name}`)
    t.equal(await page.getByRole('dialog').evaluate(dialog =>
      dialog.scrollWidth <= dialog.clientWidth), true, 'nor in the dialog')
  }
})
