// Results as Markdown tables, between the markers that a document has for them.
import { readFileSync } from 'node:fs'
import { format, resolveConfig } from 'prettier'
import { circumstances, shown } from './measure.js'
import { readResult, type Row } from './results.js'

const line = (cells: readonly string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`

export const markdownTable = (header: readonly string[], rows: readonly string[][]): string =>
  [header, header.map(() => '---'), ...rows].map(line).join('')

/** A document in which everything between `<!-- KIND NAME -->` and `<!-- /KIND -->` is made anew. */
export async function withGenerated(
  path: string,
  kind: string,
  generate: (name: string) => string,
): Promise<string> {
  const marked = new RegExp(`(<!-- ${kind} (\\S+) -->\n)[^]*?(<!-- /${kind} -->)`, 'g')
  const document = readFileSync(path, 'utf8').replace(
    marked,
    (_, start: string, name: string, end: string) => `${start}\n${generate(name)}\n${end}`,
  )
  return format(document, { ...(await resolveConfig(path)), filepath: path })
}

/** `name` is that of a result, or RESULT/DEVICE/FILESYSTEM: those rows of it only. */
function table(name: string): string {
  const [file = '', device, filesystem = ''] = name.split('/')
  const result = readResult(file)
  if (!result) return '_Not measured yet._\n'
  const isShown = (row: Row): boolean =>
    device === undefined || (row.device === device && shown(row.file ?? '').startsWith(filesystem))
  const rows = result.rows
    .filter(isShown)
    .map((row) => Object.entries(row).filter(([column]) => !(device && column === 'device')))
  const header = (rows[0] ?? []).map(([column]) => column)
  const cells = rows.map((row) => row.map(([, cell]) => shown(cell)))
  return `${circumstances(result)}\n\n${markdownTable(header, cells)}`
}

interface Summary {
  what: string
  /** Which way is better. */
  better: 'lower' | 'higher'
  /** The cell of a result, by the row that it is in. */
  result: string
  row: (row: Row) => boolean
  column: string
}

const isLargestMap = ({ segments, call }: Row): boolean =>
  Number(segments) > 500_000 && call === 'mapFile'

/** What the README shows. */
const SUMMARY: Summary[] = [
  {
    what: 'time of `mapFile`, file in 1 piece / of `losetup`',
    better: 'lower',
    result: 'map-smp',
    row: ({ segments }) => segments === 1,
    column: 'call / losetup',
  },
  {
    what: 'time of `mapFile`, 90,000 pieces / of `filefrag`, `awk` and `dmsetup create`',
    better: 'lower',
    result: 'map-smp',
    row: ({ segments }) => Number(segments) > 50_000 && Number(segments) < 150_000,
    column: 'call / filefrag | awk | dmsetup',
  },
  {
    what: 'time of `planFile`, 900,000 extents / of `filefrag -v`',
    better: 'lower',
    result: 'plan-here',
    row: ({ extents }) => Number(extents) > 500_000,
    column: 'call / filefrag -v',
  },
  {
    what: 'time of `mapAll`, 1,000 images / of `dmsetup create --concise`',
    better: 'lower',
    result: 'map-all',
    row: () => true,
    column: 'time / of dmsetup create --concise',
  },
  {
    what: 'memory over idle, `mapFile`, 900,000 pieces: MiB at most',
    better: 'lower',
    result: 'memory-smp',
    row: isLargestMap,
    column: 'peak RSS over idle, MiB',
  },
  {
    what: 'throughput, random 4 KiB, 12 threads / of the raw disk',
    better: 'higher',
    result: 'io-null_blk-smp',
    row: ({ workload, device }) => workload === 'psync × 12' && device === 'mapFile',
    column: 'device / raw',
  },
  {
    what: 'the same on a ram disk / of a loop device with direct I/O',
    better: 'higher',
    result: 'io-smp',
    row: ({ workload, device }) => workload === 'psync × 12' && device === 'mapFile',
    column: 'device / loop, direct I/O',
  },
  {
    what: 'throughput, 1 MiB reads, file in 10,000 pieces / of the raw disk',
    better: 'higher',
    result: 'io',
    row: ({ workload, device, file = '' }) =>
      workload === '1 MiB read' &&
      device === 'mapFile' &&
      /^ext4, \d{4,} segments$/.test(shown(file)),
    column: 'device / raw',
  },
]

function summary(): string {
  const rows = SUMMARY.map(({ what, better, result: name, row, column }) => {
    const result = readResult(name)
    const cell = result?.rows.find(row)?.[column]
    return [what, cell === undefined ? '_not measured yet_' : shown(cell), better]
  })
  return markdownTable(['', 'median (range)', 'better'], rows)
}

/** The document at a path, with the tables of the results as they are kept now. */
export const withTables = (path: string): Promise<string> =>
  withGenerated(path, 'bench', (name) => (name === 'summary' ? summary() : table(name)))
