import type { Page } from 'playwright-core'
import type { Test } from 'tap'
import { buildHost, type TestHost, type TestHostOptions } from './build-host.js'

/** A host with its page, at an address. */
export async function listen (t: Test, options?: TestHostOptions): Promise<TestHost & { address: string }> {
  const host = await buildHost(t, { apiReference: true, ...options })
  const { port } = new URL(await host.app.listen({ host: 'localhost', port: 0 }))
  return { ...host, address: `http://localhost:${port}${options?.basePath ?? ''}/` }
}

/** Logs in on the page, as far as its list. */
export async function logIn (page: Page, address: string, username = 'cedalo'): Promise<void> {
  await page.goto(address)
  await page.getByLabel('User').fill(username)
  await page.getByLabel('Password').fill('secret')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'Tokens', exact: true }).waitFor()
}

/** Makes a token in the dialog, as far as its secret. */
export async function create (page: Page, name: string): Promise<string> {
  await page.getByRole('button', { name: 'Create token' }).click()
  await page.getByLabel('Name').fill(name)
  await page.getByRole('button', { name: 'Create', exact: true }).click()
  return await page.getByLabel('The token', { exact: true }).inputValue()
}
