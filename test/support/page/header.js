import { html, nothing } from './lit-html.js'

const root = new URL('..', import.meta.url)
const PAGES = [['', 'Tokens'], ['api-docs/', 'API reference']]

/** The header of all pages. */
export function headerView (user, current) {
  return html`
    <header class="top">
      <nav aria-label="Main">
        <strong>MMC demo host</strong>
        ${PAGES.map(([path, title]) => html`
          <a href=${new URL(path, root)} aria-current=${title === current ? 'page' : nothing}>${title}</a>`)}
        <span class="session">
          ${user === null
            ? nothing
            : html`<span class="user"><bdi>${user.username}</bdi> (${user.roles.join(', ')})</span>`}
          <a href=${new URL('logout', root)}>Log out</a>
        </span>
      </nav>
    </header>`
}
