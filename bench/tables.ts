// Results as Markdown tables, between the marks that a document has for them.
import { readFileSync } from 'node:fs'
import { format, resolveConfig } from 'prettier'
import { circumstances, shown, type Row } from './measure.js'
import { readResult } from './results.js'

const MARKED = /(<!-- bench (\S+) -->\n)[^]*?(<!-- \/bench -->)/g

const line = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`

function table(name: string): string {
  const result = readResult(name)
  if (!result) return '_Not measured yet._\n'
  const header = Object.keys(result.rows[0] ?? {})
  const rows = result.rows.map((row) => line(Object.values(row).map(shown)))
  const rule = line(header.map(() => '---'))
  return `${circumstances(result)}\n\n${line(header)}${rule}${rows.join('')}`
}

/** What the README shows: a cell of a result, by the row that it is in. */
const SUMMARY: { what: string; result: string; row: (row: Row) => boolean; column: string }[] = [
  {
    what: '`mapFile`, a file in one piece / the process of `losetup`',
    result: 'map',
    row: ({ segments }) => segments === 1,
    column: 'call / losetup',
  },
  {
    what: '`mapFile`, a file in one piece / the process of `dmsetup create`',
    result: 'map',
    row: ({ segments }) => segments === 1,
    column: 'call / dmsetup, ready table',
  },
  {
    what: '`mapFile`, some 90,000 segments / `filefrag`, `awk` and `dmsetup create`',
    result: 'map',
    row: ({ segments }) => Number(segments) > 50_000 && Number(segments) < 150_000,
    column: 'call / filefrag | awk | dmsetup',
  },
  {
    what: '`planFile`, some 900,000 extents / the process of `filefrag -v`',
    result: 'plan',
    row: ({ extents }) => Number(extents) > 500_000,
    column: 'call / filefrag -v',
  },
  {
    what: 'I/O of the device, 4 KiB, 12 jobs, synchronous / the raw disk',
    result: 'io-null_blk-smp',
    row: ({ workload, device }) => workload === 'psync × 12' && device === 'mapFile',
    column: 'device / raw',
  },
  {
    what: 'I/O of the device, 4 KiB, 12 jobs, asynchronous / the raw disk',
    result: 'io-null_blk-smp',
    row: ({ workload, device }) => workload === 'libaio × 12, depth 16' && device === 'mapFile',
    column: 'device / raw',
  },
]

function summary(): string {
  const lines = SUMMARY.map(({ what, result: name, row, column }) => {
    const result = readResult(name)
    const cell = result?.rows.find(row)?.[column]
    if (!result || cell === undefined) return line([what, '_not measured yet_', ''])
    return line([what, shown(cell), `Linux ${result.kernel}, ${result.processors}`])
  })
  const header = ['time or speed of / that of', 'median (range)', 'measured on']
  return `${line(header)}${line(header.map(() => '---'))}${lines.join('')}`
}

/** The document at a path, with the tables as they are kept now. */
export async function withTables(path: string): Promise<string> {
  const document = readFileSync(path, 'utf8').replace(
    MARKED,
    (_, start: string, name: string, end: string) =>
      `${start}\n${name === 'summary' ? summary() : table(name)}\n${end}`,
  )
  return format(document, { ...(await resolveConfig(path)), filepath: path })
}
