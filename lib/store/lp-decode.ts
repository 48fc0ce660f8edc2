// Reads logical partition metadata.
import { outOfRange } from '../kernel/errors.js'
import { fromTables } from './lp-convert.js'
import { badMetadata, damage, isDamage, type Damage } from './lp-errors.js'
import { geometryFault, readGeometry } from './lp-geometry.js'
import { findHeader, findTables, readHeader, type Header } from './lp-header.js'
import { geometryPositions, lpAreaSize, metadataPositions } from './lp-layout.js'
import type { LpForm, LpGeometry, LpMetadata } from './lp-model.js'
import { entryName, findFault, type Fault } from './lp-rules.js'
import { fieldPosition, readTables, type LpTables } from './lp-tables.js'

export interface LpSource {
  /** What messages call the input: a path. */
  file?: string | undefined
  /** Which of a disk's tables, from 0 to its slotCount - 1: by default the first. */
  slot?: number | undefined
}

/** A copy of the metadata whose checksums are right. */
interface Copy {
  header: Header
  tables: Buffer
  /** Bytes from the start of the input to the tables. */
  tablesAt: number
}

/**
 * The geometry alone, the first copy of it that is whole. `bytes` is the start of a disk, LP_GEOMETRY_END of it, or of
 * a file, 4096 of it. Throws DMLOOP_BAD_IMAGE.
 */
export function decodeLpGeometry(
  bytes: Uint8Array,
  form: LpForm,
  { file }: LpSource = {},
): LpGeometry {
  const input = bufferOf(bytes)
  const copies = geometryPositions(form)
  const [geometry, position] = firstWhole(file, copies, (at) => readGeometry(input, at))
  const fault = geometryFault(geometry)
  if (!fault) return geometry
  throw badMetadata(file, damage(position + fault.offset, `whose geometry ${fault.found}`))
}

/**
 * The metadata of a file, or of a slot of a disk: the first copy of it that is whole. `bytes` is the whole file, or
 * the start of the disk, lpAreaSize() of it; what is missing counts as damaged. Throws DMLOOP_BAD_IMAGE, with the
 * position: no copy is whole, or one is, and says what cannot be. A backup does not replace the latter, since it may
 * be older. Extents that no partition has are left out.
 */
export function decodeLpMetadata(
  bytes: Uint8Array,
  form: LpForm,
  { file, slot = 0 }: LpSource = {},
): LpMetadata {
  const geometry = decodeLpGeometry(bytes, form, { file })
  const { maxSize, slotCount } = geometry
  if (!Number.isInteger(slot) || slot < 0 || slot >= slotCount) {
    throw outOfRange('slot', `a whole number from 0 to ${slotCount - 1}`, slot)
  }
  const input = bufferOf(bytes)
  const copies = metadataPositions(form, geometry, slot)
  const [copy] = firstWhole(file, copies, (at) => readCopy(file, input, at, maxSize))
  const { version, flags } = copy.header
  const tables = soundTables(file, copy, form, geometry)
  return { minorVersion: version, geometry, headerFlags: flags, ...fromTables(tables) }
}

const bufferOf = ({ buffer, byteOffset, length }: Uint8Array): Buffer =>
  Buffer.from(buffer, byteOffset, length)

/** The first copy that is whole, with its position; throws what is wrong with the primary one if none is. */
function firstWhole<T extends object>(
  file: string | undefined,
  positions: readonly number[],
  read: (position: number) => T | Damage,
): [copy: T, position: number] {
  let first: Damage | undefined
  for (const position of positions) {
    const copy = read(position)
    if (!isDamage(copy)) return [copy, position]
    first ??= copy
  }
  const { position, found } = first ?? damage(0, 'without a copy')
  const also = positions.length > 1 ? ' (nor is its backup whole)' : ''
  throw badMetadata(file, { position, found: found + also })
}

/** The metadata at a position, or why it is not whole. Throws if its header is, and is refused. */
function readCopy(
  file: string | undefined,
  input: Buffer,
  position: number,
  limit: number,
): Copy | Damage {
  const bytes = findHeader(input, position, limit)
  if (isDamage(bytes)) return bytes
  const header = readHeader(bytes, position, limit)
  if (isDamage(header)) throw badMetadata(file, header)
  const tables = findTables(input, position, header)
  if (isDamage(tables)) return tables
  return { header, tables, tablesAt: position + header.size }
}

/** The tables of a copy; throws what is wrong with them. */
function soundTables(
  file: string | undefined,
  copy: Copy,
  form: LpForm,
  geometry: LpGeometry,
): LpTables {
  const { version, descriptors } = copy.header
  const tables = readTables(copy.tables, descriptors)
  if (tables.blockDevices.length === 0) {
    throw badMetadata(file, damage(copy.tablesAt, 'without a block device'))
  }
  const fault = findFault(tables, { form, version, areaSize: lpAreaSize(geometry) })
  if (fault) throw badMetadata(file, damageOf(tables, fault, copy))
  return tables
}

function damageOf(tables: LpTables, fault: Fault, { header, tablesAt }: Copy): Damage {
  const { table, index, field, found } = fault
  const position = tablesAt + fieldPosition(header.descriptors, table, index, field)
  return damage(position, `whose ${entryName(tables, table, index)} ${found}`)
}
