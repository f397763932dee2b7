import t from 'tap'
import { judge, openPage, readClipboard, skip } from '../support/browser.js'
import { create, listen, logIn } from '../support/token-page.js'
import { until } from '../support/until.js'

t.test('nobody in a hurry loses the secret: Escape and then Enter copy it, and a double click on "Done" keeps it', { skip }, async t => {
  const { address } = await listen(t)
  for (const width of [1280, 375]) {
    const page = await openPage(t, { viewport: { width, height: 800 } })
    await logIn(page, address)
    const secret = await create(page, `made on ${width} px`)
    await page.getByRole('button', { name: 'Done' }).dblclick()
    t.equal(await page.getByLabel('The token', { exact: true }).inputValue(), secret, 'Done, Done')
    for (const key of ['Escape', 'Enter']) await page.keyboard.press(key)
    await page.getByText('Copied to the clipboard').waitFor()
    t.equal(await readClipboard(page), secret)
    t.equal(await page.getByLabel('The token', { exact: true }).inputValue(), secret, 'it is still there')
  }
})

t.test('the form says what each role may do, warns of admins, and says when the token expires, with the zone', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t, { timezoneId: 'Europe/Berlin' })
  await page.clock.setFixedTime('2099-06-01T10:00:00Z')
  await logIn(page, address)
  await page.getByRole('button', { name: 'Create token' }).click()
  const roles = page.getByLabel('Role')
  for (const option of await roles.locator('option').allTextContents()) t.match(option, /^[A-Z][a-z ]+: [a-z]+/)
  t.notOk(await page.getByText('Admin tokens may do everything').isVisible())
  await roles.selectOption('admin')
  await page.getByText('Admin tokens may do everything').waitFor()
  for (const [preset, date] of [
    ['7 days', 'Monday 8 June 2099'], ['30 days', 'Wednesday 1 July 2099'], ['90 days', 'Sunday 30 August 2099'],
    ['1 year', 'Tuesday 1 June 2100']
  ] as const) {
    await page.getByLabel('Expires in').selectOption(preset)
    const said = (await page.getByText(/^Expires on/).textContent())?.replaceAll(',', '')
    t.equal(said, `Expires on ${date} at 12:00 CEST (Europe/Berlin)`)
  }
  await page.getByLabel('Expires in').selectOption('Custom …')
  await page.getByLabel('Expires at').fill('2099-12-24T18:00')
  t.match(await page.getByText(/^Expires on/).textContent(), /24 December 2099.*18:00 CET \(Europe\/Berlin\)/)
  await judge(t, page, 'create-custom')
  await page.getByLabel('Name').fill('for Christmas')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: '“for Christmas” is ready' }).waitFor()
  t.match(await app.tokens.list(), [{ role: 'admin', validUntil: '2099-12-24T17:00:00.000Z' }])
})

t.test('an error stands at its field, which has the focus; the others keep what was entered', { skip }, async t => {
  const { address, issue } = await listen(t, { tokens: { maxLifetime: 60 * 24 * 60 * 60 } })
  await issue({ name: 'taken', validUntil: new Date(Date.now() + 60_000).toISOString() })
  const page = await openPage(t)
  await logIn(page, address)
  await page.getByRole('button', { name: 'Create token' }).click()
  t.equal(await page.getByLabel('Name').getAttribute('maxlength'), '255')
  const submit = page.getByRole('button', { name: 'Create', exact: true })
  const role = page.getByRole('dialog').getByLabel('Role')
  await role.selectOption('editor')
  for (const [name, expiry, label, message] of [
    ['taken', '30 days', 'Name', 'A token with this name exists'], ['\u202ename', '30 days', 'Name', 'name must be'],
    ['free', '90 days', 'Expires in', 'validUntil must be'], ['free', 'Custom …', 'Expires at', 'validUntil must be']
  ] as const) {
    await page.getByLabel('Name').fill(name)
    await page.getByLabel('Expires in').selectOption(expiry)
    await submit.click()
    const field = page.getByLabel(label)
    await page.locator('[aria-invalid=true]:focus').waitFor()
    t.equal(await field.getAttribute('aria-invalid'), 'true', message)
    t.equal(await field.evaluate('document.activeElement.labels[0].firstChild.textContent.trim()'), label, 'has the focus')
    const [problem = ''] = String(await field.getAttribute('aria-describedby')).split(' ')
    t.match(await page.locator(`#${problem}`).textContent(), message)
    t.equal(await page.locator('[aria-invalid]').count(), 1)
    t.equal(await role.inputValue(), 'editor')
  }
  await judge(t, page, 'create-problem')
})

t.test('where the session has ended, the login opens above the form, what was typed stays, and the token is created', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  await logIn(page, address)
  await page.getByRole('button', { name: 'Create token' }).click()
  await page.getByLabel('Name').fill('typed already')
  await page.getByLabel('Role').selectOption('editor')
  await page.context().clearCookies()
  const submit = page.getByRole('button', { name: 'Create', exact: true })
  await submit.click()
  const login = page.getByRole('dialog', { name: 'Your session has ended' })
  await login.waitFor()
  await judge(t, page, 'session-ended')
  await page.keyboard.press('Escape')
  await page.getByRole('alert').filter({ hasText: 'Your session has ended' }).waitFor()
  t.equal(await page.getByLabel('Name').inputValue(), 'typed already')

  await submit.click()
  t.equal(await login.getByLabel('User').inputValue(), 'cedalo')
  await page.keyboard.type('wrong')
  await page.keyboard.press('Enter')
  await login.getByRole('alert').filter({ hasText: 'Wrong user name or password' }).waitFor()
  await login.getByLabel('Password').fill('secret')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: '“typed already” is ready' }).waitFor()
  t.match(await app.tokens.list(), [{ name: 'typed already', role: 'editor' }])
})

t.test('a list whose session has ended asks for the login as well, and is loaded after it', { skip }, async t => {
  const { address, issue } = await listen(t)
  await issue({ name: 'listed' })
  const page = await openPage(t)
  await page.route('**/api/profile', async route => {
    await page.context().clearCookies()
    await route.fulfill({ status: 401, json: { code: 'UNAUTHORIZED', message: 'Unauthorized', data: { session: false } } })
  }, { times: 1 })
  await logIn(page, address)
  const login = page.getByRole('dialog', { name: 'Your session has ended' })
  await login.waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('heading', { name: 'Your session has ended' }).waitFor()
  await page.getByRole('button', { name: 'Log in' }).click()
  await login.getByLabel('User').fill('cedalo')
  await login.getByLabel('Password').fill('secret')
  await page.keyboard.press('Enter')
  await page.getByRole('row', { name: 'listed' }).waitFor()
})

t.test('after a wrong login the user name stays; an expired session is named', { skip }, async t => {
  const { address } = await listen(t, { basePath: '/mmc' })
  const page = await openPage(t)
  await page.goto(`${address}login?error=session-expired`)
  await page.getByRole('alert').filter({ hasText: 'Your session has ended' }).waitFor()
  await page.getByLabel('User').fill('cedalo')
  await page.getByLabel('Password').fill('wrong')
  await page.keyboard.press('Enter')
  await page.getByRole('alert').filter({ hasText: 'Wrong user name or password' }).waitFor()
  // The page fills it in, and goes on to the password.
  await page.locator('input[type=password]:focus').waitFor()
  t.equal(await page.getByLabel('User').inputValue(), 'cedalo')
  t.notMatch(page.url(), 'cedalo', 'a password typed into the wrong field is in no URL')
  await judge(t, page, 'log-in-again')
  await page.keyboard.type('secret')
  await page.keyboard.press('Enter')
  await page.getByText('No tokens yet').waitFor()
})

t.test('on a slow network the page says that it loads, and a second Enter sends nothing more', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t)
  const held: Array<() => void> = []
  await page.route('**/api/tokens*', async route => {
    await new Promise<void>(resolve => { held.push(resolve) })
    await route.continue()
  })
  const proceed = async (): Promise<void> => {
    await until(() => held.length > 0)
    held.shift()?.()
  }
  await logIn(page, address)
  await page.getByText('Loading the tokens …').waitFor()
  await judge(t, page, 'loading')
  await proceed()
  await page.getByRole('button', { name: 'Create token' }).click()
  await page.getByLabel('Name').fill('once')
  const posts: string[] = []
  page.on('request', request => { if (request.method() === 'POST') posts.push(request.url()) })
  for (const key of ['Enter', 'Enter', 'Escape']) await page.keyboard.press(key)
  await proceed()
  await page.getByRole('heading', { name: '“once” is ready' }).waitFor()
  t.equal(posts.length, 1)
  t.match(await app.tokens.list(), [{ name: 'once' }])
})

t.test('the life of a token at 200 % zoom: nothing is cut off', { skip }, async t => {
  const { app, address } = await listen(t)
  // What a window of 1,280 by 800 px has at 200 %.
  const page = await openPage(t, { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 })
  const fits = async (name: string): Promise<void> => {
    t.equal(await page.evaluate('[document.documentElement, ...document.querySelectorAll("dialog[open]")].every(box => box.scrollWidth <= box.clientWidth)'), true, name)
    await judge(t, page, `zoom-${name}`)
  }
  await page.goto(address)
  await fits('log-in')
  await logIn(page, address)
  await page.getByRole('button', { name: 'Create token' }).click()
  await fits('create')
  await page.getByLabel('Name').fill('enlarged')
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  await page.getByLabel('The token', { exact: true }).waitFor()
  await fits('secret')
  await page.getByRole('button', { name: 'Copy The token' }).click()
  await page.getByRole('button', { name: 'Done' }).click()
  await fits('list')
  await page.getByRole('button', { name: 'Revoke enlarged' }).click()
  await fits('revoke')
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await page.getByText('No tokens yet').waitFor()
  t.strictSame(await app.tokens.list(), [])
})
