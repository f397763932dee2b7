import { inspect } from 'node:util'
import { Parser } from 'tap-parser'

/** What the process of a test file said, and how it ended. */
export interface FileRun { file: string, output: string, errors: string, status: number | string, seconds: number }

interface Assertion { ok: boolean, fullname: string, name: string, skip: boolean | string, diag: unknown }

/** Prints a line a file, failures whole, and at the end the sums. */
export function createReport (files: number) {
  const begun = performance.now()
  const sums = { passed: 0, failed: 0, skipped: 0 }
  const skips: string[] = []
  const failures: string[] = []
  let done = 0

  return {
    add ({ file, output, errors, status, seconds }: FileRun): void {
      const assertions = Parser.parse(output, { flat: true }).filter(([type]) => type === 'assert').map(
        ([, assertion]) => assertion as Assertion
      )
      const failed = assertions.filter(({ ok }) => !ok)
      const skipped = assertions.filter(({ ok, skip }) => ok && skip !== false)
      const passed = assertions.length - failed.length - skipped.length
      // What ends badly without a failed assertion, or never asserted anything, counts as one.
      const isBroken = failed.length === 0 && (status !== 0 || assertions.length === 0)
      sums.passed += passed
      sums.failed += failed.length + Number(isBroken)
      sums.skipped += skipped.length
      for (const { name, skip } of skipped) {
        skips.push(
        `${file}: ${name}${typeof skip === 'string' ? ` (${skip})` : ''}`
        )
      }
      const isGood = failed.length === 0 && !isBroken
      const marks = `${isGood ? '✓' : '✗'} ${file}`.padEnd(60)
      console.log(
        `${marks}${seconds.toFixed(1).padStart(6)} s ${String(passed).padStart(6)} passed${count(failed, 'failed')}${count(skipped, 'skipped')}`
      )
      done++
      const told = [
        ...failed.map(({ name, diag }) => `✗ ${name}\n${indent(describe(diag))}`),
        ...isBroken
          ? [`✗ ended with ${status}; its last lines:\n${indent(output.trimEnd().split('\n').slice(-40).join('\n'))}`]
          : [],
        ...errors.trim() === '' ? [] : [`on standard error:\n${indent(errors.trimEnd())}`]
      ].map(text => indent(text)).join('\n')
      if (told !== '') console.log(told)
      if (!isGood) failures.push(`${file}\n${told}`)
    },

    /** Whether all is well. The last line is read by programs. */
    end (isCovered: boolean, isInterrupted: boolean): boolean {
      if (failures.length > 0) console.log(`\nFailures, once more:\n${failures.join('\n')}`)
      if (skips.length > 0) console.log(`\nSkipped:\n${skips.map(skip => indent(skip)).join('\n')}`)
      if (isInterrupted) console.log(`\nInterrupted: ${files - done} of ${files} files did not run`)
      if (!isCovered) {
        console.log('\n✗ lib and schemas are not covered whole: see the table above')
        sums.failed++
      }
      if (files === 0) console.log('no test files')
      console.log(`\n${done} files in ${((performance.now() - begun) / 1000).toFixed(0)} s`)
      console.log(`${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped`)
      return sums.failed === 0 && !isInterrupted && done > 0
    }
  }
}

const count = (of: unknown[], what: string): string => of.length === 0 ? '' : `, ${of.length} ${what}`
const indent = (text: string): string => text.replace(/^/gm, '  ')

/** Diffs and stacks as the lines that they are. */
function describe (diag: unknown): string {
  if (typeof diag !== 'object' || diag === null) return String(diag)
  return Object.entries(diag).map(([name, value]) => {
    if (typeof value === 'string') {
      return value.includes('\n')
        ? `${name}:\n${indent(value.trimEnd())}`
        : `${name}: ${value}`
    }
    return `${name}: ${inspect(value, { depth: 10, breakLength: 120 })}`
  }).join('\n')
}
