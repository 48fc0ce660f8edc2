// What the benches share: pairs of runs, their ratios, and how they are shown and kept.
import { execFileSync } from 'node:child_process'
import { cpus, release } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Result, Row, Spread } from './results.js'

/** How often two things are run in turn: the machine may be shared, so only ratios count. */
export const PAIRS = 7

/** Before the line of JSON that a bench in the guest ends with. */
export const RESULT = '@result '

const FLOOR = fileURLToPath(new URL('../../build/Release/floor', import.meta.url))

export async function milliseconds(work: () => unknown): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/**
 * Like `milliseconds`, after a process was started: a fork has every page of this one copied when it is written
 * to next, so a call that `warms` it up comes first, and is not counted.
 */
export async function afterFork(work: () => unknown, warms: () => unknown): Promise<number> {
  await warms()
  return milliseconds(work)
}

/** What the C program that does the least takes, in milliseconds, without starting it. */
export const floor = (...args: string[]): number =>
  Number(execFileSync(FLOOR, args, { encoding: 'utf8' }))

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  return {
    median: sorted[sorted.length >> 1] ?? NaN,
    least: sorted[0] ?? NaN,
    most: sorted.at(-1) ?? NaN,
  }
}

/** A ratio, with the range of its pairs. */
export const ratio = ({ median, least, most }: Spread): string =>
  `${median.toFixed(2)} (${least.toFixed(2)} to ${most.toFixed(2)})`

export const shown = (cell: Row[string]): string =>
  typeof cell === 'object' ? ratio(cell) : String(cell)

/** What figures hold for, and how they came about. */
export const circumstances = ({ kernel, processors, node, pairs }: Result): string =>
  `Linux ${kernel} on ${processors}, Node.js ${node}, ${pairs} rounds each: median (range)`

/** Tells whoever keeps figures what they are so far. */
export function keep(name: string, title: string, rows: Row[]): Result {
  const processors = `${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}`
  const [kernel, node] = [release(), process.version]
  const result: Result = { name, title, kernel, processors, node, pairs: PAIRS, rows }
  console.log(`${RESULT}${JSON.stringify(result)}`)
  return result
}

/** Prints a table, and has it kept. */
export function report(name: string, title: string, rows: Row[]): void {
  const [first] = rows
  if (!first) return
  const cells = rows.map((row) => Object.values(row).map(shown))
  const header = Object.keys(first)
  const widths = header.map((each, column) =>
    Math.max(each.length, ...cells.map((line) => (line[column] ?? '').length)),
  )
  const padded = (line: readonly string[]): string =>
    line.map((cell, column) => cell.padStart(widths[column] ?? 0)).join('  ')
  console.log(`\n${title}\n${circumstances(keep(name, title, rows))}\n`)
  console.log([header, ...cells].map(padded).join('\n'))
}
