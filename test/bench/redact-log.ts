/** What redaction adds to a log line of 15 KB that was made to be slow: CPU in microseconds without, with, and their ratio. */
import pino from 'pino'
import { redactParameter } from '../../lib/http/redact-log.js'
import type { Log } from '../../lib/types.js'

const SIZE = 15_000
const URLS = ['a', '&', '&%=', '&%zz=', '&token=x', '&token[', '&toke', '&toke%', '&%74%6f%6b%65%6', ';a=b?token=x', '"']

function createLog (): pino.Logger {
  return pino({ serializers: { req: ({ method, url, query }: Record<string, unknown>) => ({ method, url, query }) } }, pino.destination({ dest: '/dev/null', sync: true }))
}

function cost (act: () => void): number {
  const runs = Array.from({ length: 9 }, () => {
    const before = process.cpuUsage()
    for (let count = 0; count < 300; count++) act()
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 300
  })
  return Math.min(...runs)
}

const [plain, redacted] = [createLog(), createLog()]
redactParameter(redacted as unknown as Log, 'token')
for (const [where, make] of [['url', (url: string) => ({ method: 'GET', url: `/x?${url}` })], ['query', (text: string) => ({ method: 'GET', url: '/x', query: { a: { 0: text } } })]] as const) {
  for (const piece of URLS) {
    const req = make(piece.repeat(SIZE / piece.length))
    const [without, with_] = [plain, redacted].map(log => cost(() => { log.info({ req }, 'incoming request') })) as [number, number]
    console.log(`${where.padEnd(6)}${piece.padEnd(20)}${without.toFixed(1).padStart(8)}${with_.toFixed(1).padStart(8)}${(with_ / without).toFixed(2).padStart(8)}`)
  }
}
