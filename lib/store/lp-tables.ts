// The four tables of logical partition metadata as they are stored: entries of a fixed size, little-endian, that
// refer to one another by index.

/** What a field has: a name padded with NULs, or a number. */
type Kind = 'name' | 'u32' | 'u64'
/** A field's kind, and where it is in its entry, in bytes. */
export type Field = readonly [kind: Kind, offset: number]
type Fields = Readonly<Record<string, Field>>

/** Bytes of a name. */
export const NAME_SIZE = 36

/** Of each table, the bytes of an entry and its fields. */
export const FORMAT = {
  partitions: {
    size: 52,
    fields: {
      name: ['name', 0],
      attributes: ['u32', 36],
      firstExtent: ['u32', 40],
      extentCount: ['u32', 44],
      group: ['u32', 48],
    },
  },
  extents: {
    size: 24,
    fields: { sectors: ['u64', 0], type: ['u32', 8], start: ['u64', 12], device: ['u32', 20] },
  },
  groups: {
    size: 48,
    fields: { name: ['name', 0], flags: ['u32', 36], maximumSize: ['u64', 40] },
  },
  blockDevices: {
    size: 64,
    fields: {
      firstLogicalSector: ['u64', 0],
      alignment: ['u32', 8],
      alignmentOffset: ['u32', 12],
      size: ['u64', 16],
      name: ['name', 24],
      flags: ['u32', 60],
    },
  },
} as const satisfies Record<string, { size: number; fields: Fields }>

export type TableName = keyof typeof FORMAT
/** In the order of the header, and of what is written. */
export const TABLE_NAMES = ['partitions', 'extents', 'groups', 'blockDevices'] as const

type Entry<F extends Fields> = {
  -readonly [K in keyof F]: F[K][0] extends 'name' ? string : number
}

export type LpTables = {
  -readonly [T in TableName]: Entry<(typeof FORMAT)[T]['fields']>[]
}

/** Where a table is. */
export interface Descriptor {
  /** Bytes after the header. */
  offset: number
  entries: number
}

export type Descriptors = Record<TableName, Descriptor>

/** Where a field is, in bytes after the header. */
export function fieldPosition(
  descriptors: Descriptors,
  table: TableName,
  index: number,
  field: string,
): number {
  const { size, fields } = FORMAT[table]
  const [, offset] = new Map(Object.entries<Field>(fields)).get(field) ?? ['u32', 0]
  return descriptors[table].offset + index * size + offset
}

/** Numbers of 64 bits that are no safe integers come out as some other number that is none, to be refused. */
function readField(bytes: Buffer, position: number, kind: Kind): string | number {
  switch (kind) {
    case 'name':
      return bytes.toString('latin1', position, position + NAME_SIZE).replace(/\0+$/, '')
    case 'u32':
      return bytes.readUInt32LE(position)
    case 'u64':
      return Number(bytes.readBigUInt64LE(position))
  }
}

function writeField(bytes: Buffer, position: number, kind: Kind, value: string | number): void {
  if (kind === 'name') bytes.write(String(value), position, NAME_SIZE, 'latin1')
  else if (kind === 'u32') bytes.writeUInt32LE(Number(value), position)
  else bytes.writeBigUInt64LE(BigInt(value), position)
}

function readTable<F extends Fields>(
  bytes: Buffer,
  { offset, entries }: Descriptor,
  { size, fields }: { size: number; fields: F },
): Entry<F>[] {
  return Array.from({ length: entries }, (_, index) => {
    const start = offset + index * size
    const values = Object.entries(fields).map(([name, [kind, at]]) => [
      name,
      readField(bytes, start + at, kind),
    ])
    return Object.fromEntries(values) as Entry<F>
  })
}

/** The tables in the bytes after a header, which has them all. */
export const readTables = (bytes: Buffer, descriptors: Descriptors): LpTables => ({
  partitions: readTable(bytes, descriptors.partitions, FORMAT.partitions),
  extents: readTable(bytes, descriptors.extents, FORMAT.extents),
  groups: readTable(bytes, descriptors.groups, FORMAT.groups),
  blockDevices: readTable(bytes, descriptors.blockDevices, FORMAT.blockDevices),
})

/** Where tables of such lengths are if they are one after the other. */
export function layoutOf(tables: LpTables): { descriptors: Descriptors; size: number } {
  let size = 0
  const place = (name: TableName): Descriptor => {
    const [offset, entries] = [size, tables[name].length]
    size += entries * FORMAT[name].size
    return { offset, entries }
  }
  const descriptors = {
    partitions: place('partitions'),
    extents: place('extents'),
    groups: place('groups'),
    blockDevices: place('blockDevices'),
  }
  return { descriptors, size }
}

/** The bytes of tables whose numbers all fit. */
export function writeTables(tables: LpTables): Buffer {
  const { descriptors, size } = layoutOf(tables)
  const bytes = Buffer.alloc(size)
  for (const name of TABLE_NAMES) {
    const { size, fields } = FORMAT[name]
    for (const [index, entry] of tables[name].entries()) {
      const values: Record<string, string | number> = entry
      const start = descriptors[name].offset + index * size
      for (const [field, [kind, at]] of Object.entries<Field>(fields)) {
        writeField(bytes, start + at, kind, values[field] ?? 0)
      }
    }
  }
  return bytes
}
