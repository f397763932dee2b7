import { html, nothing, render } from './lit-html.js'

/**
 * A modal dialog that shows what it is given, null for nothing, and closes no other way.
 * @param close called when the user presses Escape
 */
export function createModal (element, view, close) {
  let content = null

  function show (given) {
    const isNew = given !== null && given.kind !== content?.kind
    content = given
    render(content === null ? nothing : view(content), element)
    if (content === null) element.close()
    else if (!element.open) element.showModal()
    if (isNew) element.querySelector('[data-focus]').focus()
  }

  function cancel (event) {
    event.preventDefault()
    close()
  }
  // The second Escape would close a dialog without a cancel event.
  element.addEventListener('keydown', event => { if (event.key === 'Escape') cancel(event) })
  element.addEventListener('cancel', cancel)
  element.addEventListener('close', () => { if (content !== null) show(content) })
  return show
}

/** What went wrong, in a dialog. */
export function errorView (error) {
  return error ? html`<p role="alert" class="alert">${error}</p>` : nothing
}
