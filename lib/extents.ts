// Where a file's bytes lie on its filesystem's device: FIEMAP, packed.

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

/** Extents in the order of the file, kept as numbers and made into objects one at a time. */
export class ExtentTable implements Iterable<Extent> {
  /** Four numbers an extent: logical, physical, length, flags. */
  readonly packed: Float64Array

  constructor(packed: Float64Array = new Float64Array()) {
    this.packed = packed
  }

  get length(): number {
    return this.packed.length / COLUMNS
  }

  /** The extent at an index from 0 on; undefined past the end. */
  at(index: number): Extent | undefined {
    const row = index * COLUMNS
    const [logical, physical, length, flags] = this.packed.subarray(row, row + COLUMNS)
    if (logical === undefined || physical === undefined) return undefined
    if (length === undefined || flags === undefined) return undefined
    return { logical, physical, length, flags }
  }

  *[Symbol.iterator](): Iterator<Extent> {
    const { packed } = this
    for (let row = 0; row < packed.length; row += COLUMNS) {
      yield {
        logical: packed[row] as number,
        physical: packed[row + 1] as number,
        length: packed[row + 2] as number,
        flags: packed[row + 3] as number,
      }
    }
  }

  toJSON(): Extent[] {
    return [...this]
  }

  /** Extents of files laid end to end, each packed and counted from the start of its file. */
  static concat(parts: readonly { extents: Float64Array; fileStart: number }[]): ExtentTable {
    const packed = new Float64Array(parts.reduce((sum, { extents }) => sum + extents.length, 0))
    let row = 0
    for (const { extents, fileStart } of parts) {
      packed.set(extents, row)
      for (const end = row + extents.length; row < end; row += COLUMNS) {
        packed[row] = (packed[row] as number) + fileStart
      }
    }
    return new ExtentTable(packed)
  }
}
