// The header of logical partition metadata: its version, and where its tables are.
import { CHECKSUM, ownChecksum, sha256 } from './lp-checksum.js'
import { damage, isDamage, type Damage } from './lp-errors.js'
import type { LpMinorVersion } from './lp-model.js'
import {
  FORMAT,
  TABLE_NAMES,
  type Descriptor,
  type Descriptors,
  type TableName,
} from './lp-tables.js'

const MAGIC = 0x414c5030
const MAJOR = 10

// Bytes from its start.
const MAJOR_AT = 4
const MINOR_AT = 6
const SIZE_AT = 8
const CHECKSUM_AT = 12
const TABLES_SIZE_AT = CHECKSUM_AT + CHECKSUM
const TABLES_CHECKSUM_AT = TABLES_SIZE_AT + 4
const DESCRIPTORS_AT = TABLES_CHECKSUM_AT + CHECKSUM
const DESCRIPTOR = 12
const FLAGS_AT = DESCRIPTORS_AT + TABLE_NAMES.length * DESCRIPTOR
const RESERVED_AT = FLAGS_AT + 4

/** Bytes of a header of each minor version. */
const SIZES: Record<LpMinorVersion, number> = { 0: FLAGS_AT, 1: FLAGS_AT, 2: 256 }
const SMALLEST = FLAGS_AT
/** More than any version has. What claims to be larger is not worth a checksum. */
const LARGEST = 4096

export interface Header {
  version: LpMinorVersion
  /** Bytes. */
  size: number
  flags: number
  /** Bytes of all tables. */
  tablesSize: number
  /** Their SHA-256. */
  tablesChecksum: Buffer
  descriptors: Descriptors
}

/** The bytes of a whole header, or why there is none; limit: bytes that the metadata may have. */
export function findHeader(bytes: Buffer, position: number, limit: number): Buffer | Damage {
  const all = bytes.subarray(position, position + limit)
  if (all.length < SMALLEST) return damage(bytes.length, 'that ends within its header')
  if (all.readUInt32LE() !== MAGIC) return damage(position, 'without a header')
  const size = all.readUInt32LE(SIZE_AT)
  if (size < SMALLEST || size > Math.min(LARGEST, limit)) {
    return unknownVersion(all, position) ?? wrongSize(position, size)
  }
  if (size > all.length) return damage(bytes.length, 'that ends within its header')
  const header = all.subarray(0, size)
  if (ownChecksum(header, CHECKSUM_AT).equals(header.subarray(CHECKSUM_AT, TABLES_SIZE_AT))) {
    return header
  }
  // A later version may have its checksum elsewhere.
  return (
    unknownVersion(header, position) ??
    damage(position + CHECKSUM_AT, 'whose header does not have its SHA-256')
  )
}

const wrongSize = (position: number, size: number): Damage =>
  damage(position + SIZE_AT, `with a header of ${size} bytes`)

function unknownVersion(header: Buffer, position: number): Damage | undefined {
  const [major, minor] = [header.readUInt16LE(MAJOR_AT), header.readUInt16LE(MINOR_AT)]
  if (major === MAJOR && minor in SIZES) return undefined
  const found = `of version ${major}.${minor}, and only 10.0, 10.1 and 10.2 are known`
  return damage(position + (major === MAJOR ? MINOR_AT : MAJOR_AT), found)
}

/** What a whole header says, or what is wrong with that. */
export function readHeader(header: Buffer, position: number, limit: number): Header | Damage {
  const unknown = unknownVersion(header, position)
  if (unknown) return unknown
  const version = header.readUInt16LE(MINOR_AT) as LpMinorVersion
  const size = header.length
  if (size !== SIZES[version]) return wrongSize(position, size)
  const tablesSize = header.readUInt32LE(TABLES_SIZE_AT)
  if (size + tablesSize > limit) {
    const found = `of ${size + tablesSize} bytes, and at most ${limit} are allowed`
    return damage(position + TABLES_SIZE_AT, found)
  }
  const reserved = header.subarray(RESERVED_AT).findIndex((byte) => byte !== 0)
  if (reserved >= 0) {
    return damage(position + RESERVED_AT + reserved, 'whose header has something unknown')
  }
  const descriptors = readDescriptors(header, position, tablesSize)
  if (isDamage(descriptors)) return descriptors
  const flags = size > FLAGS_AT ? header.readUInt32LE(FLAGS_AT) : 0
  const tablesChecksum = header.subarray(TABLES_CHECKSUM_AT, DESCRIPTORS_AT)
  return { version, size, flags, tablesSize, tablesChecksum, descriptors }
}

function readDescriptors(
  header: Buffer,
  position: number,
  tablesSize: number,
): Descriptors | Damage {
  const descriptors: Descriptors = { ...NO_TABLES }
  const before: Place[] = []
  for (const [index, name] of TABLE_NAMES.entries()) {
    const at = DESCRIPTORS_AT + index * DESCRIPTOR
    const [offset, entries] = [header.readUInt32LE(at), header.readUInt32LE(at + 4)]
    const { size } = FORMAT[name]
    const entrySize = header.readUInt32LE(at + 8)
    if (entrySize !== size) {
      const found = `whose ${name} have ${entrySize} bytes each instead of ${size}`
      return damage(position + at + 8, found)
    }
    const place = { name, offset, end: offset + entries * size }
    const wrong = wrongPlace(place, before, tablesSize)
    if (wrong !== undefined) return damage(position + at, `whose ${name} ${wrong}`)
    before.push(place)
    descriptors[name] = { offset, entries }
  }
  return descriptors
}

const NOWHERE: Descriptor = { offset: 0, entries: 0 }
const NO_TABLES: Descriptors = {
  partitions: NOWHERE,
  extents: NOWHERE,
  groups: NOWHERE,
  blockDevices: NOWHERE,
}

/** A table, in bytes after the header. */
interface Place {
  name: TableName
  offset: number
  end: number
}

function wrongPlace(place: Place, before: Place[], tablesSize: number): string | undefined {
  const { offset, end } = place
  if (end > tablesSize) return `end at byte ${end} of ${tablesSize} of tables`
  const other = before.find((table) => Math.max(offset, table.offset) < Math.min(end, table.end))
  return other && `lie over its ${other.name}`
}

/** The bytes of the tables, or why they are not whole. */
export function findTables(
  bytes: Buffer,
  position: number,
  { size, tablesSize, tablesChecksum }: Header,
): Buffer | Damage {
  const start = position + size
  const tables = bytes.subarray(start, start + tablesSize)
  if (tables.length < tablesSize) return damage(bytes.length, 'that ends within its tables')
  return sha256(tables).equals(tablesChecksum)
    ? tables
    : damage(start, 'whose tables do not have their SHA-256')
}

const writeDescriptor = (
  header: Buffer,
  at: number,
  { offset, entries }: Descriptor,
  size: number,
): void => {
  for (const [index, value] of [offset, entries, size].entries()) {
    header.writeUInt32LE(value, at + index * 4)
  }
}

/** Bytes of a header of a version. */
export const headerSize = (version: LpMinorVersion): number => SIZES[version]

export function writeHeader(
  version: LpMinorVersion,
  flags: number,
  descriptors: Descriptors,
  tables: Uint8Array,
): Buffer {
  const header = Buffer.alloc(SIZES[version])
  header.writeUInt32LE(MAGIC)
  header.writeUInt16LE(MAJOR, MAJOR_AT)
  header.writeUInt16LE(version, MINOR_AT)
  header.writeUInt32LE(header.length, SIZE_AT)
  header.writeUInt32LE(tables.length, TABLES_SIZE_AT)
  header.set(sha256(tables), TABLES_CHECKSUM_AT)
  for (const [index, name] of TABLE_NAMES.entries()) {
    const at = DESCRIPTORS_AT + index * DESCRIPTOR
    writeDescriptor(header, at, descriptors[name], FORMAT[name].size)
  }
  if (version === 2) header.writeUInt32LE(flags, FLAGS_AT)
  header.set(ownChecksum(header, CHECKSUM_AT), CHECKSUM_AT)
  return header
}
