// Files that are there already become images of a store, where Android's logical partition metadata agree with them.
import { randomUUID } from 'node:crypto'
import { constants, read } from 'node:fs'
import { promisify } from 'node:util'
import { dmloopError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { OpenPath } from '../kernel/path.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { openLocked } from '../file-lock.js'
import { releaseKept } from '../guard.js'
import { BackingFile, BackingFiles } from '../plan/backing-file.js'
import { buildPlan } from '../plan/build-plan.js'
import type { DiskFinder } from './disk-name.js'
import { keepFiles } from './kept-files.js'
import { appendLabel, LABEL_SIZE, readLabel } from './label.js'
import { badMetadata, damage } from './lp-errors.js'
import { lpFormOf } from './lp-geometry.js'
import {
  decodeLpGeometry,
  decodeLpMetadata,
  LARGEST_AREA,
  LP_GEOMETRY_END,
  lpAreaSize,
  type LpBlockDevice,
  type LpMetadata,
  type LpPartition,
} from './lp-metadata.js'
import { newMetadata, type ImageMetadata } from './metadata.js'
import { changed, deviationsOf, storedTable } from './stored-table.js'

const readBytes = promisify(read)

/** A partition of the metadata: an image that its file must be. */
export interface DescribedImage {
  name: string
  readOnly: boolean
  disabled: boolean
  /** Where its bytes are stored. */
  table: SegmentTable
}

/**
 * The partitions of a slot of the metadata in a file, or at the start of a block device. Rejects with
 * DMLOOP_BAD_IMAGE, with DMLOOP_EMPTY_FILE for a partition of nothing, and with DMLOOP_DISK_MISSING.
 */
export async function readDescribed(
  path: string,
  slot: number,
  finder: DiskFinder,
): Promise<DescribedImage[]> {
  const metadata = await readMetadata(path, slot)
  const suffix = `_${String.fromCharCode('a'.charCodeAt(0) + slot)}`
  const suffixed = (name: string, isSuffixed: boolean): string =>
    isSuffixed ? name + suffix : name
  const numbers = new Map<LpBlockDevice, string>()
  const numberOf = async (device: LpBlockDevice | undefined): Promise<string> => {
    if (!device) return ''
    const { name, slotSuffixed, size } = device
    const found =
      numbers.get(device) ?? (await finder.findNamed(suffixed(name, slotSuffixed), size))
    numbers.set(device, found)
    return found
  }
  const images: DescribedImage[] = []
  for (const partition of metadata.partitions) {
    const { attributes } = partition
    const name = suffixed(partition.name, attributes.includes('slot-suffixed'))
    if (partition.extents.length === 0) throw dmloopError('DMLOOP_EMPTY_FILE', { file: name })
    images.push({
      name,
      readOnly: attributes.includes('read-only'),
      disabled: attributes.includes('disabled'),
      table: await tableOf(partition, ({ device }) => numberOf(metadata.blockDevices[device])),
    })
  }
  return images
}

async function tableOf(
  { extents }: LpPartition,
  numberOf: (extent: { device: number }) => Promise<string>,
): Promise<SegmentTable> {
  const devices: string[] = []
  const rows: number[] = []
  let start = 0
  for (const extent of extents) {
    if (extent.target === 'zero') {
      rows.push(start, extent.sectors, -1, 0)
    } else {
      const device = await numberOf(extent)
      const found = devices.indexOf(device)
      const number = found === -1 ? devices.push(device) - 1 : found
      rows.push(start, extent.sectors, number, extent.start)
    }
    start += extent.sectors
  }
  return new SegmentTable(Float64Array.from(rows), devices)
}

/** What a table maps: bytes. */
const sizeOf = (table: SegmentTable): number => table.sectors * SECTOR

async function readMetadata(path: string, slot: number): Promise<LpMetadata> {
  await using file = await OpenPath.open(path, constants.O_RDONLY)
  const head = await readStart(file.fd, LP_GEOMETRY_END)
  const form = lpFormOf(head)
  const geometry = decodeLpGeometry(head, form, { file: path })
  const size = form === 'file' ? LP_GEOMETRY_END + geometry.maxSize : lpAreaSize(geometry)
  if (size > LARGEST_AREA) {
    throw badMetadata(path, damage(0, `of ${size} bytes, more than ${LARGEST_AREA}`))
  }
  return decodeLpMetadata(await readStart(file.fd, size), form, { file: path, slot })
}

/** Fewer bytes where the file ends. */
async function readStart(fd: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  for (let done = 0; done < length;) {
    const { bytesRead } = await readBytes(fd, bytes, done, length - done, done)
    if (bytesRead === 0) return bytes.subarray(0, done)
    done += bytesRead
  }
  return bytes
}

/** Rejects where files are not an image: with DMLOOP_FILE_CHANGED, and as mapFile refuses them. */
export async function assertDescribed(
  paths: readonly string[],
  { table, readOnly }: DescribedImage,
): Promise<void> {
  await using files = await BackingFiles.open(paths, DEFAULT_WAIT)
  const size = sizeOf(table)
  const bytes = files.list.reduce((sum, file) => sum + file.size, 0)
  const last = files.list.at(-1)
  if (!last || ![size, size + LABEL_SIZE].includes(bytes)) {
    throw changed(paths[0] ?? '', `has ${bytes} bytes, and its partition ${size}`)
  }
  const { plan } = await buildPlan(files.list, {
    offset: 0,
    length: size,
    readOnly,
    holes: 'reject',
    guard: 'immutable',
  })
  plan.assertMappable()
  const [deviation] = deviationsOf(table, plan.segments)
  if (deviation) throw changed(paths[0] ?? '', 'is stored elsewhere than its partition', deviation)
  if (bytes === size || (await labelOf(paths)) !== undefined) return
  throw changed(last.path, `has ${LABEL_SIZE} bytes more than its partition, which are no label`)
}

/** The id in the label of an image, if it has one. */
async function labelOf(paths: readonly string[]): Promise<string | undefined> {
  await using last = await BackingFile.open(paths.at(-1) ?? '', DEFAULT_WAIT)
  return last.size < LABEL_SIZE ? undefined : await readLabel(last.fd, last.size - LABEL_SIZE)
}

/**
 * Makes files an image of a store: with a label, where they have none from before, and a guard that stays. Their
 * metadata are to be written next. If it rejects, the files are as they were.
 */
export async function adoptFiles(
  paths: readonly string[],
  { table, readOnly, disabled }: DescribedImage,
  { partitions, finder }: { partitions: boolean; finder: DiskFinder },
): Promise<ImageMetadata> {
  const known = await labelOf(paths)
  const id = known ?? randomUUID()
  try {
    if (known === undefined) await appendLabel(paths.at(-1) ?? '', id)
    const blocks = await keepFiles(paths, { ...DEFAULT_WAIT, mapped: false })
    const metadata = { ...newMetadata(id, { readOnly, partitions }), ...blocks, disabled }
    const [deviation] = deviationsOf(table, await storedTable(metadata, finder))
    if (deviation) throw changed(paths[0] ?? '', 'has moved', deviation)
    return { ...metadata, state: 'ready' }
  } catch (error) {
    if (known === undefined) {
      await abandon(paths, id).catch((failure: unknown) => {
        if (error instanceof Error) error.cause ??= failure
      })
    }
    throw error
  }
}

/** Takes the guard and the label away again. */
async function abandon(paths: readonly string[], id: string): Promise<void> {
  const locked = await openLocked(paths, DEFAULT_WAIT)
  await using files = locked.files
  await using _ = locked.lock
  for (const file of files.list) await releaseKept(file)
  const last = files.list.at(-1)
  if (!last || (await readLabel(last.fd, last.size - LABEL_SIZE)) !== id) return
  await using writable = await OpenPath.open(last.path, constants.O_RDWR)
  await result(native.truncate(writable.fd, last.size - LABEL_SIZE), last.path)
}
