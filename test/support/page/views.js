import { html, nothing } from './lit-html.js'
import { DAY, fromNow, inFull, stateOf, toLocalField } from './time.js'

const ROLES = ['viewer', 'editor', 'admin', 'connectionManager', 'monitoringViewer']
const EXPIRIES = [[7, '7 days'], [30, '30 days'], [90, '90 days'], [365, '1 year'], ['custom', 'Custom …']]

export function pageView (state, actions) {
  const { user, list, tokens, newest, message } = state
  return html`
    <header class="container">
      <nav aria-label="Main">
        <ul>
          <li><strong>MMC demo host</strong></li>
          <li><a href="" aria-current="page">Tokens</a></li>
          <li><a href="api-docs/">API reference</a></li>
        </ul>
        <ul>
          ${user === null ? nothing : html`<li class="user"><bdi>${user.username}</bdi> (${user.roles.join(', ')})</li>`}
          <li><a href="logout">Log out</a></li>
        </ul>
      </nav>
    </header>
    <main class="container">
      <div class="title">
        <div>
          <h1 tabindex="-1">Tokens</h1>
          <p>A token lets a program do what its role allows, until the token expires or is revoked.</p>
        </div>
        ${list === 'ready' ? html`<button @click=${actions.startCreation}>Create token</button>` : nothing}
      </div>
      <p role="status" class="status">${message}</p>
      ${list === 'loading' ? html`<p aria-busy="true">Loading the tokens …</p>` : list === 'ready' ? listView(tokens, newest, actions) : troubleView(list, actions)}
    </main>`
}

function listView (tokens, newest, actions) {
  if (tokens.length === 0) {
    return html`<article class="note"><h2>No tokens yet</h2><p>Create one for a script, a dashboard or a CI job.</p></article>`
  }
  const now = Date.now()
  return html`
    <table>
      <thead><tr>${['Name', 'Role', 'State', 'Expires', 'Last used', 'Created'].map(title => html`<th scope="col">${title}</th>`)}<th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${tokens.map(token => rowView(token, token.hash === newest, now, actions))}</tbody>
    </table>`
}

function rowView (token, isNewest, now, actions) {
  const { name, role, requestedBy, issueDate, lastUsed, validUntil } = token
  const state = stateOf(token, now)
  return html`
    <tr class=${isNewest ? 'newest' : nothing}>
      <th scope="row"><bdi>${name}</bdi></th>
      <td data-label="Role">${role}</td>
      <td data-label="State"><span class="state ${state.replace(' ', '-')}">${state}</span></td>
      <td data-label="Expires">${timeView(validUntil, now)}<small>${inFull(validUntil)}</small></td>
      <td data-label="Last used">${lastUsed === issueDate ? 'never' : timeView(lastUsed, now)}</td>
      <td data-label="Created">${timeView(issueDate, now)}<small>by <bdi>${requestedBy}</bdi></small></td>
      <td><button class="outline danger" aria-label="Revoke ${name}" @click=${() => actions.startRevocation(token)}>Revoke</button></td>
    </tr>`
}

function timeView (time, now) {
  return html`<time datetime=${time} title=${inFull(time)}>${fromNow(time, now)}</time>`
}

/** Why the list can't be shown, and what to do. */
function troubleView ({ status, message }, actions) {
  if (status === 404) {
    return html`<article class="note"><h2>Tokens are disabled</h2><p>This host was started with <code>TOKENS_ENABLED=false</code>: tokens can't be created, and none are accepted.</p></article>`
  }
  if (status === 403) {
    return html`<article class="note"><h2>Admins only</h2><p>Your role may not manage tokens. <a href="logout">Log in as an admin</a> to see them.</p></article>`
  }
  return html`<article class="note"><div role="alert"><h2>Could not load the tokens</h2><p>${message}${status === 500 ? ': see the log of the host.' : ''}</p></div><button @click=${actions.load}>Try again</button></article>`
}

export function dialogView (dialog, actions) {
  return { create: createView, secret: secretView, revoke: revokeView }[dialog.kind](dialog, actions)
}

function createView ({ error, isBusy, isCustom }, actions) {
  const submit = event => {
    event.preventDefault()
    actions.create(event.target)
  }
  return html`
    <article>
      <h2 id="dialog-title">Create token</h2>
      <form @submit=${submit}>
        ${errorView(error)}
        <label>Name <input name="name" data-focus required autocomplete="off" spellcheck="false" aria-describedby="name-help">
          <small id="name-help">What the token is for, such as “nightly backup”</small></label>
        <label>Role <select name="role">${ROLES.map(role => html`<option>${role}</option>`)}</select></label>
        <label>Expires in <select name="days" @change=${event => actions.chooseExpiry(event.target.value)}>
          ${EXPIRIES.map(([value, text]) => html`<option value=${value} ?selected=${value === 90}>${text}</option>`)}</select></label>
        ${isCustom ? html`<label>Expires at <input name="until" type="datetime-local" required min=${toLocalField(Date.now())} value=${toLocalField(Date.now() + 90 * DAY)}></label>` : nothing}
        <footer>
          <button type="button" class="outline secondary" @click=${actions.close}>Cancel</button>
          <button aria-busy=${isBusy}>Create</button>
        </footer>
      </form>
    </article>`
}

function secretView ({ name, token, curl, copied, isLeaving }, actions) {
  const field = (id, label, value) => html`
    <label for=${id}>${label}</label>
    <div class="copy">
      <textarea id=${id} readonly spellcheck="false" rows="6" .value=${value} @focus=${event => event.target.select()} @copy=${event => { if (isWhole(event.target)) actions.noteCopy(id) }}></textarea>
      <button type="button" ?data-focus=${id === 'secret'} class=${id === 'secret' ? nothing : 'outline'} @click=${() => actions.copy(id)}>${copied === id ? 'Copied' : 'Copy'}<span class="hidden"> ${label}</span></button>
    </div>`
  return html`
    <article>
      <h2 id="dialog-title">“<bdi>${name}</bdi>” is ready</h2>
      <p class="alert warning"><strong>Copy the token now.</strong> It is shown only once: the host stores only its hash.</p>
      ${field('secret', 'The token', token)}
      ${field('curl', 'Try it in a terminal', curl)}
      <p role="status" class="status">${copied === '' ? '' : 'Copied to the clipboard.'}</p>
      <footer>
        ${isLeaving
          ? html`<p role="alert">You have not copied the token. It can't be shown again after you close this dialog.</p>
            <button type="button" id="leave" class="outline secondary" @click=${actions.leave}>Close without copying</button>
            <button type="button" @click=${() => actions.copy('secret')}>Copy the token</button>`
          : html`<button type="button" @click=${actions.close}>Done</button>`}
      </footer>
    </article>`
}

function isWhole ({ selectionStart, selectionEnd, value }) {
  return selectionStart === 0 && selectionEnd === value.length
}

function revokeView ({ token, error, isBusy }, actions) {
  return html`
    <article>
      <h2 id="dialog-title">Revoke “<bdi>${token.name}</bdi>”?</h2>
      ${errorView(error)}
      <p>Programs that use this token will be refused immediately. This can't be undone.</p>
      <footer>
        <button class="outline secondary" data-focus @click=${actions.close}>Cancel</button>
        <button class="danger" aria-busy=${isBusy} @click=${() => actions.revoke(token)}>Revoke</button>
      </footer>
    </article>`
}

function errorView (error) {
  return error === '' ? nothing : html`<p role="alert" class="alert">${error}</p>`
}
