import { html } from './lit-html.js'
import { createModal, errorView } from './modal.js'

/**
 * The login where the session has ended, above what is there, so that nothing that was typed is lost.
 * @param logIn rejects with status 401 for a wrong password
 * @returns asks for the login; several requests wait for it together
 */
export function createLogin (element, logIn) {
  let login = null
  const draw = createModal(element, content => loginView(content, submit, cancel), cancel)

  async function submit (username, password) {
    if (login.isBusy) return
    Object.assign(login, { username, isBusy: true, error: '' })
    draw(login)
    try {
      await logIn(username, password)
      end().resolve()
    } catch ({ status, message }) {
      Object.assign(login, { isBusy: false, error: status === 401 ? 'Wrong user name or password.' : message })
      draw(login)
    }
  }

  function cancel () {
    if (!login.isBusy) end().reject(Object.assign(new Error('Your session has ended.'), { status: 401 }))
  }

  function end () {
    const ended = login
    login = null
    draw(null)
    return ended
  }

  return username => {
    if (login === null) {
      login = { kind: 'login', username, error: '', isBusy: false, ...Promise.withResolvers() }
      draw(login)
    }
    return login.promise
  }
}

function loginView ({ username, error, isBusy }, submit, cancel) {
  const onSubmit = event => {
    event.preventDefault()
    const { username, password } = Object.fromEntries(new FormData(event.target))
    submit(username, password)
  }
  return html`
    <article>
      <h2 id="login-title">Your session has ended</h2>
      <form @submit=${onSubmit}>
        <p>Log in to go on. What you entered is kept.</p>
        ${errorView(error)}
        <label>User
          <input name="username" autocomplete="username" autocapitalize="none" spellcheck="false" required
            ?data-focus=${username === ''} value=${username}>
        </label>
        <label>Password
          <input name="password" type="password" autocomplete="current-password" required
            ?data-focus=${username !== ''}>
        </label>
        <footer>
          <button type="button" class="outline secondary" @click=${cancel}>Cancel</button>
          <button aria-busy=${isBusy}>Log in</button>
        </footer>
      </form>
    </article>`
}
