/** The size of a page, here and of the first request. */
export const PAGE = 50
/** The largest page that the API returns. */
const LARGEST = 1000

/**
 * Calls to the host. Their errors have a message for people, and a status, 0 if there was no response.
 * @param logIn called when the session has ended; the call is made again once its promise is fulfilled
 */
export function createHost (logIn) {
  async function ask (path, options = {}) {
    const { response, answer } = await reach(path, options)
    if (response.ok) return { answer, link: response.headers.get('link') }
    if (answer.data?.session === false && path !== 'auth?json=true') {
      await logIn()
      return await ask(path, options)
    }
    throw Object.assign(new Error(answer.message), { status: response.status })
  }

  /** All tokens, or those that the API's filter selects, page by page: one request where there are few. */
  async function tokens (onPage, filter = {}) {
    const found = []
    for (let query = new URLSearchParams({ limit: PAGE, ...filter }); query !== null;) {
      const { answer, link } = await ask(`api/tokens?${query}`)
      found.push(...answer)
      onPage(found.length)
      query = nextOf(link)
    }
    return found
  }

  return {
    profile: async () => (await ask('api/profile')).answer,

    logIn: (username, password) =>
      ask('auth?json=true', { method: 'POST', body: new URLSearchParams({ username, password }) }),

    tokens,

    /** Those of them that have expired by the host's clock; the browser's may be wrong. */
    async expiredOf (some) {
      const expired = new Set((await tokens(() => {}, { state: 'expired' })).map(({ hash }) => hash))
      return some.filter(({ hash }) => expired.has(hash))
    },

    create: async token => (await ask('api/tokens', {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(token)
    })).answer,

    /** Removes a token; one that is gone already is no error. */
    async remove (hash) {
      try {
        await ask(`api/tokens/${hash}`, { method: 'DELETE', headers: { prefer: 'return=minimal' } })
      } catch (error) {
        if (error.status !== 404) throw error
        // Also a 404 while tokens are disabled; then nothing was removed.
        await ask('api/tokens?limit=1')
      }
    }
  }
}

async function reach (path, { headers, ...options }) {
  try {
    const response = await fetch(path, { headers: { accept: 'application/json;version=1', ...headers }, ...options })
    return { response, answer: response.status === 204 ? null : await response.json() }
  } catch {
    throw Object.assign(new Error('Could not reach the host.'), { status: 0 })
  }
}

/** The query of the next page, in a header such as `<?limit=50&cursor=…>; rel="next"`, or null. */
function nextOf (link) {
  const query = /^<\?([^>]+)>; rel="next"/.exec(link)?.[1]
  if (query === undefined) return null
  const next = new URLSearchParams(query)
  next.set('limit', LARGEST)
  return next
}
