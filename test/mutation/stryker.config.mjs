const slow = {
  authentication: [
    'lib/http/authenticate.ts', 'lib/http/principal.ts', 'lib/http/authorize.ts', 'lib/http/credential.ts',
    'lib/http/remove-secret.ts', 'lib/http/request-state.ts', 'lib/http/host.ts', 'lib/index.ts'
  ],
  routes: [
    'lib/http/routes.ts', 'lib/http/route-docs.ts', 'lib/http/body.ts', 'lib/http/send-error.ts',
    'lib/http/version.ts', 'lib/errors.ts'
  ],
  store: [
    'lib/store/connection.ts', 'lib/store/cancel.ts', 'lib/store/statement.ts', 'lib/store/writes.ts',
    'lib/store/migrate.ts', 'lib/store/migrations.ts', 'lib/store/key-check.ts', 'lib/store/postgres.ts'
  ],
  outbox: ['lib/operations/audit.ts', 'lib/store/outbox.ts', 'lib/store/migrations.ts']
}

/** No kind of mutant is left out, texts of messages and of SQL neither. */
export default {
  mutate: ['lib/**/*.ts', '!lib/types.ts'],
  plugins: ['./test/mutation/runner.ts'],
  testRunner: 'warm-tap',
  ignorers: ['exported-names'],
  warmTap: {
    // Here lib runs in other processes, where no mutant is, or no mutant lives that the others do not kill in less time.
    without: [
      'attacks/leaks', 'consumer/package', 'demo/demo-host', 'demo/embedded-postgres', 'demo/first-command', 'demo/page',
      'demo/page-form', 'demo/page-list', 'demo/page-sockets', 'docs/deployment', 'docs/docs', 'docs/getting-started',
      'docs/links', 'docs/nginx', 'docs/typescript', 'docs/using-a-token', 'operations/day'
    ],
    slow: {
      'attacks/bad-requests': ['lib/http/body.ts'],
      'attacks/bad-tokens': ['lib/tokens/jwt.ts'],
      'coexistence/auth': slow.authentication,
      'coexistence/host': slow.authentication,
      'coexistence/jwt': ['lib/signers.ts', 'lib/tokens/jwt.ts'],
      'coexistence/limits': slow.routes,
      'coexistence/order': slow.authentication,
      'coexistence/plugins': [...slow.authentication, ...slow.routes],
      'coexistence/sessions': slow.authentication,
      'coexistence/sockets': slow.authentication,
      'coexistence/untouched': ['lib/http/body.ts', 'lib/http/redact-log.ts'],
      'contract/the-database-in-trouble': [...slow.store, 'lib/http/authenticate.ts'],
      'contract/several-nodes': ['lib/store/listener.ts', 'lib/store/listening-connection.ts', 'lib/store/lease.ts'],
      'contract/open-connections': ['lib/http/connections.ts'],
      'contract/outbox': slow.outbox,
      'attacks/forged-events': slow.outbox,
      'contract/routes': ['lib/store/postgres.ts', 'lib/http/routes.ts'],
      'docs/openapi': slow.routes,
      'operations/secrets': ['lib/store/key-check.ts', 'lib/signers.ts', 'lib/tokens/jwt.ts'],
      'operations/storage': slow.store,
      'unit/new-token': ['lib/tokens/new-token.ts'],
      'unit/usage': ['lib/tokens/usage.ts', 'lib/store/postgres.ts']
    }
  },
  coverageAnalysis: 'perTest',
  // Nothing that a mutant leaves behind stays for long.
  maxTestRunnerReuse: 100,
  concurrency: 1,
  timeoutMS: 60_000,
  dryRunTimeoutMinutes: 30,
  tempDirName: '.data/stryker',
  ignorePatterns: ['.data', 'dist', '/test/bench', '/test/faults'],
  reporters: ['clear-text', 'progress', 'html', 'json'],
  htmlReporter: { fileName: '.data/mutation/report.html' },
  jsonReporter: { fileName: '.data/mutation/report.json' }
}
