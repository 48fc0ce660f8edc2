// The README shows the policy, and what can be mapped, as they are.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { POLICY } from '#lib/kernel/policy.js'
import { MATRIX } from '../matrix.js'

const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')

/** The rows of the table whose header starts with these words, without what prettier pads them with. */
function tableUnder(header: string): string[][] {
  const lines = readme.split('\n')
  const start = lines.findIndex((line) => cells(line)[0] === header) + 2
  const end = lines.findIndex((line, index) => index >= start && !line.startsWith('|'))
  return lines.slice(start, end).map(cells)
}
const cells = (line: string): string[] =>
  line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())

await t.test('what is refused', (t) => {
  const rows = Object.entries(POLICY).map(([code, { found, why, remedy }]) => [
    `\`${code}\``,
    found,
    why,
    remedy,
  ])
  t.strictSame(tableUnder('code'), rows)
  t.end()
})

await t.test('what can be mapped', (t) => {
  const shown = (cell: string): string => (cell === 'mapped' ? '**mapped**' : `\`${cell}\``)
  const rows = MATRIX.map(({ file, writable, readOnly }) => [
    file,
    shown(writable),
    shown(readOnly),
  ])
  t.strictSame(tableUnder('a file …'), rows)
  t.end()
})
