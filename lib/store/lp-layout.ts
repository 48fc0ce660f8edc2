// Where the copies of logical partition metadata are.
import type { LpForm, LpGeometry } from './lp-model.js'

/** Bytes at the start of a disk that are left alone, because a boot sector may be there. */
const RESERVED = 4096
/** Bytes that a copy of the geometry takes. */
export const GEOMETRY_BLOCK = 4096

/** Bytes from the start that have all copies of the geometry: read them first to learn lpAreaSize(). */
export const LP_GEOMETRY_END = RESERVED + 2 * GEOMETRY_BLOCK

/** Bytes that the metadata of a disk may take: what is larger is a mistake, and not worth the memory. */
export const LARGEST_AREA = 64 << 20

/** Where the geometry is, in bytes: the primary copy first. */
export const geometryPositions = (form: LpForm): number[] =>
  form === 'file' ? [0] : [RESERVED, RESERVED + GEOMETRY_BLOCK]

/** Where the metadata of a slot is, in bytes: the primary copy first. A file has one for whatever slot. */
export const metadataPositions = (
  form: LpForm,
  { maxSize, slotCount }: LpGeometry,
  slot: number,
): number[] =>
  form === 'file'
    ? [GEOMETRY_BLOCK]
    : [slot, slotCount + slot].map((index) => LP_GEOMETRY_END + index * maxSize)

/**
 * Bytes at the start of a super partition that its metadata takes. The first block device's `firstLogicalSector`
 * must be behind them, also in the file form: Android's reader asks for it.
 */
export const lpAreaSize = ({ maxSize, slotCount }: LpGeometry): number =>
  LP_GEOMETRY_END + 2 * slotCount * maxSize
