import { headerView } from './header.js'
import { html, nothing } from './lit-html.js'
import { arrange, pageOf } from './list.js'
import { nameOf, roles } from './roles.js'
import { fromNow, inFull, stateOf } from './time.js'

const count = new Intl.NumberFormat('en')
const STATES = [['', 'All states'], ['active', 'Active'], ['expires soon', 'Expiring soon'], ['expired', 'Expired']]
const ORDERS = [
  ['newest', 'Newest first'], ['oldest', 'Oldest first'], ['name', 'By name'], ['expiry', 'Expires first'],
  ['unused', 'Unused longest']
]
const COLUMNS = ['Name', 'Role', 'State', 'Expires', 'Last used', 'Created']

export function pageView (state, actions) {
  const { user, list, loaded, tokens, message } = state
  return html`
    ${headerView(user, 'Tokens')}
    <main class="container">
      <div class="title">
        <div>
          <h1 tabindex="-1">Tokens</h1>
          <p>A token lets a program do what its role allows, until the token expires or is revoked.</p>
        </div>
        ${list === 'ready' && tokens.length > 0 ? createButton(actions) : nothing}
      </div>
      ${list === 'loading'
        ? html`
          <p aria-busy="true">Loading the tokens …${loaded === 0 ? nothing : ` ${count.format(loaded)} so far`}</p>`
        : list === 'ready' ? listView(state, actions) : troubleView(list, actions)}
    </main>
    <p role="status" class="toast">${message}</p>`
}

function listView ({ tokens, view, newest }, actions) {
  if (tokens.length === 0) {
    return noteView('No tokens yet', 'Create one for a script, a dashboard or a CI job.', createButton(actions))
  }
  const now = Date.now()
  const found = arrange(tokens, view, now)
  const shown = pageOf(found, view)
  const expired = tokens.filter(token => stateOf(token, now) === 'expired')
  return html`
    ${toolbarView(view, actions)}
    <div class="results">
      <p id="results" tabindex="-1" aria-live="polite">${summaryOf(shown, found.length, tokens.length)}</p>
      ${expired.length > 1
        ? html`
          <button class="outline danger" @click=${() => actions.startRemoval(expired)}>
            Remove ${expired.length} expired
          </button>`
        : nothing}
      ${pagerView(shown, actions, false)}
    </div>
    ${found.length === 0
      ? noteView('No token matches', nothing, html`
          <button class="outline" @click=${actions.showAll}>Show all tokens</button>`)
      : html`
        <table>
          <thead>
            <tr>
              ${COLUMNS.map(title => html`<th scope="col">${title}</th>`)}
              <th scope="col"><span class="hidden">Actions</span></th>
            </tr>
          </thead>
          <tbody>${shown.rows.map(token => rowView(token, token.hash === newest, now, actions))}</tbody>
        </table>`}
    ${pagerView(shown, actions, true)}`
}

function toolbarView ({ search, state, role, sort }, actions) {
  const choice = (label, property, value, options) => html`
    <select aria-label=${label} @change=${event => actions.look({ [property]: event.target.value })}>
      ${options.map(([option, text]) => html`<option value=${option} .selected=${option === value}>${text}</option>`)}
    </select>`
  return html`
    <search class="toolbar">
      <input type="search" aria-label="Search" placeholder="Search by name" autocomplete="off" spellcheck="false"
        .value=${search} @input=${event => actions.look({ search: event.target.value })}>
      ${choice('State', 'state', state, STATES)}
      ${choice('Role', 'role', role, [['', 'All roles'], ...roles.map(each => [each, nameOf(each)])])}
      ${choice('Order', 'sort', sort, ORDERS)}
    </search>`
}

/** Such as "51–100 of 258 tokens". */
function summaryOf ({ first, rows, pages }, found, all) {
  const range = pages > 1 ? `${count.format(first + 1)}–${count.format(first + rows.length)} of ` : ''
  const total = found < all ? `, ${count.format(all)} in all` : ''
  return `${range}${count.format(found)} ${found === 1 ? 'token' : 'tokens'}${total}`
}

function pagerView ({ page, pages }, actions, isBelow) {
  if (pages === 1) return nothing
  const button = (title, target) => {
    // Not disabled, which would lose the focus.
    const isEnd = target < 0 || target >= pages
    return html`
      <button class="outline secondary" aria-disabled=${isEnd}
        @click=${() => { if (!isEnd) actions.turnTo(target, isBelow) }}>${title}</button>`
  }
  return html`
    <nav class="pager" aria-label=${isBelow ? 'Pages, below the list' : 'Pages'}>
      ${button('Previous', page - 1)} <span>Page ${page + 1} of ${pages}</span> ${button('Next', page + 1)}
    </nav>`
}

function rowView (token, isNewest, now, actions) {
  const { name, role, requestedBy, issueDate, lastUsed, validUntil } = token
  const state = stateOf(token, now)
  const verb = state === 'expired' ? 'Remove' : 'Revoke'
  return html`
    <tr class=${isNewest ? 'newest' : nothing}>
      <th scope="row" tabindex="-1"><bdi class="name" title=${name}>${name}</bdi></th>
      <td>${nameOf(role)}</td>
      <td><span class="state ${state.replace(' ', '-')}">${state}</span></td>
      <td data-label=${state === 'expired' ? 'Expired' : 'Expires'}>
        ${timeView(validUntil, now)}<small>${inFull(validUntil)}</small>
      </td>
      <td data-label="Last used">${lastUsed === issueDate ? 'never' : timeView(lastUsed, now)}</td>
      <td data-label="Created">
        ${timeView(issueDate, now)}<small title=${requestedBy}>by <bdi>${requestedBy}</bdi></small>
      </td>
      <td>
        <button class="outline danger" aria-label="${verb} ${name}" @click=${() => actions.startRemoval([token])}>
          ${verb}
        </button>
      </td>
    </tr>`
}

function timeView (time, now) {
  return html`<time datetime=${time} title=${inFull(time)}>${fromNow(time, now)}</time>`
}

/** Why the list can't be shown, and what to do. */
function troubleView ({ status, message }, actions) {
  const again = title => html`<button @click=${actions.load}>${title}</button>`
  if (status === 404) {
    return noteView('Tokens are disabled', html`This host was started with <code>TOKENS_ENABLED=false</code>: tokens
      can't be created, and none are accepted.`)
  }
  if (status === 403) {
    return noteView('Admins only', html`Your role may not manage tokens. <a href="logout">Log in as an admin</a> to see
      them.`)
  }
  if (status === 401) return noteView(message, nothing, again('Log in'))
  const hint = status === 500 ? ': see the log of the host.' : ''
  return html`<div role="alert">${noteView('Could not load the tokens', message + hint, again('Try again'))}</div>`
}

function noteView (title, text, button = nothing) {
  return html`
    <article class="note"><h2>${title}</h2>${text === nothing ? nothing : html`<p>${text}</p>`}${button}</article>`
}

function createButton (actions) {
  return html`<button @click=${actions.startCreation}>Create token</button>`
}
