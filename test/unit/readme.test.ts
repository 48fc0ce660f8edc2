// The README shows the policy as it is.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { POLICY } from '#lib/policy.js'

const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
const cells = (line: string): string[] => line.split('|').map((cell) => cell.trim())
const shown = readme
  .split('\n')
  .filter((line) => line.startsWith('| `DMLOOP_'))
  .map((line) => cells(line).slice(1, -1))
const expected = Object.entries(POLICY).map(([code, { found, why, remedy }]) => [
  `\`${code}\``,
  found,
  why,
  remedy,
])
t.strictSame(shown, expected)
