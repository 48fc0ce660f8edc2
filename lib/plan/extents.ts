// Where a file is stored on its filesystem's device.
import { native, type ExtentFacts } from '../kernel/native.js'

/** A run of a file's bytes on the device of its filesystem; see FIEMAP in the kernel's documentation. */
export interface Extent {
  /** Bytes from the start of the file (of the first one, for an array of files). */
  logical: number
  /** Bytes from the start of the filesystem's device. */
  physical: number
  /** Bytes. */
  length: number
  /** FIEMAP_EXTENT_* flags (linux/fiemap.h); merged neighbours have theirs or-ed. */
  flags: number
}

const COLUMNS = 4
/** Extents that are unpacked at a time. */
const BATCH = 4096

/** The extents of one of the files, which starts at byte `fileStart` of all of them end to end. */
type Part = Pick<ExtentFacts, 'extents' | 'count'> & { fileStart: number }

const extentAt = (rows: Float64Array, row: number, fileStart: number): Extent => ({
  logical: fileStart + (rows[row] as number),
  physical: rows[row + 1] as number,
  length: rows[row + 2] as number,
  flags: rows[row + 3] as number,
})

/** Extents in the order of the file, stored in a few bytes each and made into objects one at a time. */
export class ExtentTable implements Iterable<Extent> {
  readonly length: number
  readonly #parts: readonly Part[]
  #packed: Float64Array | undefined

  constructor(parts: readonly Part[] = []) {
    this.#parts = parts
    this.length = parts.reduce((sum, { count }) => sum + count, 0)
  }

  /** The extent at an index from 0 on; undefined past the end. */
  at(index: number): Extent | undefined {
    if (!Number.isInteger(index)) return undefined
    let first = 0
    for (const { extents, count, fileStart } of this.#parts) {
      if (index >= first && index < first + count) {
        return extentAt(native.extentRows(extents, index - first, 1), 0, fileStart)
      }
      first += count
    }
    return undefined
  }

  *[Symbol.iterator](): Iterator<Extent> {
    for (const { extents, count, fileStart } of this.#parts) {
      for (let first = 0; first < count; first += BATCH) {
        const rows = native.extentRows(extents, first, BATCH)
        for (let row = 0; row < rows.length; row += COLUMNS) {
          yield extentAt(rows, row, fileStart)
        }
      }
    }
  }

  /** Four numbers an extent: logical, physical, length, flags. Made on first use. */
  get packed(): Float64Array {
    return (this.#packed ??= this.#pack())
  }

  #pack(): Float64Array {
    const packed = new Float64Array(this.length * COLUMNS)
    let row = 0
    for (const { extents, count, fileStart } of this.#parts) {
      packed.set(native.extentRows(extents, 0, count), row)
      for (const end = row + count * COLUMNS; row < end; row += COLUMNS) {
        packed[row] = (packed[row] as number) + fileStart
      }
    }
    return packed
  }

  toJSON(): Extent[] {
    return [...this]
  }
}
