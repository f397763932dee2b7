import { PAGE } from './host.js'
import { stateOf } from './time.js'

/** How the list looks at first: all tokens, the newest on top. */
export const EVERYTHING = { search: '', state: '', role: '', sort: 'newest', page: 0 }

const collator = new Intl.Collator('en', { numeric: true })
const by = (property, sign = 1) => (a, b) => a[property] < b[property] ? -sign : a[property] > b[property] ? sign : 0

const ORDERS = {
  newest: by('issueDate', -1),
  oldest: by('issueDate'),
  name: (a, b) => collator.compare(a.name, b.name),
  expiry: by('validUntil'),
  unused: by('lastUsed')
}

/** The tokens that match search and filters, in order. */
export function arrange (tokens, { search, state, role, sort }, now) {
  const wanted = normalize(search.trim())
  return tokens.filter(token =>
    (wanted === '' || normalize(token.name).includes(wanted)) &&
    (role === '' || token.role === role) &&
    // What expires soon is active as well.
    (state === '' || state === stateOf(token, now) || (state === 'active' && stateOf(token, now) !== 'expired'))
  ).sort(ORDERS[sort])
}

/** The page of these that is shown; the last one where there are fewer by now. */
export function pageOf (tokens, { page }) {
  const pages = Math.max(1, Math.ceil(tokens.length / PAGE))
  const current = Math.min(page, pages - 1)
  return { page: current, pages, first: current * PAGE, rows: tokens.slice(current * PAGE, (current + 1) * PAGE) }
}

/** The view in which this token can be seen: its page; without search and filters where they hide it. */
export function viewOn (hash, tokens, view, now) {
  for (const seen of [view, { ...EVERYTHING, sort: view.sort }]) {
    const index = arrange(tokens, seen, now).findIndex(token => token.hash === hash)
    if (index !== -1) return { ...seen, page: Math.floor(index / PAGE) }
  }
  return view
}

function normalize (text) {
  return text.normalize('NFKC').toLowerCase()
}
