// Writes logical partition metadata.
import { neededVersion } from './lp-codes.js'
import { toTables } from './lp-convert.js'
import { notRepresentable } from './lp-errors.js'
import { geometryFault, writeGeometry } from './lp-geometry.js'
import { headerSize, writeHeader } from './lp-header.js'
import { geometryPositions, LARGEST_AREA, lpAreaSize, metadataPositions } from './lp-layout.js'
import {
  LP_FILE_GEOMETRY,
  SECTOR,
  type LpForm,
  type LpGeometry,
  type LpMetadata,
  type LpMinorVersion,
} from './lp-model.js'
import { entryName, findFault } from './lp-rules.js'
import { layoutOf, writeTables, type LpTables } from './lp-tables.js'

const MAX_U32 = 2 ** 32 - 1

const USE_GEOMETRY = 'Give sizes in multiples of 512 bytes, and at least one slot.'
const SHRINK = 'Make the geometry’s maxSize or slotCount smaller.'
const USE_BLOCKS = 'Give multiples of the logical block size, or a smaller one.'
const USE_FEWER =
  'Make the geometry’s maxSize larger where it may be, or have files in fewer extents.'

/**
 * The bytes of metadata: a file, or the start of a disk, lpAreaSize() of it, with the same table in each slot and its
 * backup. Throws DMLOOP_NOT_REPRESENTABLE for what the format, or Android, does not have.
 */
export function encodeLpMetadata(metadata: LpMetadata, form: LpForm): Buffer {
  const { geometry } = metadata
  checkGeometry(geometry, form)
  checkFlags(metadata)
  const version = versionOf(metadata)
  const tables = toTables(metadata)
  checkTables(tables, geometry, form, version)
  checkBlocks(tables, geometry)
  checkSize(tables, geometry, version)
  const copy = encodeCopy(tables, version, metadata.headerFlags)
  return form === 'file'
    ? Buffer.concat([writeGeometry(geometry), copy])
    : encodeDisk(geometry, copy)
}

function checkGeometry(geometry: LpGeometry, form: LpForm): void {
  const { maxSize, slotCount } = geometry
  const fault = geometryFault(geometry)
  if (fault) throw notRepresentable(`its geometry ${fault.found}`, USE_GEOMETRY)
  const most = LP_FILE_GEOMETRY.maxSize
  if (form === 'file' && maxSize > most) {
    throw notRepresentable(`a file has at most ${most} bytes of it, not ${maxSize}`, SHRINK)
  }
  const area = lpAreaSize(geometry)
  if (form === 'disk' && area > LARGEST_AREA) {
    const found = `${slotCount} slots of ${maxSize} bytes take ${area}, more than ${LARGEST_AREA}`
    throw notRepresentable(found, SHRINK)
  }
}

function checkFlags({ headerFlags }: LpMetadata): void {
  if (Number.isInteger(headerFlags) && headerFlags >= 0 && headerFlags <= MAX_U32) return
  throw notRepresentable(`its header has the flags ${headerFlags}`, 'Give 32 bits of them.')
}

function versionOf({
  minorVersion = 0,
  partitions,
  headerFlags,
}: Omit<LpMetadata, 'geometry'>): LpMinorVersion {
  const attributes = partitions.flatMap((partition) => partition.attributes)
  const needed = neededVersion(attributes, headerFlags)
  return minorVersion < needed ? needed : minorVersion
}

function checkTables(
  tables: LpTables,
  geometry: LpGeometry,
  form: LpForm,
  version: LpMinorVersion,
): void {
  if (tables.blockDevices.length === 0) {
    throw notRepresentable('it has no block device', 'Describe the one that the metadata is on.')
  }
  const fault = findFault(tables, { form, version, areaSize: lpAreaSize(geometry) })
  if (!fault) return
  const { table, index, found, remedy } = fault
  throw notRepresentable(`${entryName(tables, table, index)} ${found}`, remedy)
}

/** Android writes whole logical blocks only, although its reader does not ask for them. */
function checkBlocks({ extents, blockDevices }: LpTables, { logicalBlockSize }: LpGeometry): void {
  for (const [index, { size }] of blockDevices.entries()) {
    if (size % logicalBlockSize === 0) continue
    const found = `block device ${index} has ${size} bytes, no multiple of ${logicalBlockSize}`
    throw notRepresentable(found, USE_BLOCKS)
  }
  for (const [index, { start, sectors }] of extents.entries()) {
    const whole = [start, sectors].every((value) => (value * SECTOR) % logicalBlockSize === 0)
    if (whole) continue
    const found = `extent ${index} has ${sectors} sectors from sector ${start}, in no multiples of ${logicalBlockSize} bytes`
    throw notRepresentable(found, USE_BLOCKS)
  }
}

/** Bytes that each copy of the metadata takes: the least that the geometry's maxSize can be. */
export const lpCopySize = (metadata: Omit<LpMetadata, 'geometry'>): number =>
  copySize(toTables(metadata), versionOf(metadata))

const copySize = (tables: LpTables, version: LpMinorVersion): number =>
  headerSize(version) + layoutOf(tables).size

function checkSize(tables: LpTables, { maxSize }: LpGeometry, version: LpMinorVersion): void {
  const size = copySize(tables, version)
  if (size <= maxSize) return
  const found = `it has ${size} bytes with ${tables.extents.length} extents, and a maximum of ${maxSize}`
  throw notRepresentable(found, USE_FEWER)
}

function encodeCopy(tables: LpTables, version: LpMinorVersion, headerFlags: number): Buffer {
  const bytes = writeTables(tables)
  const header = writeHeader(version, headerFlags, layoutOf(tables).descriptors, bytes)
  return Buffer.concat([header, bytes])
}

function encodeDisk(geometry: LpGeometry, copy: Buffer): Buffer {
  const area = Buffer.alloc(lpAreaSize(geometry))
  for (const position of geometryPositions('disk')) area.set(writeGeometry(geometry), position)
  for (let slot = 0; slot < geometry.slotCount; slot++) {
    for (const position of metadataPositions('disk', geometry, slot)) area.set(copy, position)
  }
  return area
}
