// A device-mapper table: segments of linear and zero targets.
import { computed, native, type SegmentSource } from './native.js'

/** One line of a device-mapper table, in 512-byte sectors. */
export interface Segment {
  /** Where it starts on the mapped device. */
  start: number
  length: number
  target: 'linear' | 'zero'
  /** The underlying device as "major:minor"; none for the zero target. */
  device?: string
  /** Where it starts on the underlying device; none for the zero target. */
  offset?: number
}

/** A device's size in bytes is a multiple of this whatever its logical block size. */
export const SECTOR = 512

/** Numbers a segment in packed rows: start, length, device, offset. */
export const SEGMENT_COLUMNS = 4

/** Whether two arrays hold the same bytes. */
export function sameNumbers(a: Float64Array, b: Float64Array | undefined): boolean {
  const bytes = ({ buffer, byteOffset, byteLength }: Float64Array): Buffer =>
    Buffer.from(buffer, byteOffset, byteLength)
  return b !== undefined && bytes(a).equals(bytes(b))
}

/** Segments in the order of the device, made into objects one at a time. */
export class SegmentTable implements Iterable<Segment> {
  readonly length: number
  /** The underlying devices as "major:minor", in the order of their first appearance. */
  readonly devices: readonly string[]
  /** @internal The segments as native calls take them: packed, or not computed yet. */
  readonly source: Float64Array | SegmentSource
  #packed: Float64Array | undefined

  constructor(
    source: Float64Array | { segments: SegmentSource; count: number } = new Float64Array(),
    devices: readonly string[] = [],
  ) {
    const packed = source instanceof Float64Array ? source : undefined
    this.#packed = packed
    this.source = source instanceof Float64Array ? source : source.segments
    this.length = source instanceof Float64Array ? source.length / SEGMENT_COLUMNS : source.count
    this.devices = devices
  }

  /**
   * Four numbers a segment: start, length, index into `devices` or -1 for zero, offset. Those of a plan
   * are made when they are asked for, at 32 bytes a segment.
   */
  get packed(): Float64Array {
    return (this.#packed ??= native.segmentRows(this.source as SegmentSource))
  }

  *[Symbol.iterator](): Iterator<Segment> {
    const { packed, devices } = this
    for (let row = 0; row < packed.length; row += SEGMENT_COLUMNS) {
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

  /** The length of the device, in sectors. */
  get sectors(): number {
    const [start = 0, length = 0] = this.packed.subarray(-SEGMENT_COLUMNS)
    return start + length
  }

  /** The numbers that this table has for another table's devices; a device it does not have gets a new one. */
  numbersOf(devices: readonly string[]): number[] {
    return devices.map((device, index) => {
      const found = this.devices.indexOf(device)
      return found === -1 ? this.devices.length + index : found
    })
  }

  /**
   * The first sector at which the kernel's table differs from this one; undefined when they are the same.
   */
  async firstDifference(other: SegmentTable): Promise<number | undefined> {
    const rows = { rows: other.packed, devices: this.numbersOf(other.devices) }
    const sector = await computed(native.findDifferentSector(this.source, rows))
    return sector < 0 ? undefined : sector
  }

  toJSON(): Segment[] {
    return [...this]
  }
}
