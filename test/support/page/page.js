import { nothing, render } from './lit-html.js'
import { dialogView, pageView } from './views.js'
import { DAY } from './time.js'

const page = document.querySelector('#page')
const dialog = document.querySelector('#dialog')

/** Counts requests and changes of the list, so that an outdated response is not shown. */
let turn = 0
/** What the page shows. `list` is "loading", "ready" or an error; `dialog` is the open dialog. */
const state = { user: null, list: 'loading', tokens: [], newest: null, message: '', dialog: null }

function draw () {
  const kind = state.dialog?.kind
  render(pageView(state, actions), page)
  render(state.dialog === null ? nothing : dialogView(state.dialog, actions), dialog)
  if (kind === undefined) dialog.close()
  else if (!dialog.open) dialog.showModal()
  if (kind !== undefined && kind !== dialog.dataset.kind) dialog.querySelector('[data-focus]').focus()
  dialog.dataset.kind = kind ?? ''
}

/** Calls the host. Errors have a message for people. */
async function ask (path, method = 'GET', body = undefined) {
  const headers = { accept: 'application/json;version=1', ...body !== undefined && { 'content-type': 'application/json' } }
  let response
  let answer
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body) })
    answer = await response.json()
  } catch {
    throw Object.assign(new Error('Could not reach the host.'), { status: 0 })
  }
  if (response.ok) return answer
  if (answer.data?.session === false) {
    window.location.assign('login')
    // The page is left.
    await new Promise(() => {})
  }
  throw Object.assign(new Error(answer.message), { status: response.status })
}

const actions = {
  async load () {
    const mine = ++turn
    let found
    try {
      state.user ??= await ask('api/profile')
      found = { tokens: await ask('api/tokens'), list: 'ready' }
    } catch ({ status, message }) {
      found = { list: { status, message } }
    }
    if (mine !== turn) return
    Object.assign(state, found)
    draw()
  },

  startCreation () {
    state.dialog = { kind: 'create', error: '', isBusy: false, isCustom: false }
    draw()
  },
  chooseExpiry (value) {
    state.dialog.isCustom = value === 'custom'
    draw()
  },
  async create (form) {
    const { name, role, days, until } = Object.fromEntries(new FormData(form))
    const validUntil = new Date(days === 'custom' ? until : Date.now() + days * DAY).toISOString()
    await attempt(async () => {
      const { token, ...record } = await ask('api/tokens', 'POST', { name, role, validUntil })
      state.tokens = [...state.tokens, record]
      state.newest = record.hash
      state.dialog = { kind: 'secret', name: record.name, token, curl: curlFor(token), copied: '', isLeaving: false }
    })
  },

  startRevocation (token) {
    state.dialog = { kind: 'revoke', token, error: '', isBusy: false }
    draw()
  },
  async revoke ({ name, hash }) {
    await attempt(async () => {
      state.tokens = await ask(`api/tokens/${hash}`, 'DELETE')
      state.message = `Revoked “${name}”.`
      state.dialog = null
    })
    if (state.dialog === null) document.querySelector('h1').focus()
  },

  async copy (what) {
    const field = document.getElementById(what)
    field.select()
    // Pages without TLS can't use the clipboard; the field stays selected for Ctrl-C.
    try {
      await navigator.clipboard.writeText(field.value)
      actions.noteCopy(what)
    } catch {
      document.execCommand('copy')
    }
  },
  noteCopy (what) {
    Object.assign(state.dialog, { copied: what, isLeaving: false })
    draw()
  },

  /** Closes the dialog; asks again if it shows a secret that was not copied. */
  close () {
    if (state.dialog.isBusy) return
    if (!isUncopied()) return actions.leave()
    state.dialog.isLeaving = true
    draw()
    document.getElementById('leave').focus()
  },
  leave () {
    state.dialog = null
    draw()
    // The token may have been used since.
    actions.load()
  }
}

function isUncopied () {
  return state.dialog?.kind === 'secret' && state.dialog.copied === ''
}

/** Runs the action of a dialog, and shows its error there. */
async function attempt (action) {
  const { dialog } = state
  if (dialog.isBusy) return
  Object.assign(dialog, { error: '', isBusy: true })
  state.message = ''
  draw()
  turn++
  try {
    await action()
  } catch ({ message }) {
    dialog.error = message
  }
  dialog.isBusy = false
  draw()
}

function curlFor (token) {
  return `curl -H 'authorization: Bearer ${token}' '${new URL('api/profile', document.baseURI)}'`
}

// The second Escape would close a dialog without a cancel event.
dialog.addEventListener('keydown', event => {
  if (event.key !== 'Escape') return
  event.preventDefault()
  actions.close()
})
dialog.addEventListener('cancel', event => {
  event.preventDefault()
  actions.close()
})
dialog.addEventListener('close', () => { if (state.dialog !== null) draw() })
window.addEventListener('beforeunload', event => {
  if (isUncopied()) event.preventDefault()
})
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && state.list === 'ready' && state.dialog === null) actions.load()
})
setInterval(draw, 20_000)
draw()
actions.load()
