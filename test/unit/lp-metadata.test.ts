// Android's logical partition metadata: written as another hand writes it, read back, and whatever is damaged is
// refused, or read from its backup.
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import {
  decodeLpGeometry,
  decodeLpMetadata,
  encodeLpMetadata,
  LP_FILE_GEOMETRY,
  LP_GEOMETRY_END,
  lpAreaSize,
  type LpAttribute,
  type LpExtent,
  type LpForm,
  type LpGeometry,
  type LpMetadata,
  type LpPartition,
} from '#lib/store/lp-metadata.js'
import type { DmloopError } from 'dmloop'
import * as raw from './lp-encoder.js'

const KIB = 1024
const MIB = 1024 * KIB
const BAD = { name: 'DmloopError', code: 'DMLOOP_BAD_IMAGE' }
const LIMIT = { name: 'DmloopError', code: 'DMLOOP_NOT_REPRESENTABLE' }
const SAFE = Number.MAX_SAFE_INTEGER

t.setTimeout(120_000)

/** Random numbers that are the same in every run. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
}

/** The error of what must not work. */
function failure(attempt: () => unknown): DmloopError {
  try {
    attempt()
  } catch (error) {
    return error as DmloopError
  }
  throw new Error('it worked')
}

const UUID = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b'
const GEOMETRY: LpGeometry = { maxSize: 4096, slotCount: 2, logicalBlockSize: 4096 }

/** Two disks, holes between extents, none of them sorted. */
const SAMPLE: LpMetadata = {
  minorVersion: 0,
  geometry: GEOMETRY,
  headerFlags: 0,
  blockDevices: [
    {
      name: 'super',
      slotSuffixed: false,
      size: 64 * MIB,
      firstLogicalSector: 2048,
      alignment: MIB,
      alignmentOffset: 0,
    },
    {
      name: UUID,
      slotSuffixed: true,
      size: 8 * MIB,
      firstLogicalSector: 8,
      alignment: 4096,
      alignmentOffset: 512,
    },
  ],
  groups: [
    { name: 'default', slotSuffixed: false, maximumSize: 0 },
    { name: 'main-group_a', slotSuffixed: true, maximumSize: 16 * MIB },
  ],
  partitions: [
    {
      name: 'system_a',
      attributes: ['read-only'],
      group: 'main-group_a',
      extents: [
        { target: 'linear', sectors: 8192, device: 0, start: 20480 },
        { target: 'zero', sectors: 1024 },
        { target: 'linear', sectors: 2048, device: 0, start: 2048 },
        { target: 'linear', sectors: 16, device: 1, start: 8 },
      ],
    },
    { name: 'empty', attributes: [], group: 'default', extents: [] },
    {
      name: 'gsi-userdata_0123456789-0123456789-01',
      attributes: ['read-only', 'slot-suffixed'],
      group: 'default',
      extents: [{ target: 'linear', sectors: 8, device: 0, start: 131064 }],
    },
  ].map((partition) => ({ ...partition, name: partition.name.slice(0, 36) })) as LpPartition[],
}

/** The same, by hand. */
const RAW: raw.RawMetadata = {
  partitions: [
    raw.partition('system_a', 1, 0, 4, 1),
    raw.partition('empty', 0, 4, 0, 0),
    raw.partition('gsi-userdata_0123456789-0123456789-0', 3, 4, 1, 0),
  ],
  extents: [
    raw.extent(8192, 0, 20480, 0),
    raw.extent(1024, 1, 0, 0),
    raw.extent(2048, 0, 2048, 0),
    raw.extent(16, 0, 8, 1),
    raw.extent(8, 0, 131064, 0),
  ],
  groups: [raw.group('default', 0, 0), raw.group('main-group_a', 1, 16 * MIB)],
  devices: [
    raw.blockDevice('super', 2048, 64 * MIB, { alignment: MIB }),
    raw.blockDevice(UUID, 8, 8 * MIB, { alignment: 4096, alignmentOffset: 512, flags: 1 }),
  ],
}

const fileOf = (table: Buffer): Buffer => raw.lpFile(raw.geometry(4096, 2, 4096), table)
const diskOf = (primary: Buffer, backup: Buffer, other = backup): Buffer =>
  raw.lpDisk(raw.geometry(4096, 2, 4096), 4096, [
    [primary, backup],
    [other, other],
  ])

const RAW_TABLE = raw.metadata(RAW)
const RAW_FILE = fileOf(RAW_TABLE)
const RAW_DISK = diskOf(RAW_TABLE, RAW_TABLE)

/** The sample with changes to one of its entries. */
const withPartition = (change: Partial<LpPartition>): LpMetadata => ({
  ...SAMPLE,
  partitions: SAMPLE.partitions.map((each, index) => (index === 0 ? { ...each, ...change } : each)),
})

await t.test('what is written is what another hand writes', (t) => {
  t.ok(encodeLpMetadata(SAMPLE, 'file').equals(RAW_FILE), 'a file')
  t.ok(encodeLpMetadata(SAMPLE, 'disk').equals(RAW_DISK), 'a disk')
  t.equal(RAW_DISK.length, lpAreaSize(GEOMETRY))

  const [first = Buffer.alloc(0), ...others] = RAW.partitions
  const updated = Buffer.from(first)
  updated[36] = 0b1101
  const table = raw.metadata({ ...RAW, minor: 1, partitions: [updated, ...others] })
  const attributes: LpAttribute[] = ['read-only', 'updated', 'disabled']
  t.ok(encodeLpMetadata(withPartition({ attributes }), 'file').equals(fileOf(table)), '10.1')

  const flags = raw.metadata({ ...RAW, minor: 2, flags: 0x80000001 })
  const flagged = encodeLpMetadata({ ...SAMPLE, headerFlags: 0x80000001 }, 'file')
  t.ok(flagged.equals(fileOf(flags)), '10.2')
  t.end()
})

await t.test('the first bytes, one by one', (t) => {
  const hex = encodeLpMetadata(SAMPLE, 'file').toString('hex')
  t.equal(hex.slice(0, 16), '67446c6134000000', 'the magic and size of the geometry')
  t.equal(hex.slice(80, 104), '001000000200000000100000')
  t.equal(hex.slice(8192, 8216), '30504c410a00000080000000', 'the magic, version and size')
  // 3 partitions, 5 extents, 2 groups, 2 block devices: 156 + 120 + 96 + 128 bytes.
  t.equal(hex.slice(8192 + 88, 8192 + 96), 'f4010000')
  const descriptors = [
    ...['00000000', '03000000', '34000000'],
    ...['9c000000', '05000000', '18000000'],
    ...['14010000', '02000000', '30000000'],
    ...['74010000', '02000000', '40000000'],
  ]
  t.equal(hex.slice(8192 + 160, 8192 + 256), descriptors.join(''))
  t.equal(hex.length / 2, 4096 + 128 + 500)
  t.end()
})

await t.test('what another hand wrote is read', (t) => {
  t.strictSame(decodeLpMetadata(RAW_FILE, 'file'), SAMPLE)
  for (const slot of [0, 1]) t.strictSame(decodeLpMetadata(RAW_DISK, 'disk', { slot }), SAMPLE)
  t.strictSame(decodeLpGeometry(RAW_DISK.subarray(0, LP_GEOMETRY_END), 'disk'), GEOMETRY)
  t.strictSame(decodeLpGeometry(RAW_FILE.subarray(0, 4096), 'file'), GEOMETRY)
  t.strictSame(decodeLpMetadata(new Uint8Array(RAW_FILE), 'file'), SAMPLE, 'of a plain array')
  const inside = Buffer.concat([Buffer.alloc(3), RAW_FILE]).subarray(3)
  t.strictSame(decodeLpMetadata(inside, 'file'), SAMPLE, 'in the middle of a buffer')
  const longer = Buffer.concat([RAW_FILE, Buffer.alloc(100_000, 7)])
  t.strictSame(decodeLpMetadata(longer, 'file'), SAMPLE, 'with something after it')

  // Tables in another order, with gaps, and an extent that nobody has.
  const unused = raw.extent(1, 0, 3000, 0)
  const parts = [RAW.devices, RAW.groups, RAW.extents.concat(unused), RAW.partitions]
  const [devices = Buffer.alloc(0), groups = devices, extents = devices, partitions = devices] =
    parts.map((part) => Buffer.concat([Buffer.alloc(12, 0xee), ...part]))
  const tables = Buffer.concat([devices, groups, extents, partitions])
  const start = (before: Buffer[]): number => Buffer.concat(before).length + 12
  const moved = raw.metadata({
    ...RAW,
    tables,
    descriptors: {
      0: start([devices, groups, extents]),
      3: start([devices, groups]),
      4: 6,
      6: start([devices]),
      9: start([]),
    },
  })
  t.strictSame(decodeLpMetadata(fileOf(moved), 'file'), SAMPLE)

  for (const slot of [-1, 2, 0.5]) {
    const error = failure(() => decodeLpMetadata(RAW_DISK, 'disk', { slot }))
    t.match(error, { name: 'RangeError', code: 'ERR_OUT_OF_RANGE' })
  }
  t.end()
})

await t.test('the version is the lowest that has what is needed', (t) => {
  const { minorVersion: _, ...unversioned } = SAMPLE
  const versionOf = (metadata: LpMetadata): number | undefined =>
    decodeLpMetadata(encodeLpMetadata(metadata, 'file'), 'file').minorVersion
  const updated = withPartition({ attributes: ['updated'] })
  t.equal(versionOf(unversioned), 0)
  t.equal(versionOf(updated), 1)
  t.equal(versionOf(withPartition({ attributes: ['disabled'] })), 1)
  t.equal(versionOf({ ...unversioned, headerFlags: 1 }), 2)
  t.equal(versionOf({ ...updated, headerFlags: 1 }), 2)
  for (const minorVersion of [0, 1, 2] as const) {
    t.equal(
      versionOf({ ...unversioned, minorVersion }),
      minorVersion,
      'or the one that is asked for',
    )
  }
  t.end()
})

/** Some metadata; extents are cut out of disks one after the other, and then shuffled. */
function anyMetadata(random: (limit: number) => number): LpMetadata {
  const maxSize = [4096, 65_536, 256 * KIB][random(3)] ?? 4096
  const geometry = {
    maxSize,
    slotCount: 1 + random(3),
    logicalBlockSize: [512, 4096][random(2)] ?? 512,
  }
  const block = geometry.logicalBlockSize / 512
  const first = Math.ceil(lpAreaSize(geometry) / 512 / block) * block
  const blockDevices = Array.from({ length: 1 + random(3) }, (_, index) => ({
    name: `disk-${index}`,
    slotSuffixed: random(2) === 0,
    size: [64 * MIB, 2 ** 52][random(2)] ?? MIB,
    firstLogicalSector: index === 0 ? first + block * random(100) : block * random(100),
    alignment: 512 * random(100),
    alignmentOffset: 512 * random(10),
  }))
  const free = blockDevices.map(({ firstLogicalSector }) => firstLogicalSector)
  const groups = Array.from({ length: 1 + random(3) }, (_, index) => ({
    name: `group_${index}`,
    slotSuffixed: random(2) === 0,
    maximumSize: [0, 64 * MIB][random(2)] ?? 0,
  }))
  const extents = Array.from({ length: random(60) }, (): LpExtent => {
    const sectors = block * (1 + random(20))
    if (random(5) === 0) return { target: 'zero', sectors }
    const device = random(blockDevices.length)
    const start = (free[device] ?? 0) + block * random(3)
    free[device] = start + sectors
    return { target: 'linear', sectors, device, start }
  }).sort(() => random(3) - 1)
  const names: LpAttribute[] = ['read-only', 'slot-suffixed', 'updated', 'disabled']
  const partitions = Array.from({ length: random(10) }, (_, index) => ({
    name: `part-${index}`,
    attributes: names.filter(() => random(6) === 0),
    group: `group_${random(groups.length)}`,
    extents: extents.splice(0, random(20)),
  }))
  return { geometry, headerFlags: [0, 0, 0, 3][random(4)] ?? 0, blockDevices, groups, partitions }
}

await t.test('what is written is read back', (t) => {
  const random = randomNumbers(4)
  const seen = new Map<string, number>()
  for (let round = 0; round < 500; round++) {
    const metadata = anyMetadata(random)
    for (const form of ['disk', 'file'] as const) {
      const bytes = encodeLpMetadata(metadata, form)
      for (let slot = 0; slot < metadata.geometry.slotCount; slot++) {
        const { minorVersion = 0, ...read } = decodeLpMetadata(bytes, form, { slot })
        if (!isDeepStrictEqual(read, metadata)) t.fail(`round ${round}: other metadata`)
        seen.set(`${form} 10.${minorVersion}`, 1 + (seen.get(`${form} 10.${minorVersion}`) ?? 0))
        const again = encodeLpMetadata({ ...read, minorVersion }, form)
        if (!again.equals(bytes)) t.fail(`round ${round}: other bytes`)
      }
    }
  }
  t.equal(seen.size, 6, 'every version in every form')
  for (const [name, count] of seen) t.ok(count >= 50, `${name}: ${count}`)
  t.end()
})

await t.test('the largest there is', (t) => {
  const extents = Math.floor((256 * KIB - 128 - 52 - 48 - 64) / 24)
  const many = (count: number): LpMetadata => ({
    geometry: LP_FILE_GEOMETRY,
    headerFlags: 0,
    blockDevices: SAMPLE.blockDevices
      .slice(0, 1)
      .map((device) => ({ ...device, size: Math.floor(SAFE / 4096) * 4096 })),
    groups: [{ name: 'default', slotSuffixed: false, maximumSize: Math.floor(SAFE / 512) * 512 }],
    partitions: [
      {
        name: 'x',
        attributes: [],
        group: 'default',
        extents: Array.from({ length: count }, (_, index) => ({
          target: 'linear',
          sectors: 8,
          device: 0,
          start: 2 ** 44 - 16 * (index + 1),
        })),
      },
    ],
  })
  const bytes = encodeLpMetadata(many(extents), 'file')
  t.ok(bytes.length <= 4096 + 256 * KIB && bytes.length > 4096 + 256 * KIB - 24)
  t.strictSame(decodeLpMetadata(bytes, 'file'), { minorVersion: 0, ...many(extents) })
  t.match(
    failure(() => encodeLpMetadata(many(extents + 1), 'file')),
    { ...LIMIT, message: /it has 2621\d\d bytes with 10911 extents, and a maximum of 262144/ },
  )
  t.end()
})

/** Reads it; undefined if it is refused as it must be. */
function readOrRefused(bytes: Buffer, form: LpForm, slot = 0): LpMetadata | undefined {
  try {
    return decodeLpMetadata(bytes, form, { slot })
  } catch (error) {
    const { code, offset, message } = error as DmloopError
    if (code !== 'DMLOOP_BAD_IMAGE' || offset === undefined) throw error
    if (offset > bytes.length || !message.includes(`at byte ${offset}`)) throw error
    return undefined
  }
}

const same = (read: LpMetadata | undefined): boolean => isDeepStrictEqual(read, SAMPLE)

/** All positions of some ranges. */
const positions = (...ranges: [start: number, length: number][]): number[] =>
  ranges.flatMap(([start, length]) => Array.from({ length }, (_, index) => start + index))

/** Every bit, and all of them. */
const FLIPS = [1, 2, 4, 8, 16, 32, 64, 128, 255]

await t.test('every flipped byte is refused, or repaired from the backup', (t) => {
  t.ok(same(decodeLpMetadata(RAW_FILE, 'file')))
  let count = 0
  const flipped = (whole: Buffer, at: readonly number[], flip: number): Buffer => {
    const bytes = Buffer.from(whole)
    for (const position of at) bytes[position] = (bytes[position] ?? 0) ^ flip
    count++
    return bytes
  }
  const table = RAW_TABLE.length
  for (const flip of FLIPS) {
    for (const at of positions([0, 52], [4096, table])) {
      const read = readOrRefused(flipped(RAW_FILE, [at], flip), 'file')
      if (read) t.fail(`byte ${at} of a file`)
    }
    for (const at of positions([52, 4096 - 52])) {
      if (at > 80 && at < 4080) continue
      if (!same(readOrRefused(flipped(RAW_FILE, [at], flip), 'file'))) t.fail(`padding, byte ${at}`)
    }
    for (const [length, primary, backup] of [
      [52, 4096, 8192],
      [table, 12288, 12288 + 2 * 4096],
    ] as const) {
      for (const at of positions([0, length])) {
        const once = [[primary + at], [backup + at]].map((each) => flipped(RAW_DISK, each, flip))
        if (!once.every((bytes) => same(readOrRefused(bytes, 'disk')))) t.fail(`byte ${at} once`)
        const twice = flipped(RAW_DISK, [primary + at, backup + at], flip)
        if (readOrRefused(twice, 'disk')) t.fail(`byte ${at} in both`)
        if (length > 52 && !same(readOrRefused(twice, 'disk', 1))) t.fail('the other slot')
      }
    }
  }
  t.ok(count > 10_000, `${count} flips`)
  t.end()
})

await t.test('cut off at every byte', (t) => {
  for (let length = 0; length < RAW_FILE.length; length++) {
    if (readOrRefused(RAW_FILE.subarray(0, length), 'file')) t.fail(`a file of ${length} bytes`)
  }
  // What a disk has is whole as soon as its first copies are.
  const whole = 12288 + RAW_TABLE.length
  for (let length = 0; length < whole; length++) {
    if (readOrRefused(RAW_DISK.subarray(0, length), 'disk')) t.fail(`a disk of ${length} bytes`)
  }
  for (let length = whole; length < RAW_DISK.length; length++) {
    if (!same(readOrRefused(RAW_DISK.subarray(0, length), 'disk'))) t.fail(`of ${length} bytes`)
  }
  t.match(
    failure(() => decodeLpMetadata(RAW_FILE.subarray(0, 4100), 'file', { file: '/x/lp' })),
    {
      ...BAD,
      file: '/x/lp',
      offset: 4100,
      message:
        /^\/x\/lp: has logical partition metadata that ends within its header, at byte 4100\. /,
    },
  )
  t.end()
})

await t.test('copies', (t) => {
  const other = raw.metadata({ ...RAW, partitions: RAW.partitions.slice(0, 2) })
  const names = (bytes: Buffer, slot = 0): string[] =>
    decodeLpMetadata(bytes, 'disk', { slot }).partitions.map(({ name }) => name)
  const broken = Buffer.from(RAW_TABLE).fill('?', 128, 140)
  t.equal(names(diskOf(other, RAW_TABLE)).length, 2, 'the primary one counts')
  t.equal(names(diskOf(broken, other)).length, 2, 'or its backup')
  t.equal(names(diskOf(RAW_TABLE, broken, other), 1).length, 2, 'each slot has its own')
  t.match(
    failure(() => names(diskOf(broken, broken))),
    {
      ...BAD,
      offset: 12288 + 128,
      message: /whose tables do not have their SHA-256 \(nor is its backup whole\), at byte 12416/,
    },
  )
  t.match(
    failure(() => names(diskOf(RAW_TABLE, RAW_TABLE, broken), 1)),
    { offset: 16384 + 128 },
  )

  const geometries = (first: Buffer, second: Buffer): Buffer => {
    const disk = Buffer.from(RAW_DISK)
    disk.set(first, 4096)
    disk.set(second, 8192)
    return disk
  }
  const good = raw.geometry(4096, 2, 4096)
  const smaller = raw.geometry(512, 2, 4096)
  t.equal(names(geometries(good, smaller)).length, 3)
  t.equal(names(geometries(Buffer.alloc(4096), good)).length, 3)
  t.match(
    failure(() => names(geometries(Buffer.alloc(4096), Buffer.alloc(4096)))),
    { ...BAD, offset: 4096, message: /^the input has no logical partition metadata \(nor/ },
  )
  t.equal(failure(() => names(geometries(smaller, good))).code, 'DMLOOP_BAD_IMAGE')

  // A backup may be older than its primary: what is whole, and refused, is not replaced by it.
  const newer = raw.metadata({ ...RAW, minor: 3, headerSize: 256 })
  const orphan = raw.metadata({ ...RAW, groups: RAW.groups.slice(0, 1) })
  for (const refused of [newer, orphan]) {
    t.match(
      failure(() => names(diskOf(refused, RAW_TABLE))),
      BAD,
    )
  }
  t.end()
})

/** Changes one of the entries of the sample. */
const entry = (
  table: 'partitions' | 'extents' | 'groups' | 'devices',
  index: number,
  bytes: Buffer,
): raw.RawMetadata => ({
  ...RAW,
  [table]: RAW[table].map((each, place) => (place === index ? bytes : each)),
})

/** Bytes from the start of the file to each table, behind a header of 128 bytes. */
const START = 4096 + 128
const TABLE = {
  partitions: START,
  extents: START + 3 * 52,
  groups: START + 3 * 52 + 5 * 24,
  devices: START + 3 * 52 + 5 * 24 + 2 * 48,
}

await t.test('what is whole, and cannot be', (t) => {
  const { partitions, extents, groups, devices } = TABLE
  const cases: [found: RegExp, offset: number, metadata: raw.RawMetadata][] = [
    // The header
    [/of version 11\.0, and only 10\.0/, 4100, { ...RAW, major: 11 }],
    [/of version 9\.2/, 4100, { ...RAW, major: 9, minor: 2 }],
    [/of version 10\.3/, 4102, { ...RAW, minor: 3 }],
    [/of version 11\.0/, 4100, { ...RAW, major: 11, headerSize: 512 }],
    [/of version 11\.0/, 4100, { ...RAW, major: 11, headerSize: 8192 }],
    [/with a header of 256 bytes/, 4104, { ...RAW, headerSize: 256 }],
    [/with a header of 128 bytes/, 4104, { ...RAW, minor: 2, headerSize: 128 }],
    [/of 4097 bytes, and at most 4096/, 4140, { ...RAW, tablesSize: 4096 - 127 }],
    [/whose partitions have 53 bytes each instead of 52/, 4184, { ...RAW, descriptors: { 2: 53 } }],
    [/whose extents have 16 bytes/, 4196, { ...RAW, descriptors: { 5: 16 } }],
    [/whose groups have 0 bytes/, 4208, { ...RAW, descriptors: { 8: 0 } }],
    [/whose blockDevices have 1 bytes/, 4220, { ...RAW, descriptors: { 11: 1 } }],
    [/whose blockDevices end at byte 564 of 500/, 4212, { ...RAW, descriptors: { 10: 3 } }],
    [/whose extents end at byte/, 4188, { ...RAW, descriptors: { 3: 4294967295 } }],
    [/whose groups end at byte/, 4200, { ...RAW, descriptors: { 7: 4294967295 } }],
    [/whose extents lie over its partitions/, 4188, { ...RAW, descriptors: { 3: 155 } }],
    [/without a block device/, START, { ...RAW, devices: [], extents: [], partitions: [] }],
    // Names
    [
      /whose partition 1 \(""\) has no name/,
      partitions + 52,
      entry('partitions', 1, raw.partition('', 0, 4, 0, 0)),
    ],
    [
      /partition 1 \("a\.b"\) has "\." in its name/,
      partitions + 52,
      entry('partitions', 1, raw.partition('a.b', 0, 4, 0, 0)),
    ],
    [
      /has "\\u0000" in its name/,
      partitions + 52,
      entry('partitions', 1, raw.partition('a\0b', 0, 4, 0, 0)),
    ],
    [/has "é" in its name/, groups, entry('groups', 0, raw.group('d\u00e9fault', 0, 0))],
    [
      /block device 0 \("su per"\) has " " in/,
      devices + 24,
      entry('devices', 0, raw.blockDevice('su per', 2048, 64 * MIB)),
    ],
    [
      /partition 1 \("system_a"\) has the name of partition 0/,
      partitions + 52,
      entry('partitions', 1, raw.partition('system_a', 0, 4, 0, 0)),
    ],
    [
      /group 1 \("default"\) has the name of group 0/,
      groups + 48,
      entry('groups', 1, raw.group('default', 0, 0)),
    ],
    [
      /has the name of block device 0/,
      devices + 64 + 24,
      entry('devices', 1, raw.blockDevice('super', 8, 8 * MIB)),
    ],
    // Flags
    [
      /attributes 0x10, of which version 10\.0 knows 0x3/,
      partitions + 52 + 36,
      entry('partitions', 1, raw.partition('b', 16, 4, 0, 0)),
    ],
    [
      /attributes 0x4, of which version 10\.0 knows 0x3/,
      partitions + 52 + 36,
      entry('partitions', 1, raw.partition('b', 4, 4, 0, 0)),
    ],
    [
      /version 10\.1 knows 0xf/,
      partitions + 52 + 36,
      { ...entry('partitions', 1, raw.partition('b', 0x80000000, 4, 0, 0)), minor: 1 },
    ],
    [
      /group 0 \("default"\) has the flags 0x2/,
      groups + 36,
      entry('groups', 0, raw.group('default', 2, 0)),
    ],
    [
      /block device 0 .* has the flags 0x3/,
      devices + 60,
      entry('devices', 0, raw.blockDevice('super', 2048, 64 * MIB, { flags: 3 })),
    ],
    // Partitions
    [
      /is in group 2 of 2/,
      partitions + 52 + 48,
      entry('partitions', 1, raw.partition('b', 0, 4, 0, 2)),
    ],
    [
      /has the extents 5 to 5 of 5/,
      partitions + 52 + 40,
      entry('partitions', 1, raw.partition('b', 0, 5, 1, 0)),
    ],
    [
      /has the extents 4294967295 to 8589934589 of 5/,
      partitions + 52 + 40,
      entry('partitions', 1, raw.partition('b', 0, 4294967295, 4294967295, 0)),
    ],
    [
      /has extent 3 of partition 0 \("system_a"\)/,
      partitions + 52 + 40,
      entry('partitions', 1, raw.partition('b', 0, 3, 1, 0)),
    ],
    // Extents
    [/whose extent 1 has no sectors/, extents + 24, entry('extents', 1, raw.extent(0, 1, 0, 0))],
    [
      /extent 1 is of the unknown type 2/,
      extents + 24 + 8,
      entry('extents', 1, raw.extent(8, 2, 0, 0)),
    ],
    [
      /extent 1 has zeros, and the start 7/,
      extents + 24 + 12,
      entry('extents', 1, raw.extent(8, 1, 7, 0)),
    ],
    [
      /extent 1 has zeros, and the device 1/,
      extents + 24 + 20,
      entry('extents', 1, raw.extent(8, 1, 0, 1)),
    ],
    [
      /extent 0 is on block device 2 of 2/,
      extents + 20,
      entry('extents', 0, raw.extent(8, 0, 4096, 2)),
    ],
    [
      /extent 0 has sectors 131065 to 131072 of 131072/,
      extents + 12,
      entry('extents', 0, raw.extent(8, 0, 131065, 0)),
    ],
    [
      /has the start 18446744073709552000, which is not from/,
      extents + 12,
      entry('extents', 0, raw.extent(8, 0, 2n ** 64n - 1n, 0)),
    ],
    [
      /has the sectors 9007199254740992, which is not/,
      extents,
      entry('extents', 0, raw.extent(2n ** 53n, 0, 2048, 0)),
    ],
    [
      /has 9007199254740991 sectors, and no disk/,
      extents + 24,
      entry('extents', 1, raw.extent(SAFE, 1, 0, 0)),
    ],
    [
      /extent 4 has sector 2050 of block device 0, and so has extent 2, of partition 0/,
      extents + 4 * 24 + 12,
      entry('extents', 4, raw.extent(8, 0, 2050, 0)),
    ],
    [
      /extent 4 has sector 4095 of block device 0, and so has extent 2/,
      extents + 4 * 24 + 12,
      entry('extents', 4, raw.extent(8, 0, 4095, 0)),
    ],
    [
      /partition 0 .* has 17592186054671 sectors, and no disk/,
      partitions + 44,
      entry('extents', 1, raw.extent(2 ** 44 - 1, 1, 0, 0)),
    ],
    // Groups and block devices
    [
      /group 1 .* has partitions of 5251072 bytes, and a maximum of 5251071/,
      groups + 48 + 40,
      entry('groups', 1, raw.group('main-group_a', 1, 5251071)),
    ],
    [
      /has the maximum size 922337203685477/,
      groups + 48 + 40,
      entry('groups', 1, raw.group('g', 0, 2n ** 63n - 1n)),
    ],
    [
      /has the size 67108865, which is no multiple of 512/,
      devices + 16,
      entry('devices', 0, raw.blockDevice('super', 2048, 64 * MIB + 1)),
    ],
    [
      /has the alignment 100, which/,
      devices + 8,
      entry('devices', 0, raw.blockDevice('super', 2048, 64 * MIB, { alignment: 100 })),
    ],
    [
      /has the alignment offset 1, which/,
      devices + 12,
      entry('devices', 0, raw.blockDevice('super', 2048, 64 * MIB, { alignmentOffset: 1 })),
    ],
    [
      /first logical sector 16385, and 16384 sectors/,
      devices + 64,
      entry('devices', 1, raw.blockDevice('b', 16385, 8 * MIB)),
    ],
    [
      /first logical sector 55, and the metadata takes 56/,
      devices,
      entry('devices', 0, raw.blockDevice('super', 55, 64 * MIB)),
    ],
    [
      /has the size 9007199254740992, which/,
      devices + 16,
      entry('devices', 0, raw.blockDevice('super', 2048, 2n ** 53n)),
    ],
  ]
  for (const [found, offset, metadata] of cases) {
    const error = failure(() => decodeLpMetadata(fileOf(raw.metadata(metadata)), 'file'))
    t.match(error, { ...BAD, offset, message: found }, String(found))
  }
  const reserved = raw.metadata({ ...RAW, minor: 2 })
  reserved[255] = 1
  raw.repairMetadata(reserved, 0)
  t.match(
    failure(() => decodeLpMetadata(fileOf(reserved), 'file')),
    { ...BAD, offset: 4096 + 255 },
  )

  const sizes: [found: RegExp, offset: number, block: Buffer][] = [
    [/whose geometry has 56 bytes instead of 52/, 4, raw.geometry(4096, 1, 512, { size: 56 })],
    [/geometry has a maximum size of 4097 bytes, which/, 40, raw.geometry(4097, 1, 512)],
    [/geometry has a maximum size of 0 bytes, which/, 40, raw.geometry(0, 1, 512)],
    [/geometry has 0 slots/, 44, raw.geometry(4096, 0, 512)],
    [
      /geometry has 4294967295 slots of 4294966784 bytes/,
      44,
      raw.geometry(4294966784, 4294967295, 512),
    ],
    [/geometry has logical blocks of 0 bytes/, 48, raw.geometry(4096, 1, 0)],
    [/geometry has logical blocks of 513 bytes/, 48, raw.geometry(4096, 1, 513)],
    [/has no logical partition metadata/, 0, raw.geometry(4096, 1, 512, { magic: 0 })],
  ]
  for (const [found, offset, block] of sizes) {
    const error = failure(() => decodeLpMetadata(raw.lpFile(block, RAW_TABLE), 'file'))
    t.match(error, { ...BAD, offset, message: found }, String(found))
  }
  t.end()
})

await t.test(
  'a file describes files anywhere on a disk, a disk only what is behind its metadata',
  (t) => {
    const low = raw.metadata(entry('extents', 2, raw.extent(8, 0, 0, 0)))
    t.match(decodeLpMetadata(fileOf(low), 'file').partitions[0]?.extents[2], { start: 0 })
    t.match(
      failure(() => decodeLpMetadata(diskOf(low, low), 'disk')),
      { ...BAD, message: /extent 2 starts at sector 0, before the first, 2048/ },
    )
    const metadata = decodeLpMetadata(fileOf(low), 'file')
    t.ok(encodeLpMetadata(metadata, 'file').equals(fileOf(low)))
    t.match(
      failure(() => encodeLpMetadata(metadata, 'disk')),
      LIMIT,
    )
    t.end()
  },
)

await t.test('what cannot be written', (t) => {
  const [device, second] = SAMPLE.blockDevices
  const [group, limited] = SAMPLE.groups
  if (!device || !second || !group || !limited) throw new Error('the sample has two of each')
  const geometry = (change: Partial<LpGeometry>): LpMetadata => ({
    ...SAMPLE,
    geometry: { ...GEOMETRY, ...change },
  })
  const linear = (sectors: number, start: number, on = 0): LpMetadata =>
    withPartition({ extents: [{ target: 'linear', sectors, device: on, start }] })
  const devices = (change: Partial<typeof device>): LpMetadata => ({
    ...SAMPLE,
    blockDevices: [{ ...device, ...change }, second],
  })
  const cases: [found: RegExp, remedy: RegExp, metadata: LpMetadata][] = [
    [
      /has a name of 37 bytes, more than 36/,
      /1 to 36 letters/,
      withPartition({ name: 'x'.repeat(37) }),
    ],
    [/has no name/, /letters/, withPartition({ name: '' })],
    [/has "ü" in its name/, /letters/, withPartition({ name: 'm\u00fcll' })],
    [/has the name of partition 0/, /each name once/, withPartition({ name: 'empty' })],
    [
      /partition "system_a" is in the group "nobody", which is not there/,
      /Add the group/,
      withPartition({ group: 'nobody' }),
    ],
    [
      /has partitions of 5251072 bytes, and a maximum of 4096/,
      /Raise the group’s maximumSize/,
      { ...SAMPLE, groups: [group, { ...limited, maximumSize: 4096 }] },
    ],
    [
      /it has 628 bytes with 5 extents, and a maximum of 512/,
      /fewer extents/,
      geometry({ maxSize: 512 }),
    ],
    [
      /geometry has a maximum size of 1000 bytes, which/,
      /multiples of 512/,
      geometry({ maxSize: 1000 }),
    ],
    [/geometry has 0 slots/, /one slot/, geometry({ slotCount: 0 })],
    [/geometry has NaN slots/, /one slot/, geometry({ slotCount: NaN })],
    [
      /a file has at most 262144 bytes of it, not 262656/,
      /smaller/,
      geometry({ maxSize: 262_656 }),
    ],
    [/extent 0 has sectors 131072 to 131079 of 131072/, /its end/, linear(8, 131072)],
    [/extent 0 is on block device 2 of 2/, /block device/, linear(8, 4096, 2)],
    [
      /extent 0 has 7 sectors from sector 4096, in no multiples of 4096/,
      /logical block size/,
      linear(7, 4096),
    ],
    [/extent 0 has 8 sectors from sector 4097/, /logical block size/, linear(8, 4097)],
    [/has no sectors/, /Leave it out/, linear(0, 4096)],
    [/has the sectors 0\.5/, /whole number/, linear(0.5, 4096)],
    [/has the start -8/, /whole number/, linear(8, -8)],
    [/has the start NaN/, /whole number/, linear(8, NaN)],
    [
      /extent 1 has sector 131064 of block device 0, and so has extent 0, of partition 0/,
      /of its own/,
      linear(8, 131064),
    ],
    [
      /block device 0 has 67109376 bytes, no multiple of 4096/,
      /logical block size/,
      devices({ size: 64 * MIB + 512 }),
    ],
    [
      /first logical sector 8, and the metadata takes 56/,
      /behind lpAreaSize/,
      devices({ firstLogicalSector: 8 }),
    ],
    [
      /has the alignment 4294967296, which is not from 0/,
      /whole number/,
      devices({ alignment: 2 ** 32 }),
    ],
    [/it has no block device/, /Describe the one/, { ...SAMPLE, blockDevices: [] }],
    [/its header has the flags 4294967296/, /32 bits/, { ...SAMPLE, headerFlags: 2 ** 32 }],
    [/its header has the flags -1/, /32 bits/, { ...SAMPLE, headerFlags: -1 }],
  ]
  for (const [found, remedy, metadata] of cases) {
    const error = failure(() => encodeLpMetadata(metadata, 'file'))
    t.match(error, { ...LIMIT, message: found, remedy }, String(found))
  }
  t.match(
    failure(() => encodeLpMetadata(geometry({ maxSize: MIB, slotCount: 64 }), 'disk')),
    { ...LIMIT, message: /64 slots of 1048576 bytes take 134230016/ },
  )
  t.end()
})

/** What is wrong with metadata that was read, said by somebody else; undefined: nothing. */
function wrong({ geometry, blockDevices, groups, partitions }: LpMetadata): string | undefined {
  const named = (list: readonly { name: string }[]): boolean =>
    list.every(({ name }) => /^[A-Za-z0-9_-]{1,36}$/.test(name)) &&
    new Set(list.map(({ name }) => name)).size === list.length
  if (![blockDevices, groups, partitions].every(named)) return 'names'
  const first = blockDevices[0]
  if (!first || first.firstLogicalSector * 512 < lpAreaSize(geometry)) return 'metadata'
  const taken: [device: number, start: number, end: number][] = []
  for (const { group, extents } of partitions) {
    if (!groups.some(({ name }) => name === group)) return 'group'
    for (const extent of extents) {
      if (!Number.isSafeInteger(extent.sectors * 512) || extent.sectors < 1) return 'sectors'
      if (extent.target === 'zero') continue
      const { device, start, sectors } = extent
      const size = blockDevices[device]?.size ?? 0
      if (!Number.isSafeInteger(start) || start < 0 || (start + sectors) * 512 > size)
        return 'outside'
      if (taken.some(([on, from, to]) => on === device && start < to && from < start + sectors)) {
        return 'overlap'
      }
      taken.push([device, start, start + sectors])
    }
  }
  for (const { name, maximumSize } of groups) {
    const sectors = partitions
      .filter(({ group }) => group === name)
      .flatMap(({ extents }) => extents)
      .reduce((sum, { target, sectors }) => sum + (target === 'linear' ? sectors : 0), 0)
    if (maximumSize > 0 && sectors * 512 > maximumSize) return 'group is full'
  }
  return undefined
}

await t.test('ten thousand mutations with checksums of their own are refused, or valid', (t) => {
  const seed = Number(process.env.SEED ?? 20_261_128)
  t.comment(`seed ${seed}`)
  const random = randomNumbers(seed)
  const table = RAW_TABLE.length
  const counts = { refused: 0, valid: 0, other: 0 }
  for (let round = 0; round < 10_000; round++) {
    const bytes = Buffer.from(RAW_FILE)
    // The geometry has few bytes, so it is chosen by itself; most of what is left is tables.
    const places =
      random(6) === 0 ? positions([40, 12]) : positions([4100, 6], [4140, 4], [4176, table - 80])
    for (let count = random(3) + 1; count > 0; count--) {
      const at = places[random(places.length)] ?? 0
      const old = bytes[at] ?? 0
      // Numbers that are near one another, or near a limit, get further than others.
      const values = [
        random(256),
        0,
        1,
        255,
        old + 1,
        old ^ (1 << random(8)),
        bytes[4096 + random(table)] ?? 0,
      ]
      bytes[at] = values[random(values.length)] ?? 0
    }
    raw.repairGeometry(bytes, 0)
    raw.repairMetadata(bytes, 4096)
    const read = readOrRefused(bytes, 'file')
    if (!read) {
      counts.refused++
      continue
    }
    counts.valid++
    if (!same(read)) counts.other++
    const reason = wrong(read)
    if (reason !== undefined) t.fail(`round ${round}: accepted, and wrong: ${reason}`)
    checkWritten(read, round)
  }
  t.comment(JSON.stringify(counts))
  t.ok(counts.refused > 3000 && counts.other > 300, 'of both kinds')
  t.end()

  /** What was read can be written and read again, unless it is in no whole blocks. */
  function checkWritten(read: LpMetadata, round: number): void {
    try {
      const again = decodeLpMetadata(encodeLpMetadata(read, 'file'), 'file')
      if (!isDeepStrictEqual(again, read)) t.fail(`round ${round}: not the same`)
    } catch (error) {
      const { code, message } = error as DmloopError
      if (code !== 'DMLOOP_NOT_REPRESENTABLE' || !/no multiples? of|maximum/.test(message))
        throw error
    }
  }
})
