// The figures that are kept in bench/results, one JSON file for each bench and guest.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export interface Spread {
  median: number
  least: number
  most: number
}

export interface Row {
  [column: string]: number | string | Spread
}

export interface Result {
  name: string
  title: string
  kernel: string
  /** How many the guest has, and of which model. */
  processors: string
  node: string
  pairs: number
  rows: Row[]
}

const FOLDER = fileURLToPath(new URL('../../bench/results/', import.meta.url))
const pathOf = (name: string): string => `${FOLDER}${name}.json`

export function readResult(name: string): Result | undefined {
  const path = pathOf(name)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Result) : undefined
}

export function keepResult(name: string, result: Result): void {
  mkdirSync(FOLDER, { recursive: true })
  writeFileSync(pathOf(name), `${JSON.stringify(result, undefined, 2)}\n`)
}
