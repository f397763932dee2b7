/** The roles of the MMC in words, from few rights to all. */
const ROLES = new Map([
  ['viewer', ['Viewer', 'reads, changes nothing']],
  ['editor', ['Editor', 'reads and changes']],
  ['connectionManager', ['Connection manager', 'connections']],
  ['monitoringViewer', ['Monitoring viewer', 'reads metrics']],
  ['admin', ['Admin', 'everything, also tokens']]
])

export const roles = [...ROLES.keys()]

export function nameOf (role) {
  return ROLES.get(role)?.[0] ?? role
}

/** The role, and what it may do. */
export function inWords (role) {
  return ROLES.get(role).join(': ')
}
