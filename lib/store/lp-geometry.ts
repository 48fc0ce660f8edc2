// The geometry of logical partition metadata: how large the copies of the metadata are, and how many.
import { CHECKSUM, ownChecksum } from './lp-checksum.js'
import { damage, type Damage } from './lp-errors.js'
import { GEOMETRY_BLOCK, lpAreaSize } from './lp-layout.js'
import { SECTOR, type LpForm, type LpGeometry } from './lp-model.js'

const MAGIC = 0x616c4467
const MAX_U32 = 2 ** 32 - 1

// Bytes from its start.
const SIZE_AT = 4
const CHECKSUM_AT = 8
/** Of the geometry itself. */
const SIZE = 52

const FIELDS = {
  maxSize: CHECKSUM_AT + CHECKSUM,
  slotCount: CHECKSUM_AT + CHECKSUM + 4,
  logicalBlockSize: CHECKSUM_AT + CHECKSUM + 8,
} as const

const MULTIPLE = `which is no multiple of ${SECTOR} below 4 GiB`

/** The form that the start of a file or a disk is of: a file starts with the geometry. */
export const lpFormOf = (bytes: Buffer): LpForm =>
  bytes.length >= SIZE && bytes.readUInt32LE() === MAGIC ? 'file' : 'disk'

/** What is wrong with a geometry, and where in it, in bytes. */
export function geometryFault(geometry: LpGeometry): { offset: number; found: string } | undefined {
  const { maxSize, slotCount, logicalBlockSize } = geometry
  if (!isNumber(maxSize) || maxSize % SECTOR !== 0) {
    return { offset: FIELDS.maxSize, found: `has a maximum size of ${maxSize} bytes, ${MULTIPLE}` }
  }
  if (!isNumber(slotCount) || !Number.isSafeInteger(lpAreaSize(geometry))) {
    return { offset: FIELDS.slotCount, found: `has ${slotCount} slots of ${maxSize} bytes` }
  }
  if (!isNumber(logicalBlockSize) || logicalBlockSize % SECTOR !== 0) {
    const found = `has logical blocks of ${logicalBlockSize} bytes, ${MULTIPLE}`
    return { offset: FIELDS.logicalBlockSize, found }
  }
  return undefined
}

/** Whether it can be stored, and means something. */
const isNumber = (value: number): boolean =>
  Number.isInteger(value) && value >= 1 && value <= MAX_U32

/**
 * The geometry at a position, or why there is no whole one. One that is whole may still have values that are
 * refused: see geometryFault().
 */
export function readGeometry(bytes: Buffer, position: number): LpGeometry | Damage {
  const block = bytes.subarray(position, position + GEOMETRY_BLOCK)
  if (block.length < SIZE) return damage(bytes.length, 'that ends within its geometry')
  if (block.readUInt32LE() !== MAGIC) {
    return { position, found: 'has no logical partition metadata' }
  }
  const size = block.readUInt32LE(SIZE_AT)
  if (size !== SIZE) {
    return damage(position + SIZE_AT, `whose geometry has ${size} bytes instead of ${SIZE}`)
  }
  const stored = block.subarray(CHECKSUM_AT, CHECKSUM_AT + CHECKSUM)
  if (!ownChecksum(block.subarray(0, SIZE), CHECKSUM_AT).equals(stored)) {
    return damage(position + CHECKSUM_AT, 'whose geometry does not have its SHA-256')
  }
  return {
    maxSize: block.readUInt32LE(FIELDS.maxSize),
    slotCount: block.readUInt32LE(FIELDS.slotCount),
    logicalBlockSize: block.readUInt32LE(FIELDS.logicalBlockSize),
  }
}

/** The block of a geometry without faults. */
export function writeGeometry(geometry: LpGeometry): Buffer {
  const block = Buffer.alloc(GEOMETRY_BLOCK)
  block.writeUInt32LE(MAGIC)
  block.writeUInt32LE(SIZE, SIZE_AT)
  block.writeUInt32LE(geometry.maxSize, FIELDS.maxSize)
  block.writeUInt32LE(geometry.slotCount, FIELDS.slotCount)
  block.writeUInt32LE(geometry.logicalBlockSize, FIELDS.logicalBlockSize)
  block.set(ownChecksum(block.subarray(0, SIZE), CHECKSUM_AT), CHECKSUM_AT)
  return block
}
