import { html, nothing } from './lit-html.js'
import { errorView } from './modal.js'
import { inWords, roles } from './roles.js'
import { DAY, toLocalField, withZone } from './time.js'

const EXPIRIES = [['7', '7 days'], ['30', '30 days'], ['90', '90 days'], ['365', '1 year'], ['custom', 'Custom …']]
const ADMIN = html`
  <p class="alert warning">
    <strong>Admin tokens may do everything</strong>, even create more tokens. Prefer a smaller role.
  </p>`

/** The form for a new token. */
export function createView ({ error, isBusy, role, now, days, until }, actions) {
  const validUntil = days === 'custom' ? new Date(until) : new Date(now + Number(days) * DAY)
  const field = error === null ? '' : fieldOf(error)
  const submit = event => {
    event.preventDefault()
    actions.create(new FormData(event.target).get('name'), role, validUntil)
  }
  const invalid = name => field === name || nothing
  const problem = name => html`
    <small id="${name}-problem" role="alert" class="problem" ?hidden=${field !== name}>
      ${field === name ? error.message : nothing}
    </small>`
  return html`
    <article>
      <h2 id="dialog-title">Create token</h2>
      <form @submit=${submit}>
        ${field === '' ? errorView(error?.message) : nothing}
        <label>Name
          <input name="name" data-focus required maxlength="255" autocomplete="off" spellcheck="false"
            aria-describedby="name-problem name-help" aria-invalid=${invalid('name')}>
        </label>
        ${problem('name')}
        <small id="name-help">What the token is for, such as “nightly backup”</small>

        <label>Role
          <select name="role" aria-describedby="role-problem role-help" aria-invalid=${invalid('role')}
            @change=${event => actions.choose({ role: event.target.value })}>
            ${roles.map(each => html`<option value=${each} ?selected=${each === role}>${inWords(each)}</option>`)}
          </select>
        </label>
        ${problem('role')}
        <div role="status" id="role-help">${role === 'admin' ? ADMIN : nothing}</div>

        <label>Expires in
          <select name="days" aria-describedby="validUntil-problem until-help"
            aria-invalid=${days === 'custom' ? nothing : invalid('validUntil')}
            @change=${event => actions.choose({ days: event.target.value })}>
            ${EXPIRIES.map(([value, text]) => html`
              <option value=${value} ?selected=${value === days}>${text}</option>`)}
          </select>
        </label>
        ${days === 'custom' ? customView({ now, until, isInvalid: invalid('validUntil') }, actions) : nothing}
        ${problem('validUntil')}
        <small id="until-help" aria-live="polite">Expires on ${withZone(validUntil)}</small>
        <footer>
          <button type="button" class="outline secondary" @click=${actions.close}>Cancel</button>
          <button aria-busy=${isBusy}>Create</button>
        </footer>
      </form>
    </article>`
}

function customView ({ now, until, isInvalid }, actions) {
  return html`
    <label>Expires at
      <input name="until" type="datetime-local" required min=${toLocalField(now)} max="9999-12-30T23:59" value=${until}
        aria-describedby="validUntil-problem until-help" aria-invalid=${isInvalid}
        @input=${event => actions.choose({ until: event.target.value })}>
    </label>`
}

/** The field that an error is about, or nothing. */
function fieldOf ({ status, message }) {
  if (status === 409) return 'name'
  return status === 400 ? /^(name|role|validUntil) /.exec(message)?.[1] ?? '' : ''
}
