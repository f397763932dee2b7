import { createView } from './create.js'
import { html, nothing } from './lit-html.js'
import { errorView } from './modal.js'
import { fromNow, inFull, stateOf } from './time.js'

export function dialogView (dialog, actions) {
  return { create: createView, secret: secretView, remove: removeView }[dialog.kind](dialog, actions)
}

function secretView ({ name, token, copied, isLeaving }, actions) {
  const curl = `curl -H 'authorization: Bearer ${token}' '${new URL('api/profile', document.baseURI)}'`
  const field = (id, label, value) => html`
    <label for=${id}>${label}</label>
    <div class="copy">
      <textarea id=${id} readonly spellcheck="false" rows="6" .value=${value}
        @focus=${event => event.target.select()}
        @copy=${event => { if (isWhole(event.target)) actions.noteCopy(id) }}></textarea>
      <button type="button" ?data-focus=${id === 'secret'} class=${id === 'secret' ? nothing : 'outline'}
        @click=${() => actions.copy(id)}>
        ${copied === id ? 'Copied' : 'Copy'}<span class="hidden"> ${label}</span>
      </button>
    </div>`
  return html`
    <article>
      <h2 id="dialog-title">“<bdi>${name}</bdi>” is ready</h2>
      <p class="alert warning">
        <strong>Copy the token now.</strong> It is shown only once: the host stores only its hash.
      </p>
      ${field('secret', 'The token', token)}
      ${field('curl', 'Try it in a terminal', curl)}
      <p role="status" class="done">${copied === '' ? '' : 'Copied to the clipboard.'}</p>
      <footer>
        ${isLeaving
          ? html`<p role="alert">You have not copied the token. It can't be shown again after you close this dialog.</p>
            <button type="button" class="outline secondary" @click=${actions.leave}>Close without copying</button>
            <button type="button" id="stay" @click=${() => actions.copy('secret')}>Copy the token</button>`
          : html`<button type="button" @click=${actions.close}>Done</button>`}
      </footer>
    </article>`
}

function isWhole ({ selectionStart, selectionEnd, value }) {
  return selectionStart === 0 && selectionEnd === value.length
}

function removeView (dialog, actions) {
  const { tokens, done, error, isBusy } = dialog
  const { title, text, verb, announcement } = tokens.length === 1 ? one(tokens[0]) : several(tokens.length)
  return html`
    <article>
      <h2 id="dialog-title">${title}</h2>
      ${errorView(error?.message)}
      <p>${text}</p>
      ${isBusy && tokens.length > 1
        ? html`<progress value=${done} max=${tokens.length} aria-label="Removed"></progress>`
        : nothing}
      <footer>
        <button class="outline secondary" data-focus @click=${actions.close}>Cancel</button>
        <button class="danger" aria-busy=${isBusy} @click=${() => actions.remove(dialog, announcement)}>${verb}</button>
      </footer>
    </article>`
}

function one (token) {
  const { name, validUntil, lastUsed, issueDate } = token
  const now = Date.now()
  const used = lastUsed === issueDate ? 'It was never used.' : `It was last used ${fromNow(lastUsed, now)}.`
  return stateOf(token, now) === 'expired'
    ? {
        title: html`Remove “<bdi>${name}</bdi>”?`,
        text: `It expired on ${inFull(validUntil)}, so no program can use it any more. ${used} This can't be undone.`,
        verb: 'Remove',
        announcement: () => html`Removed “<bdi>${name}</bdi>”.`
      }
    : {
        title: html`Revoke “<bdi>${name}</bdi>”?`,
        text: `Programs that use this token will be refused immediately. ${used} This can't be undone.`,
        verb: 'Revoke',
        announcement: () => html`Revoked “<bdi>${name}</bdi>”.`
      }
}

function several (count) {
  return {
    title: `Remove ${count} expired tokens?`,
    text: "No program can use them any more. This can't be undone.",
    verb: 'Remove all',
    announcement: removed => `Removed ${removed} expired ${removed === 1 ? 'token' : 'tokens'}.`
  }
}
