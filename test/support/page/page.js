import { dialogView } from './dialogs.js'
import { createHost } from './host.js'
import { html, render } from './lit-html.js'
import { arrange, EVERYTHING, pageOf, viewOn } from './list.js'
import { createLogin } from './login-again.js'
import { createModal } from './modal.js'
import { DAY, toLocalField } from './time.js'
import { pageView } from './views.js'

const [page, dialog, login] = ['#page', '#dialog', '#login'].map(id => document.querySelector(id))
const showDialog = createModal(dialog, content => dialogView(content, actions), () => actions.close())
const askForLogin = createLogin(login, async (username, password) => {
  await host.logIn(username, password)
  state.user = await host.profile()
  draw()
})
const host = createHost(() => askForLogin(state.user?.username ?? ''))

/** Counts requests and changes of the list, so that an outdated response is not shown. */
let turn = 0
let silence
/** What the page shows. `list` is "loading", "ready" or an error; `dialog` is the open dialog. */
const state = {
  user: null, list: 'loading', loaded: 0, tokens: [], view: EVERYTHING, newest: null, message: '', dialog: null
}

function draw () {
  render(pageView(state, actions), page)
  showDialog(state.dialog)
}

const actions = {
  async load () {
    const mine = ++turn
    let found
    try {
      state.user ??= await host.profile()
      const tokens = await host.tokens(loaded => {
        state.loaded = loaded
        if (state.list === 'loading') draw()
      })
      found = { tokens, list: 'ready' }
    } catch ({ status, message }) {
      found = { list: { status, message } }
    }
    if (mine !== turn) return
    Object.assign(state, found)
    draw()
  },

  /** Changes search, filters or order. */
  look (change) {
    state.view = { ...state.view, page: 0, ...change }
    draw()
  },
  turnTo (number, isFromBelow) {
    actions.look({ page: number })
    if (isFromBelow) document.querySelector('#results').focus()
  },
  showAll () {
    actions.look(EVERYTHING)
    document.querySelector('#results').focus()
  },

  startCreation () {
    const now = Date.now()
    const until = toLocalField(now + 90 * DAY)
    state.dialog = { kind: 'create', error: null, isBusy: false, role: 'viewer', now, days: '90', until }
    draw()
  },
  choose (change) {
    Object.assign(state.dialog, change)
    draw()
  },
  async create (name, role, validUntil) {
    await attempt(async () => {
      const { token, ...record } = await host.create({ name, role, validUntil: validUntil.toISOString() })
      state.tokens = [...state.tokens, record]
      state.newest = record.hash
      state.dialog = { kind: 'secret', name: record.name, token, copied: '', isLeaving: false }
    })
    dialog.querySelector('[aria-invalid=true]')?.focus()
  },

  startRemoval (tokens) {
    state.dialog = { kind: 'remove', tokens, done: 0, error: null, isBusy: false }
    draw()
  },
  /** Revokes or removes a token, or removes those of several that have expired. */
  async remove ({ tokens }, announcement) {
    const row = tokens.length === 1 ? rowOf(tokens[0].hash) : -1
    const gone = new Set()
    await attempt(async () => {
      try {
        for (const { hash } of tokens.length === 1 ? tokens : await host.expiredOf(tokens)) {
          await host.remove(hash)
          actions.choose({ done: gone.add(hash).size })
        }
      } finally {
        state.tokens = state.tokens.filter(({ hash }) => !gone.has(hash))
        actions.choose({ tokens: tokens.filter(({ hash }) => !gone.has(hash)), done: 0 })
      }
      state.dialog = null
      announce(announcement(gone.size))
    })
    if (state.dialog !== null) return
    focusRow(row)
    if (tokens.length > 1) actions.load()
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
    actions.choose({ copied: what, isLeaving: false })
  },

  /** Closes the dialog; asks again if it shows a secret that was not copied. */
  close () {
    if (state.dialog.isBusy) return
    if (!isUncopied()) return actions.leave()
    actions.choose({ isLeaving: true })
    // Enter must not lose the secret.
    document.getElementById('stay').focus()
  },
  leave () {
    const { kind, name } = state.dialog
    state.dialog = null
    if (kind === 'secret') {
      state.view = viewOn(state.newest, state.tokens, state.view, Date.now())
      announce(html`Created “<bdi>${name}</bdi>”.`)
    }
    draw()
    if (kind === 'secret') focusRow(rowOf(state.newest), 'th')
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
  Object.assign(dialog, { error: null, isBusy: true })
  draw()
  turn++
  try {
    await action()
  } catch (error) {
    dialog.error = error
  }
  dialog.isBusy = false
  draw()
}

/** Says what was done, for a while. */
function announce (message) {
  clearTimeout(silence)
  silence = setTimeout(announce, 10_000, '')
  state.message = message
  draw()
}

/** Where on its page a token is, or -1. */
function rowOf (hash) {
  const now = Date.now()
  return pageOf(arrange(state.tokens, state.view, now), state.view).rows.findIndex(token => token.hash === hash)
}

/** Keeps the place: the row that is there now gets the focus, and the last one where there are fewer. */
function focusRow (index, part = 'button') {
  const parts = [...document.querySelectorAll(`tbody ${part}`)]
  const place = index === -1 ? undefined : parts[index] ?? parts.at(-1);
  (place ?? document.querySelector('#results') ?? document.querySelector('h1')).focus()
}

window.addEventListener('beforeunload', event => {
  if (isUncopied()) event.preventDefault()
})
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && state.list === 'ready' && state.dialog === null) actions.load()
})
setInterval(draw, 20_000)
draw()
actions.load()
