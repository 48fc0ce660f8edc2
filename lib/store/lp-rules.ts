// What tables of logical partition metadata must be like, whether they were read or are to be written.
import { knownAttributes, LINEAR, SLOT_SUFFIXED, ZERO } from './lp-codes.js'
import { SECTOR, type LpForm, type LpMinorVersion } from './lp-model.js'
import {
  FORMAT,
  NAME_SIZE,
  TABLE_NAMES,
  type Field,
  type LpTables,
  type TableName,
} from './lp-tables.js'

/** Something wrong in an entry. */
export interface Fault {
  table: TableName
  index: number
  field: string
  /** As a sentence goes on after entryName(). */
  found: string
  /** What whoever writes the metadata can do. */
  remedy: string
}

export interface Limits {
  form: LpForm
  version: LpMinorVersion
  /** Bytes, as lpAreaSize() has them. */
  areaSize: number
}

type Faults = Generator<Fault, void>

const NOUNS: Record<TableName, string> = {
  partitions: 'partition',
  extents: 'extent',
  groups: 'group',
  blockDevices: 'block device',
}

const NAMED = ['partitions', 'groups', 'blockDevices'] as const
const FLAGGED = ['groups', 'blockDevices'] as const

const UNNAMEABLE = /[^A-Za-z0-9_-]/
const MAX_U32 = 2 ** 32 - 1

const USE_NAME = 'Use 1 to 36 letters, digits, ‘_’ and ‘-’, and each name once.'
const USE_NUMBER = 'Give a whole number that fits.'
const USE_FLAGS = 'Use what this version knows.'
const USE_SECTORS = 'Give a multiple of 512 bytes.'
const USE_GROUP = 'Name a group that is there.'
const MAKE_ROOM =
  'Let the block device be larger, and the first start behind lpAreaSize(); or make the geometry’s maxSize smaller.'
const STAY_INSIDE =
  'Keep each extent on a block device, between its first logical sector and its end.'
const LEAVE_OUT = 'Leave it out.'
const SHARE_NOTHING = 'Give each partition extents of its own.'
const RAISE_LIMIT = 'Raise the group’s maximumSize, or put the partition into another group.'

/** The entry, as messages have it. */
export function entryName(tables: LpTables, table: TableName, index: number): string {
  const entry = tables[table][index]
  const name = entry && 'name' in entry ? ` (${JSON.stringify(entry.name)})` : ''
  return `${NOUNS[table]} ${index}${name}`
}

/** The first thing that is wrong; undefined: nothing. */
export function findFault(tables: LpTables, limits: Limits): Fault | undefined {
  for (const fault of faultsOf(tables, limits)) return fault
  return undefined
}

/** Each rule relies on those before it: what comes after the first fault may be wrong itself. */
function* faultsOf(tables: LpTables, limits: Limits): Faults {
  for (const table of TABLE_NAMES) yield* faultsOfNumbers(tables, table)
  for (const table of NAMED) yield* faultsOfNames(tables, table)
  yield* faultsOfAttributes(tables, limits)
  for (const table of FLAGGED) yield* faultsOfFlags(tables, table)
  yield* faultsOfBlockDevices(tables, limits)
  yield* faultsOfExtents(tables, limits)
  yield* faultsOfPartitions(tables)
  yield* faultsOfShares(tables)
  yield* faultsOfSizes(tables)
  yield* faultsOfOverlaps(tables)
  yield* faultsOfGroups(tables)
}

const fault = <T extends TableName>(
  table: T,
  index: number,
  field: keyof LpTables[T][number] & string,
  found: string,
  remedy: string,
): Fault => ({ table, index, field, found, remedy })

/** Every number is one that is stored as it is. */
function* faultsOfNumbers(tables: LpTables, table: TableName): Faults {
  const fields = Object.entries<Field>(FORMAT[table].fields).filter(([, [kind]]) => kind !== 'name')
  for (const [index, entry] of tables[table].entries()) {
    const values: Record<string, string | number> = entry
    for (const [field, [kind]] of fields) {
      const value = Number(values[field])
      const limit = kind === 'u32' ? MAX_U32 : Number.MAX_SAFE_INTEGER
      if (Number.isInteger(value) && value >= 0 && value <= limit) continue
      const found = `has the ${words(field)} ${value}, which is not from 0 to ${limit}`
      yield { table, index, field, found, remedy: USE_NUMBER }
    }
  }
}

/** The name of a field, as messages have it. */
const words = (field: string): string =>
  field.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)

function* faultsOfNames(tables: LpTables, table: (typeof NAMED)[number]): Faults {
  const seen = new Map<string, number>()
  for (const [index, { name }] of tables[table].entries()) {
    const wrong = wrongName(name)
    if (wrong !== undefined) yield fault(table, index, 'name', wrong, USE_NAME)
    const other = seen.get(name)
    if (other !== undefined) {
      yield fault(table, index, 'name', `has the name of ${NOUNS[table]} ${other}`, USE_NAME)
    }
    seen.set(name, index)
  }
}

function wrongName(name: string): string | undefined {
  if (name === '') return 'has no name'
  const character = UNNAMEABLE.exec(name)?.[0]
  if (character !== undefined) return `has ${JSON.stringify(character)} in its name`
  return name.length > NAME_SIZE
    ? `has a name of ${name.length} bytes, more than ${NAME_SIZE}`
    : undefined
}

function* faultsOfAttributes({ partitions }: LpTables, { version }: Limits): Faults {
  const known = knownAttributes(version)
  for (const [index, { attributes }] of partitions.entries()) {
    if ((attributes & ~known) === 0) continue
    const found = `has the attributes ${hex(attributes)}, of which version 10.${version} knows ${hex(known)}`
    yield fault('partitions', index, 'attributes', found, USE_FLAGS)
  }
}

function* faultsOfFlags(tables: LpTables, table: (typeof FLAGGED)[number]): Faults {
  for (const [index, { flags }] of tables[table].entries()) {
    if ((flags & ~SLOT_SUFFIXED) === 0) continue
    const found = `has the flags ${hex(flags)}, of which ${hex(SLOT_SUFFIXED)} is known`
    yield fault(table, index, 'flags', found, USE_FLAGS)
  }
}

function* faultsOfBlockDevices({ blockDevices }: LpTables, { areaSize }: Limits): Faults {
  const area = areaSize / SECTOR
  for (const [index, device] of blockDevices.entries()) {
    for (const field of ['size', 'alignment', 'alignmentOffset'] as const) {
      if (device[field] % SECTOR === 0) continue
      const found = `has the ${words(field)} ${device[field]}, which is no multiple of ${SECTOR} bytes`
      yield fault('blockDevices', index, field, found, USE_SECTORS)
    }
    const first = device.firstLogicalSector
    const size = device.size / SECTOR
    if (first > size) {
      const found = `has the first logical sector ${first}, and ${size} sectors`
      yield fault('blockDevices', index, 'firstLogicalSector', found, MAKE_ROOM)
    }
    if (index === 0 && first < area) {
      const found = `has the first logical sector ${first}, and the metadata takes ${area}`
      yield fault('blockDevices', index, 'firstLogicalSector', found, MAKE_ROOM)
    }
  }
}

function* faultsOfExtents(tables: LpTables, limits: Limits): Faults {
  for (const [index, { sectors, type }] of tables.extents.entries()) {
    if (sectors === 0) yield fault('extents', index, 'sectors', 'has no sectors', LEAVE_OUT)
    if (!fitsDisk(sectors)) {
      yield fault('extents', index, 'sectors', tooMany(sectors), STAY_INSIDE)
    }
    if (type === LINEAR) yield* faultsOfLinear(tables, index, limits)
    else if (type === ZERO) yield* faultsOfZeros(tables, index)
    else yield fault('extents', index, 'type', `is of the unknown type ${type}`, USE_FLAGS)
  }
}

/** Whether it is a number of bytes. */
const fitsDisk = (sectors: number): boolean => Number.isSafeInteger(sectors * SECTOR)
const tooMany = (sectors: number): string => `has ${sectors} sectors, and no disk has as many`

function* faultsOfLinear(
  { extents, blockDevices }: LpTables,
  index: number,
  { form }: Limits,
): Faults {
  const extent = extents[index]
  if (!extent) return
  const { sectors, start, device } = extent
  const { size, firstLogicalSector } = blockDevices[device] ?? {}
  if (size === undefined || firstLogicalSector === undefined) {
    const found = `is on block device ${device} of ${blockDevices.length}`
    yield fault('extents', index, 'device', found, STAY_INSIDE)
    return
  }
  if (start + sectors > size / SECTOR) {
    const found = `has sectors ${start} to ${start + sectors - 1} of ${size / SECTOR}`
    yield fault('extents', index, 'start', found, STAY_INSIDE)
  }
  // A file describes files anywhere on a disk. On a super partition, the metadata itself is before that sector.
  if (form === 'disk' && start < firstLogicalSector) {
    const found = `starts at sector ${start}, before the first, ${firstLogicalSector}`
    yield fault('extents', index, 'start', found, STAY_INSIDE)
  }
}

function* faultsOfZeros({ extents }: LpTables, index: number): Faults {
  for (const field of ['start', 'device'] as const) {
    const value = extents[index]?.[field] ?? 0
    if (value === 0) continue
    yield fault('extents', index, field, `has zeros, and the ${field} ${value}`, LEAVE_OUT)
  }
}

function* faultsOfPartitions({ partitions, extents, groups }: LpTables): Faults {
  for (const [index, { firstExtent, extentCount, group }] of partitions.entries()) {
    const end = firstExtent + extentCount
    if (end > extents.length) {
      const found = `has the extents ${firstExtent} to ${end - 1} of ${extents.length}`
      yield fault('partitions', index, 'firstExtent', found, SHARE_NOTHING)
    }
    if (group >= groups.length) {
      const found = `is in group ${group} of ${groups.length}`
      yield fault('partitions', index, 'group', found, USE_GROUP)
    }
  }
}

/** No entry is that of two partitions. It ends at the first that is, so it never takes long. */
function* faultsOfShares(tables: LpTables): Faults {
  const owners = new Map<number, number>()
  for (const [index, { firstExtent, extentCount }] of tables.partitions.entries()) {
    for (let extent = firstExtent; extent < firstExtent + extentCount; extent++) {
      const owner = owners.get(extent)
      if (owner !== undefined) {
        const found = `has extent ${extent} of ${entryName(tables, 'partitions', owner)}`
        yield fault('partitions', index, 'firstExtent', found, SHARE_NOTHING)
      }
      owners.set(extent, index)
    }
  }
}

/** Each extent that a partition has, which is not all that a table may have. */
const usedExtents = ({ partitions, extents }: LpTables) =>
  partitions.flatMap(({ firstExtent, extentCount, group }, owner) =>
    extents
      .slice(firstExtent, firstExtent + extentCount)
      .map((extent, index) => ({ ...extent, index: firstExtent + index, owner, group })),
  )

function* faultsOfSizes(tables: LpTables): Faults {
  const sizes = tables.partitions.map(() => 0)
  for (const { owner, sectors } of usedExtents(tables)) {
    sizes[owner] = (sizes[owner] ?? 0) + sectors
  }
  for (const [index, size] of sizes.entries()) {
    if (fitsDisk(size)) continue
    yield fault('partitions', index, 'extentCount', tooMany(size), STAY_INSIDE)
  }
}

function* faultsOfOverlaps(tables: LpTables): Faults {
  const sorted = usedExtents(tables)
    .filter(({ type }) => type === LINEAR)
    .sort((a, b) => a.device - b.device || a.start - b.start)
  for (const [place, { device, start, index }] of sorted.entries()) {
    const before = sorted[place - 1]
    if (!before || before.device !== device || before.start + before.sectors <= start) continue
    const owner = entryName(tables, 'partitions', before.owner)
    const found = `has sector ${start} of block device ${device}, and so has extent ${before.index}, of ${owner}`
    yield fault('extents', index, 'start', found, SHARE_NOTHING)
  }
}

/** Android counts what takes room on disks: not what reads as zeros. */
function* faultsOfGroups(tables: LpTables): Faults {
  const sizes = tables.groups.map(() => 0)
  for (const { type, group, sectors } of usedExtents(tables)) {
    if (type === LINEAR) sizes[group] = (sizes[group] ?? 0) + sectors * SECTOR
  }
  for (const [index, { maximumSize }] of tables.groups.entries()) {
    const size = sizes[index] ?? 0
    if (maximumSize === 0 || size <= maximumSize) continue
    const found = `has partitions of ${size} bytes, and a maximum of ${maximumSize}`
    yield fault('groups', index, 'maximumSize', found, RAISE_LIMIT)
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`
