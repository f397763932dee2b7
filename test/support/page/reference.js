import { headerView } from './header.js'
import { render } from './lit-html.js'

// The API reference under the header of the page.
const top = document.body.insertBefore(document.createElement('div'), document.body.firstChild)
render(headerView(null, 'API reference'), top)
const response = await fetch(new URL('../api/profile', import.meta.url))
if (response.ok) render(headerView(await response.json(), 'API reference'), top)
