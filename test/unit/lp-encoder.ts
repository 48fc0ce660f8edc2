// Makes Android's logical partition metadata byte by byte, right and wrong, and knows nothing of the library: offsets
// are those of AOSP's metadata_format.h.
import { createHash } from 'node:crypto'

export const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

const u16 = (value: number): Buffer => Buffer.from([value & 255, value >>> 8])
const u32 = (value: number): Buffer =>
  Buffer.concat([u16(value % 65536), u16(Math.floor(value / 65536))])
const u64 = (value: number | bigint): Buffer =>
  Buffer.concat([
    u32(Number(BigInt(value) % 0x100000000n)),
    u32(Number(BigInt(value) / 0x100000000n)),
  ])
const name = (text: string): Buffer => Buffer.from(text.padEnd(36, '\0'), 'latin1')

export const partition = (
  text: string,
  attributes: number,
  firstExtent: number,
  extents: number,
  group: number,
): Buffer => Buffer.concat([name(text), ...[attributes, firstExtent, extents, group].map(u32)])

export const extent = (
  sectors: number | bigint,
  type: number,
  data: number | bigint,
  source: number,
): Buffer => Buffer.concat([u64(sectors), u32(type), u64(data), u32(source)])

export const group = (text: string, flags: number, maximumSize: number | bigint): Buffer =>
  Buffer.concat([name(text), u32(flags), u64(maximumSize)])

export const blockDevice = (
  text: string,
  firstSector: number | bigint,
  size: number | bigint,
  { alignment = 0, alignmentOffset = 0, flags = 0 } = {},
): Buffer =>
  Buffer.concat([
    u64(firstSector),
    ...[alignment, alignmentOffset].map(u32),
    u64(size),
    name(text),
    u32(flags),
  ])

export function geometry(
  maxSize: number,
  slots: number,
  blockSize: number,
  { magic = 0x616c4467, size = 52 } = {},
): Buffer {
  const block = Buffer.alloc(4096)
  const fields = [maxSize, slots, blockSize].map(u32)
  block.set(Buffer.concat([u32(magic), u32(size), Buffer.alloc(32), ...fields]))
  block.set(sha256(block.subarray(0, 52)), 8)
  return block
}

/** Of entries, or of where they are. */
export interface RawTable {
  /** Each an entry. */
  entries: Buffer[]
  /** As the header has it; left out: after the one before. */
  offset?: number
  /** As the header has them; left out: as many as there are. */
  count?: number
  entrySize: number
}

export interface RawMetadata {
  major?: number
  minor?: number
  /** Bytes. */
  headerSize?: number
  flags?: number
  tablesSize?: number
  /** What the tables are; left out: their entries, one table after the other. */
  tables?: Buffer
  partitions: Buffer[]
  extents: Buffer[]
  groups: Buffer[]
  devices: Buffer[]
  /** Replaces words of the table's descriptors: their index, from 0 to 11. */
  descriptors?: Record<number, number>
}

/** A header and its tables. */
export function metadata(raw: RawMetadata): Buffer {
  const minor = raw.minor ?? 0
  const lists = [raw.partitions, raw.extents, raw.groups, raw.devices]
  const tables = raw.tables ?? Buffer.concat(lists.flat())
  let offset = 0
  const words = lists.flatMap((list, index) => {
    const size = [52, 24, 48, 64][index] ?? 0
    const at = offset
    offset += list.length * size
    return [at, list.length, size]
  })
  for (const [index, word] of Object.entries(raw.descriptors ?? {})) words[Number(index)] = word
  const size = raw.headerSize ?? (minor < 2 ? 128 : 256)
  const header = Buffer.alloc(Math.max(size, 132))
  header.set(
    Buffer.concat([
      u32(0x414c5030),
      u16(raw.major ?? 10),
      u16(minor),
      u32(size),
      Buffer.alloc(32),
      u32(raw.tablesSize ?? tables.length),
      sha256(tables),
      ...words.map(u32),
      u32(raw.flags ?? 0),
    ]),
  )
  const whole = header.subarray(0, size)
  whole.set(sha256(whole), 12)
  return Buffer.concat([whole, tables])
}

export const lpFile = (geometryBlock: Buffer, table: Buffer): Buffer =>
  Buffer.concat([geometryBlock, table])

/** Slots as [primary, backup], each padded to the largest size. */
export const lpDisk = (geometryBlock: Buffer, maxSize: number, slots: [Buffer, Buffer][]): Buffer =>
  Buffer.concat([
    Buffer.alloc(4096),
    geometryBlock,
    geometryBlock,
    ...[0, 1].flatMap((copy) =>
      slots.map((slot) => {
        const padded = Buffer.alloc(maxSize)
        padded.set(slot[copy] ?? padded)
        return padded
      }),
    ),
  ])

/** Computes the checksums of a geometry again, where its size makes sense. */
export function repairGeometry(bytes: Buffer, position: number): void {
  const structure = bytes.subarray(position, position + 52)
  structure.fill(0, 8, 40)
  structure.set(sha256(structure), 8)
}

/** Computes the checksums of the tables and the header again, as far as they are where the header says. */
export function repairMetadata(bytes: Buffer, position: number): void {
  const size = bytes.readUInt32LE(position + 8)
  const tablesSize = bytes.readUInt32LE(position + 44)
  if (position + size + tablesSize <= bytes.length && size >= 128) {
    bytes.set(sha256(bytes.subarray(position + size, position + size + tablesSize)), position + 48)
  }
  if (size < 128 || position + size > bytes.length) return
  const header = bytes.subarray(position, position + size)
  header.fill(0, 12, 44)
  header.set(sha256(header), 12)
}
