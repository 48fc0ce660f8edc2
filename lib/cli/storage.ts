// Where a plan's files are stored: strips of their disks.
import { readFile, readlink } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Plan } from '../index.js'
import type { Screen } from './screen.js'
import { alignColumns, counted, formatBytes, printable } from './text.js'

/** The device of a filesystem, and what of it is the files'. */
export interface Disk {
  /** major:minor */
  device: string
  name: string
  /** Bytes; undefined where the kernel shows no size, as for the devices of btrfs. */
  size: number | undefined
  extents: number
  /** Bytes from the start of the device. */
  first: number
  end: number
}

/** Numbers of an extent in `ExtentTable.packed`. */
const COLUMNS = 4

/** Calls back with every extent: the number of its file, and its bytes on the device of that. */
function forEachExtent(
  { extents, files }: Plan,
  visit: (file: number, physical: number, length: number) => void,
): void {
  const { packed } = extents
  let file = 0
  let fileEnd = files[0]?.size ?? 0
  for (let at = 0; at < packed.length; at += COLUMNS) {
    const logical = packed[at] as number
    while (logical >= fileEnd && file < files.length - 1) fileEnd += files[++file]?.size ?? 0
    visit(file, packed[at + 1] as number, packed[at + 2] as number)
  }
}

/** The disks of a plan, each with the numbers of its files. */
export async function findDisks(plan: Plan): Promise<Disk[]> {
  const disks = new Map<string, Disk>()
  for (const { device } of plan.files) {
    if (disks.has(device)) continue
    const [name, size] = await Promise.all([deviceName(device), deviceSize(device)])
    disks.set(device, { device, name, size, extents: 0, first: Infinity, end: 0 })
  }
  const diskOf = plan.files.map(({ device }) => disks.get(device))
  forEachExtent(plan, (file, physical, length) => {
    const disk = diskOf[file]
    if (!disk) return
    disk.extents++
    disk.first = Math.min(disk.first, physical)
    disk.end = Math.max(disk.end, physical + length)
  })
  return [...disks.values()]
}

const readText = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => undefined,
  )

export async function deviceName(device: string): Promise<string> {
  const folder = `/sys/dev/block/${device}`
  const mapped = await readText(`${folder}/dm/name`)
  if (mapped !== undefined) return `/dev/mapper/${mapped}`
  const link = await readlink(folder).catch(() => undefined)
  return link === undefined ? device : `/dev/${basename(link).replaceAll('!', '/')}`
}

async function deviceSize(device: string): Promise<number | undefined> {
  const sectors = await readText(`/sys/dev/block/${device}/size`)
  return sectors === undefined ? undefined : Number(sectors) * 512
}

/** A part of a disk, in bytes. */
interface Part {
  from: number
  to: number
}

/** How much of each column of a strip is the files', from 0 to 1. */
export function fillColumns(
  plan: Plan,
  { device }: Disk,
  { from, to }: Part,
  width: number,
): number[] {
  const columns = new Array<number>(width).fill(0)
  const each = (to - from) / width
  forEachExtent(plan, (file, physical, length) => {
    if (plan.files[file]?.device !== device) return
    const start = Math.max(physical, from)
    const end = Math.min(physical + length, to)
    for (let column = Math.floor((start - from) / each); column < width; column++) {
      const left = from + column * each
      if (left >= end) break
      const part = Math.min(end, left + each) - Math.max(start, left)
      columns[column] = (columns[column] ?? 0) + Math.max(0, part / each)
    }
  })
  return columns
}

interface Signs {
  none: string
  some: string
  most: string
}
const BLOCKS: Signs = { none: '░', some: '▒', most: '█' }
const ASCII: Signs = { none: '.', some: '+', most: '#' }

const signsOf = ({ blocks }: Screen): Signs => (blocks ? BLOCKS : ASCII)

/** One line; the columns that are alike have their colour in one go. */
function drawStrip(plan: Plan, disk: Disk, part: Part, screen: Screen): string {
  const { none, some, most } = signsOf(screen)
  const signs = fillColumns(plan, disk, part, widthOf(screen)).map((share) =>
    share === 0 ? none : share < 0.5 ? some : most,
  )
  const painted = signs
    .join('')
    .replace(/(.)\1*/g, (run) => screen.paint(run.startsWith(none) ? 'dim' : 'green', run))
  return `${INDENT}${painted}\n`
}

const INDENT = '  '
/** A file in less of its disk than this is drawn once more, enlarged. */
const SMALL = 1 / 4

const widthOf = ({ width }: Screen): number => Math.max(20, Math.min(width, 160) - INDENT.length)

function drawDisk(plan: Plan, disk: Disk, screen: Screen): string {
  const { device, name, size = disk.end, first, end } = disk
  const number = name === device ? '' : ` (${device})`
  const title = `${screen.paint('bold', printable(name))}${number}, ${formatBytes(size)}`
  const whole = drawStrip(plan, disk, { from: 0, to: Math.max(size, end) }, screen)
  const start = `${INDENT}${title}\n${whole}`
  if (end - first >= size * SMALL) return start
  const part = `${formatBytes(end - first)} from byte ${first} (${formatBytes(first)}) on`
  return `${start}${INDENT}enlarged: ${part}\n${drawStrip(plan, disk, { from: first, to: end }, screen)}`
}

/** The disks with the parts where the files are; nothing where that is not known. */
export async function drawStorage(plan: Plan, screen: Screen): Promise<string> {
  const disks = (await findDisks(plan)).filter(({ extents }) => extents > 0)
  if (disks.length === 0) return ''
  const { none, some, most } = signsOf(screen)
  const legend = `${INDENT}a column: ${none} not of the file, ${some} less than half, ${most} half or more\n`
  return disks.map((disk) => drawDisk(plan, disk, screen)).join('') + legend
}

/** The largest and the smallest of a column of packed numbers, which counts in such units. */
function measure(packed: Float64Array, column: number, unit: number): string[] {
  let largest = 0
  let smallest = Infinity
  for (let at = column; at < packed.length; at += COLUMNS) {
    const length = (packed[at] as number) * unit
    if (length > largest) largest = length
    if (length < smallest) smallest = length
  }
  return [`largest ${formatBytes(largest)}`, `smallest ${formatBytes(smallest)}`]
}

/** How many extents and segments there are, and how large. */
export function countPieces({ extents, segments }: Plan): string {
  const rows: string[][] = []
  if (extents.length > 0) {
    rows.push([counted(extents.length, 'extent'), ...measure(extents.packed, 2, 1)])
  }
  if (segments.length > 0) {
    rows.push([counted(segments.length, 'segment'), ...measure(segments.packed, 1, 512)])
  }
  return alignColumns(rows.map(([first = '', ...rest]) => [INDENT + first, ...rest]))
}
