// A device-mapper table: segments of linear and zero targets, packed.

/** One line of a device-mapper table, in 512-byte sectors. */
export interface Segment {
  /** Where it starts on the mapped device. */
  start: number
  length: number
  target: 'linear' | 'zero'
  /** The device beneath as "major:minor"; none for the zero target. */
  device?: string
  /** Where it starts on the device beneath; none for the zero target. */
  offset?: number
}

/** A device's size in bytes is a multiple of this whatever its logical block size. */
export const SECTOR = 512

const COLUMNS = 4

/** Whether two arrays hold the same bytes. */
export function sameNumbers(a: Float64Array, b: Float64Array | undefined): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Float64Array): Buffer =>
    Buffer.from(buffer, byteOffset, byteLength)
  return b !== undefined && bytes(a).equals(bytes(b))
}

/** Segments in the order of the device, kept as numbers and made into objects one at a time. */
export class SegmentTable implements Iterable<Segment> {
  /** Four numbers a segment: start, length, index into `devices` or -1 for zero, offset. */
  readonly packed: Float64Array
  /** The devices beneath as "major:minor", in the order of their first appearance. */
  readonly devices: readonly string[]

  constructor(packed: Float64Array = new Float64Array(), devices: readonly string[] = []) {
    this.packed = packed
    this.devices = devices
  }

  get length(): number {
    return this.packed.length / COLUMNS
  }

  /** The length of the device, in sectors. */
  get sectors(): number {
    const { packed } = this
    if (packed.length === 0) return 0
    return (packed[packed.length - COLUMNS] ?? 0) + (packed[packed.length - COLUMNS + 1] ?? 0)
  }

  *[Symbol.iterator](): Iterator<Segment> {
    const { packed, devices } = this
    for (let row = 0; row < packed.length; row += COLUMNS) {
      const start = packed[row] as number
      const length = packed[row + 1] as number
      const device = devices[packed[row + 2] as number]
      if (device === undefined) yield { start, length, target: 'zero' }
      else yield { start, length, target: 'linear', device, offset: packed[row + 3] as number }
    }
  }

  /** What `dmsetup create` reads and `dmsetup table` prints: a line a segment. */
  toTable(): string {
    let text = ''
    for (const { start, length, target, device, offset } of this) {
      text += `${start} ${length} ${target}${device === undefined ? '' : ` ${device} ${offset}`}\n`
    }
    return text
  }

  /**
   * Compares with another table of the same length: the first sector from which they differ, or
   * undefined when they are the same.
   */
  firstDifference(other: SegmentTable): number | undefined {
    const theirs = other[Symbol.iterator]()
    for (const segment of this) {
      const next = theirs.next()
      const match: Segment | undefined = next.done === true ? undefined : next.value
      if (
        match === undefined ||
        segment.start !== match.start ||
        segment.target !== match.target ||
        segment.device !== match.device ||
        segment.offset !== match.offset
      ) {
        return segment.start
      }
      if (segment.length !== match.length) {
        return segment.start + Math.min(segment.length, match.length)
      }
    }
    return theirs.next().done === true ? undefined : this.sectors
  }

  /** Whether both are the same table; no slower than comparing their memory. */
  equals(other: SegmentTable): boolean {
    return (
      this.devices.length === other.devices.length &&
      this.devices.every((device, index) => device === other.devices[index]) &&
      sameNumbers(this.packed, other.packed)
    )
  }

  toJSON(): Segment[] {
    return [...this]
  }

  /** Tables end to end. */
  static concat(tables: readonly SegmentTable[]): SegmentTable {
    const [only] = tables
    if (only !== undefined && tables.length === 1) return only
    const devices = [...new Set(tables.flatMap((table) => table.devices))]
    const packed = new Float64Array(tables.reduce((sum, table) => sum + table.packed.length, 0))
    let row = 0
    let start = 0
    for (const table of tables) {
      packed.set(table.packed, row)
      const numbers = table.devices.map((device) => devices.indexOf(device))
      for (const end = row + table.packed.length; row < end; row += COLUMNS) {
        packed[row] = (packed[row] as number) + start
        const device = packed[row + 2] as number
        packed[row + 2] = numbers[device] ?? device
      }
      start += table.sectors
    }
    return new SegmentTable(packed, devices)
  }
}
