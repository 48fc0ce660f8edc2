// The logical partitions that we write are those that another reader maps: Debian's make-dynpart-mappings, which has
// code of its own. What it refuses is refused by us.
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  writeSync,
} from 'node:fs'
import t from 'tap'
import type { DmloopError } from 'dmloop'
import {
  decodeLpMetadata,
  encodeLpMetadata,
  lpAreaSize,
  type LpAttribute,
  type LpExtent,
  type LpMetadata,
  type LpPartition,
} from '#lib/store/lp-metadata.js'
import * as raw from '../unit/lp-encoder.js'
import { below, randomNumbers, scaled, sh, spread } from './lab.js'

const SUPER = '/dev/ram0'
/** Bytes. */
const SIZE = Number(readFileSync('/sys/block/ram0/size', 'utf8')) * 512
const NUMBERS = ['1:0', '1:1']
const SUFFIXES = ['_a', '_b', '_c']
/** The first partition starts behind the largest metadata here. */
const FIRST = 4096

// It finds block devices by the labels of partitions, as udev has them.
const LABELS = '/dev/disk/by-partlabel'
mkdirSync(LABELS, { recursive: true })
symlinkSync(SUPER, `${LABELS}/super`)
for (const suffix of SUFFIXES) symlinkSync('/dev/ram1', `${LABELS}/second-disk${suffix}`)

const BLOCK_DEVICES: LpMetadata['blockDevices'] = [
  {
    name: 'super',
    slotSuffixed: false,
    size: SIZE,
    firstLogicalSector: FIRST,
    alignment: 2 ** 20,
    alignmentOffset: 0,
  },
  {
    name: 'second-disk',
    slotSuffixed: true,
    size: SIZE,
    firstLogicalSector: 0,
    alignment: 0,
    alignmentOffset: 0,
  },
]

function write(bytes: Buffer): void {
  const fd = openSync(SUPER, 'r+')
  writeSync(fd, bytes, 0, bytes.length, 0)
  fsyncSync(fd)
  closeSync(fd)
}

interface Mapped {
  /** The table of each device. */
  tables: Record<string, string>
  messages: string
}

/** What it makes of the disk; removes it again. */
function mapped(slot: number): Mapped {
  const { stderr, signal } = spawnSync('make-dynpart-mappings', [SUPER, String(slot)], {
    encoding: 'utf8',
  })
  if (signal) throw new Error(`it was ended by ${signal}`)
  const tables: Mapped['tables'] = {}
  for (const [, name = '', line = ''] of sh('dmsetup table').matchAll(/^([\w-]+): ?(.*)$/gm)) {
    tables[name] = `${tables[name] ?? ''}${line.trim()}\n`
  }
  const names = Object.keys(tables)
  if (names.length > 0) sh(`dmsetup remove --retry ${names.join(' ')}`)
  return { tables, messages: stderr }
}

/** What it must make of metadata. */
function expected({ partitions }: LpMetadata, slot: number): Mapped['tables'] {
  const devices = partitions.map(({ name, attributes, extents }) => {
    const suffix = attributes.includes('slot-suffixed') ? (SUFFIXES[slot] ?? '') : ''
    // Of nothing it makes a device without a table.
    return [name + suffix, extents.length > 0 ? tableOf(extents) : '\n'] as const
  })
  return Object.fromEntries(devices)
}

function tableOf(extents: readonly LpExtent[]): string {
  let start = 0
  return extents
    .map((extent) => {
      const line = `${start} ${extent.sectors} `
      start += extent.sectors
      return extent.target === 'zero'
        ? `${line}zero\n`
        : `${line}linear ${NUMBERS[extent.device]} ${extent.start}\n`
    })
    .join('')
}

/** Partitions all over both disks, in no order. */
function anyMetadata(seed: number): LpMetadata {
  const random = randomNumbers(seed)
  const next = [FIRST, 0]
  const anyExtent = (): LpExtent => {
    const sectors = 8 * (1 + below(random, 40))
    const device = below(random, 3)
    if (device === 2) return { target: 'zero', sectors }
    const start = (next[device] ?? 0) + 8 * below(random, 20)
    next[device] = start + sectors
    return { target: 'linear', sectors, device, start }
  }
  const extents = Array.from({ length: 60 }, anyExtent).sort(() => random() - 0.5)
  const names: LpAttribute[] = ['read-only', 'slot-suffixed', 'updated', 'disabled']
  const version = below(random, 3)
  return {
    geometry: { maxSize: 65_536, slotCount: 1 + below(random, 3), logicalBlockSize: 4096 },
    headerFlags: version === 2 ? 1 : 0,
    blockDevices: BLOCK_DEVICES,
    groups: [
      { name: 'default', slotSuffixed: false, maximumSize: 0 },
      { name: 'group-1_a', slotSuffixed: false, maximumSize: SIZE },
    ],
    partitions: Array.from({ length: 6 }, (_, index): LpPartition => ({
      name: `part-${index}_x`,
      attributes: names.slice(0, version === 0 ? 2 : 4).filter(() => below(random, 3) === 0),
      group: ['default', 'group-1_a'][below(random, 2)] ?? '',
      extents: extents.splice(0, below(random, 20)),
    })),
  }
}

await t.test('what is written is mapped', (t) => {
  const versions = new Set<number>()
  for (let seed = 0; seed < scaled(20, 6); seed++) {
    const metadata = anyMetadata(seed)
    const bytes = encodeLpMetadata(metadata, 'disk')
    write(bytes)
    for (let slot = 0; slot < metadata.geometry.slotCount; slot++) {
      const { tables, messages } = mapped(slot)
      t.strictSame(tables, expected(metadata, slot), `metadata ${seed}, slot ${slot}`)
      t.equal(messages.replaceAll(/^device-mapper: .*\n/gm, ''), '')
      versions.add(decodeLpMetadata(bytes, 'disk', { slot }).minorVersion ?? 0)
    }
  }
  t.equal(versions.size, 3, 'of every version')
  t.end()
})

/** One slot: where there are more, it takes the next one for the backup. */
const SAMPLE: LpMetadata = {
  ...anyMetadata(3),
  geometry: { maxSize: 4096, slotCount: 1, logicalBlockSize: 4096 },
}
const WHOLE = encodeLpMetadata(SAMPLE, 'disk')
/** Where the copies are. */
const GEOMETRY = [4096, 8192] as const
const METADATA = [12_288, 12_288 + 4096] as const

function refused(bytes: Buffer): boolean {
  try {
    decodeLpMetadata(bytes, 'disk')
    return false
  } catch (error) {
    if ((error as DmloopError).code !== 'DMLOOP_BAD_IMAGE') throw error
    return true
  }
}

/** Every so many bytes of both copies. */
const positions = (
  [primary, backup]: readonly [number, number],
  start: number,
  end: number,
  step: number,
): [primary: number, backup: number][] =>
  Array.from({ length: Math.ceil((end - start) / step) }, (_, index) => [
    primary + start + index * step,
    backup + start + index * step,
  ])

await t.test('damage is refused, or repaired from the backup', (t) => {
  const tables = expected(SAMPLE, 0)
  const header = WHOLE.readUInt32LE(12_288 + 8)
  const all = header + WHOLE.readUInt32LE(12_288 + 44)
  // Some bytes of each structure: the unit test has all of them.
  const places = [
    ...positions(GEOMETRY, 0, 52, 9),
    ...positions(METADATA, 0, header, 13),
    ...positions(METADATA, header, all, 67),
  ]
  for (const [primary, backup] of spread(places)) {
    const bytes = Buffer.from(WHOLE)
    bytes[primary] = (bytes[primary] ?? 0) ^ 0x10
    write(bytes)
    t.notOk(refused(bytes), `byte ${primary}`)
    t.strictSame(mapped(0).tables, tables)
    bytes[backup] = (bytes[backup] ?? 0) ^ 0x10
    write(bytes)
    t.ok(refused(bytes), `bytes ${primary} and ${backup}`)
    const { tables: made, messages } = mapped(0)
    t.strictSame(made, {})
    t.match(messages, /No valid metadata (geometry|header) found/)
  }
  t.end()
})

await t.test('what is whole and wrong is refused', (t) => {
  const sound: raw.RawMetadata = {
    partitions: [raw.partition('one', 0, 0, 1, 0)],
    extents: [raw.extent(8, 0, FIRST, 0)],
    groups: [raw.group('default', 0, 0)],
    devices: [raw.blockDevice('super', FIRST, SIZE)],
  }
  const disk = (metadata: raw.RawMetadata, geometry = raw.geometry(4096, 1, 4096)): Buffer => {
    const table = raw.metadata(metadata)
    return raw.lpDisk(geometry, 4096, [[table, table]])
  }
  write(disk(sound))
  t.strictSame(mapped(0).tables, { one: `0 8 linear 1:0 ${FIRST}\n` }, 'the sound one is mapped')
  t.notOk(refused(disk(sound)))

  const cases: [name: string, bytes: Buffer][] = [
    ['the magic of the geometry', disk(sound, raw.geometry(4096, 1, 4096, { magic: 1 }))],
    ['its size', disk(sound, raw.geometry(4096, 1, 4096, { size: 56 }))],
    ['the maximum size', disk(sound, raw.geometry(4000, 1, 4096))],
    ['no slots', disk(sound, raw.geometry(4096, 0, 4096))],
    ['version 11.0', disk({ ...sound, major: 11 })],
    ['version 10.3', disk({ ...sound, minor: 3 })],
    ['the size of a header 10.0', disk({ ...sound, headerSize: 256 })],
    ['the size of a header 10.2', disk({ ...sound, minor: 2, headerSize: 128 })],
    ['the size of the tables', disk({ ...sound, tablesSize: 8 })],
    [
      'an extent that is not there',
      disk({ ...sound, partitions: [raw.partition('one', 0, 1, 1, 0)] }),
    ],
  ]
  for (const [name, bytes] of cases) {
    write(bytes)
    t.ok(refused(bytes), name)
    t.strictSame(mapped(0).tables, {}, name)
  }
  t.end()
})

t.equal(WHOLE.length, lpAreaSize(SAMPLE.geometry))
