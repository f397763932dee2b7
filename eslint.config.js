import neostandard from 'neostandard'

/** Imports run one way: index → http → tokens, index → operations → tokens, index → store. Types cross rooms in lib/types.ts. */
const forbid = (files, patterns, paths = []) => ({
  files,
  rules: {
    'no-restricted-imports': ['error', {
      patterns: [{ group: ['**/test/**'], message: 'What users get must not need the tests.' }, ...patterns],
      paths
    }]
  }
})
const room = name => ({ group: [`**/${name}/**`], message: `Not from here: see docs/architecture.md on which way imports run (${name}).` })

export default [
  ...neostandard({ ts: true, ignores: ['dist/**', '.data/**', '.tap/**'] }),
  forbid(['lib/*.ts', 'schemas/**/*.ts'], []),
  forbid(['lib/http/**/*.ts'], [room('store'), room('operations')], ['pg']),
  forbid(['lib/tokens/**/*.ts'], [room('http'), room('operations'), room('store')], ['fastify', 'pg']),
  forbid(['lib/operations/**/*.ts'], [room('http'), room('store')], ['fastify', 'pg']),
  forbid(['lib/store/**/*.ts'], [room('http'), room('operations'), room('tokens')], ['fastify'])
]
