import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { judge, openPage, skip } from './host/browser.js'
import { bearer, buildHost, type TestHost, type TestHostOptions } from './host/build-host.js'

async function listen (t: Test, options?: TestHostOptions): Promise<TestHost & { address: string }> {
  const host = await buildHost(t, options)
  const origin = await host.app.listen({ host: 'localhost', port: 0 })
  return { ...host, address: `${origin.replace('127.0.0.1', 'localhost')}${options?.basePath ?? ''}/` }
}

async function logIn (page: Page, address: string, username = 'cedalo'): Promise<void> {
  await page.goto(address)
  await page.getByLabel('User').fill(username)
  await page.getByLabel('Password').fill('secret')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Tokens' }).waitFor()
}

t.test('the whole life of a token goes through the page: log in, create, copy, use, see it used, revoke, log out', { skip }, async t => {
  const { app, address } = await listen(t)
  const page = await openPage(t, { permissions: ['clipboard-read', 'clipboard-write'] })
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
  t.equal(await page.getByLabel('Try it in a terminal', { exact: true }).inputValue(), `curl -H 'authorization: Bearer ${secret}' '${address}api/profile'`)
  await page.getByRole('button', { name: 'Copy The token' }).click()
  await page.getByText('Copied to the clipboard').waitFor()
  t.equal(await page.evaluate(() => navigator.clipboard.readText()), secret)
  await page.getByRole('button', { name: 'Done' }).click()

  const row = page.getByRole('row', { name: 'nightly backup' })
  await row.filter({ hasText: /active.*in 30 days.*(now|ago).*by cedalo/ }).waitFor()
  t.notMatch(await page.content(), secret, 'the secret is gone from the page')
  await judge(t, page, 'list')

  await row.getByRole('button', { name: 'Revoke nightly backup' }).click()
  await judge(t, page, 'revoke')
  await page.getByRole('button', { name: 'Keep it' }).click()
  t.equal((await app.tokens.list()).length, 1, 'not without a confirmation')
  await row.getByRole('button').click()
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await page.getByText('The token “nightly backup” is revoked').waitFor()
  await page.getByText('No tokens yet').waitFor()
  t.equal((await app.inject({ url: '/api/editor', headers: bearer(secret) })).statusCode, 401)

  await page.getByRole('link', { name: 'Log out' }).click()
  await page.getByRole('button', { name: 'Log in' }).waitFor()
})
