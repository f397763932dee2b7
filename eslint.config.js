import neostandard from 'neostandard'
import tseslint from 'typescript-eslint'

/** Imports run one way: index → http → tokens, index → operations → tokens, index → store. Types cross rooms in lib/types.ts. */
const forbid = (files, patterns, paths = []) => ({
  files,
  rules: {
    'no-restricted-imports': ['error', {
      patterns: [{ group: ['**/test/**'], message: 'Users must not need the tests.' }, ...patterns],
      paths
    }]
  }
})
const room = name => ({ group: [`**/${name}/**`], message: `Imports do not run this way: see docs/architecture.md (${name}).` })

export default tseslint.config(
  ...neostandard({ ts: true, ignores: ['dist/**', '.data/**', '.tap/**'] }),
  {
    files: ['lib/**/*.ts', 'schemas/**/*.ts'],
    extends: [tseslint.configs.recommendedTypeCheckedOnly],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      '@stylistic/max-len': ['error', { code: 120 }],
      // A function may be async so that what it throws is a rejection.
      '@typescript-eslint/require-await': 'off',
      'no-void': ['error', { allowAsStatement: true }]
    }
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      // A title is one line, and so is a line of SQL or of a program that a test runs.
      '@stylistic/max-len': ['error', { code: 120, ignoreStrings: true, ignoreTemplateLiterals: true, ignoreRegExpLiterals: true }],
      'no-restricted-syntax': ['error', {
        selector: 'ExpressionStatement > CallExpression[callee.property.name=/^(rejects|resolves|resolveMatch)$/]',
        message: 'Await it, or the test ends before it.'
      }, ...['Literal[value', 'TemplateElement[value.raw'].map(text => ({
        selector: `${text}=/pg_(terminate|cancel)_backend(?!.*datname = current_database)/s]`,
        message: 'Name the database, or it ends connections of test files that run meanwhile.'
      }))]
    }
  },
  forbid(['lib/*.ts', 'schemas/**/*.ts'], []),
  forbid(['lib/http/**/*.ts'], [room('store'), room('operations')], ['pg']),
  forbid(['lib/tokens/**/*.ts'], [room('http'), room('operations'), room('store')], ['fastify', 'pg']),
  forbid(['lib/operations/**/*.ts'], [room('http'), room('store')], ['fastify', 'pg']),
  forbid(['lib/store/**/*.ts'], [room('http'), room('operations'), room('tokens')], ['fastify'])
)
