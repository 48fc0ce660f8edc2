// The images of a store as Android's logical partition metadata.
import { realpath, stat } from 'node:fs/promises'
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { replaceFile } from '../kernel/path.js'
import { isSameDisk, type DiskFinder, type DiskName } from './disk-name.js'
import { notRepresentable } from './lp-errors.js'
import {
  encodeLpMetadata,
  LP_FILE_GEOMETRY,
  lpAreaSize,
  lpCopySize,
  type LpBlockDevice,
  type LpForm,
  type LpGeometry,
  type LpMetadata,
  type LpPartition,
} from './lp-metadata.js'
import { SECTOR } from './lp-model.js'
import type { ImageMetadata } from './metadata.js'

/** The partition that is to have the metadata at its start. */
export interface SuperPartition {
  /** Its label: 1 to 36 letters, digits, `_` and `-`; Android calls it super. */
  name: string
  /** Bytes. */
  size: number
}

export interface NamedImage {
  name: string
  metadata: ImageMetadata
}

const GROUP = { name: 'default', slotSuffixed: false, maximumSize: 0 }

/** What Android gives its disks; larger where the tables need more. */
const USUAL_SIZE = 64 << 10
const STEP = 4096

/**
 * The metadata of some images: for the start of a super partition, else for a file. Block devices have the labels of
 * their partitions where these are unique, else their PARTUUIDs or UUIDs. Rejects with DMLOOP_DISK_MISSING and
 * DMLOOP_NOT_REPRESENTABLE.
 */
export async function encodeImages(
  images: readonly NamedImage[],
  finder: DiskFinder,
  superPartition: SuperPartition | undefined,
): Promise<Buffer> {
  const form: LpForm = superPartition ? 'disk' : 'file'
  const disks = disksOf(images)
  const partitions = images.map((image) => partitionOf(image, disks, superPartition ? 1 : 0))
  const devices = superPartition ? [blockDevice(superPartition)] : []
  for (const disk of disks) {
    devices.push(blockDevice({ name: await lpNameOf(disk, finder), size: disk.size }))
  }
  const tables = { headerFlags: 0, groups: [GROUP], partitions, blockDevices: devices }
  const geometry = geometryFor(form, tables)
  const [first, ...rest] = devices
  const firstLogicalSector = lpAreaSize(geometry) / SECTOR
  const blockDevices = first ? [{ ...first, firstLogicalSector }, ...rest] : []
  return encodeLpMetadata({ ...tables, geometry, blockDevices }, form)
}

function disksOf(images: readonly NamedImage[]): DiskName[] {
  const disks: DiskName[] = []
  for (const disk of images.flatMap(({ metadata }) => metadata.disks)) {
    if (!disks.some((each) => isSameDisk(each, disk))) disks.push(disk)
  }
  return disks
}

function partitionOf(
  { name, metadata }: NamedImage,
  all: readonly DiskName[],
  before: number,
): LpPartition {
  const { readOnly, disabled, segments, disks } = metadata
  const numbers = disks.map((disk) => before + all.findIndex((each) => isSameDisk(each, disk)))
  return {
    name,
    attributes: [
      ...(readOnly ? (['read-only'] as const) : []),
      ...(disabled ? (['disabled'] as const) : []),
    ],
    group: GROUP.name,
    extents: segments.map(([, sectors = 0, disk = 0, start = 0]) => ({
      target: 'linear',
      sectors,
      device: numbers[disk] ?? 0,
      start,
    })),
  }
}

const blockDevice = ({ name, size }: SuperPartition): LpBlockDevice => ({
  name,
  slotSuffixed: false,
  size,
  firstLogicalSector: 0,
  alignment: 0,
  alignmentOffset: 0,
})

const IS_NAME = /^[A-Za-z0-9_-]{1,36}$/

async function lpNameOf(disk: DiskName, finder: DiskFinder): Promise<string> {
  const label = await finder.labelOf(disk)
  const name = [label, disk.value].find((each) => each !== undefined && IS_NAME.test(each))
  if (name !== undefined) return name
  const found = `the disk ${disk.by}=${disk.value} has no name of up to 36 letters, digits, ‘_’ and ‘-’`
  throw notRepresentable(
    found,
    'Give its partition a label that is one, with sgdisk --change-name.',
  )
}

/** The smallest that has room, with the largest blocks that all sizes are multiples of. */
function geometryFor(form: LpForm, tables: Omit<LpMetadata, 'geometry'>): LpGeometry {
  const extents = tables.partitions.flatMap((partition) => partition.extents)
  const sectors = extents.flatMap((each) => ('start' in each ? [each.start, each.sectors] : []))
  const sizes = [
    ...tables.blockDevices.map(({ size }) => size),
    ...sectors.map((each) => each * SECTOR),
  ]
  const divides = (block: number): boolean => sizes.every((size) => size % block === 0)
  const logicalBlockSize = [4096, 2048, 1024].find(divides) ?? SECTOR
  if (form === 'file') return { ...LP_FILE_GEOMETRY, logicalBlockSize }
  const maxSize = Math.max(USUAL_SIZE, Math.ceil(lpCopySize(tables) / STEP) * STEP)
  return { maxSize, slotCount: 1, logicalBlockSize }
}

/** Writes a file in place of a regular one, or of none. */
export async function writeExport(path: string, bytes: Buffer): Promise<void> {
  const there = await stat(path).catch((error: unknown) => {
    if (!isSystemError(error, 'ENOENT')) throw error
    return undefined
  })
  if (there?.isFile() === false) {
    const detail = 'is no file: export to one, and copy that to the start of the partition'
    throw dmloopError('DMLOOP_NOT_REGULAR_FILE', { file: path }, detail)
  }
  await replaceFile(there ? await realpath(path) : path, bytes, 0o600)
}
