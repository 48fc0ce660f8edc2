// What tests in the guest kernel share: ram disks, hosts on device-mapper, files in many pieces.
import { createHash } from 'node:crypto'
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
} from 'node:fs'
import t from 'tap'
import { wrapDevice } from 'dmloop'
import { sh } from '../shell.js'

export { fragmentedFile, randomFile } from '../made-files.js'
export { quoted, sh } from '../shell.js'

if (process.env.DMLOOP_GUEST === undefined) {
  throw new Error('this runs in the guest kernel only: npm run vm -- node out/test/vm/NAME.js')
}

// The guest is stopped from outside if it hangs: any time of tap's own is too short for some machine.
t.setTimeout(0)

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A whole number from 0 up to, not including, a limit. */
export const below = (random: () => number, limit: number): number => Math.floor(random() * limit)

const DISKS = ['1:0', '1:1']
const diskSectors = Number(readFileSync('/sys/block/ram0/size', 'utf8'))

/** What part of the rounds, files and seconds a slow machine does: 1 unless told. */
const SCALE = Number(process.env.DMLOOP_SCALE ?? 1)

/** So many on this machine, and never fewer than it takes to mean anything. */
export const scaled = (count: number, least = 1): number =>
  Math.max(least, Math.ceil(count * SCALE))

/** A step between calls to kill at: longer on a slow machine. */
export const scaledStep = (step: number): number => Math.ceil(step / SCALE)

/** As much of a list, spread evenly over it. */
export function spread<T>(list: readonly T[]): T[] {
  const count = scaled(list.length, Math.min(2, list.length))
  const step = (list.length - 1) / Math.max(1, count - 1)
  return Array.from({ length: count }, (_, index) => list[Math.round(index * step)] as T)
}

/** A device-mapper table of one linear segment over the first disk, or over the second. */
export const oneSegment = (disk = 0): string => `0 ${diskSectors} linear ${DISKS[disk]} 0\n`

/**
 * A table of several linear segments, taken in random pieces from both disks in turn and in no order;
 * the seams are at any sector.
 */
export function manySegments(count: number, seed: number): string {
  const random = randomNumbers(seed)
  const each = Math.floor((diskSectors * 2) / count / 2)
  const slots = Array.from({ length: count }, (_, index) => ({
    disk: DISKS[index % 2],
    offset: Math.floor(index / 2) * Math.floor(diskSectors / Math.ceil(count / 2)),
  }))
  slots.sort(() => random() - 0.5)
  let start = 0
  return slots
    .map(({ disk, offset }) => {
      const skip = below(random, 1000)
      const length = Math.min(each - 2000, each - skip) - below(random, 1000)
      const line = `${start} ${length} linear ${disk} ${offset + skip}\n`
      start += length
      return line
    })
    .join('')
}

export interface Host {
  /** The device-mapper name of the device that the filesystem is on. */
  name: string
  /** Where it is mounted. */
  path: string
  /** Unmounts the filesystem and removes the device. */
  remove(): void
}

/** A filesystem on a device-mapper device. */
export function makeHost(
  filesystem: string,
  table: string,
  { name = `host-${filesystem}`, mkfs = '', mount = '' } = {},
): Host {
  const path = `/tmp/${name}`
  mkdirSync(path, { recursive: true })
  sh(`dmsetup create ${name}`, table)
  const device = `/dev/mapper/${name}`
  sh(
    `wipefs -aq ${device}; mkfs.${filesystem} ${mkfs} ${device} && mount ${mount} ${device} ${path}`,
  )
  return { name, path, remove: () => void sh(`umount ${path} && dmsetup remove --retry ${name}`) }
}

/** A filesystem on a wrapper of the first ram disk. */
export async function wrappedHost(filesystem: string, name = 'host'): Promise<Host> {
  const path = `/tmp/${name}`
  sh(`wipefs -aq /dev/ram0; mkfs.${filesystem} -q /dev/ram0; mkdir -p ${path}`)
  await wrapDevice('/dev/ram0', { name })
  sh(`mount /dev/mapper/${name} ${path}`)
  return { name, path, remove: () => void sh(`umount ${path} && dmsetup remove --retry ${name}`) }
}

/** The SHA-256 of some bytes of a file or device, by default the first ones. */
export async function sha256(path: string, bytes: number, start = 0): Promise<string> {
  const hash = createHash('sha256')
  const stream = createReadStream(path, { start, end: start + bytes - 1, highWaterMark: 1 << 20 })
  for await (const chunk of stream as AsyncIterable<Buffer>) hash.update(chunk)
  return hash.digest('hex')
}

/** The names of all device-mapper devices. */
export function deviceNames(): string[] {
  const text = sh('dmsetup ls')
  if (text.startsWith('No devices')) return []
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split('\t')[0] ?? '')
    .sort()
}

export const UDEV = existsSync('/run/udev/control')

/** The cookies that nobody has destroyed. */
export const leftCookies = (): string[] => sh('dmsetup udevcookies').trim().split('\n').slice(1)

/** What of ours is left besides devices: records, and nodes without a device. */
export function leftFiles(): string[] {
  const records = readdirSync('/run/dmloop', { withFileTypes: true }).map(({ name }) => name)
  const devices = new Set([...deviceNames(), 'control'])
  return [...records, ...readdirSync('/dev/mapper').filter((name) => !devices.has(name))]
}

/** Everything of a file that a refused or undone mapping must leave as it was. */
export function fileState(path: string): string {
  const { size, mode, uid, gid, mtimeMs, nlink } = statSync(path)
  const sum = createHash('sha256').update(readFileSync(path)).digest('hex')
  // Where there are no flags, that is said in their place.
  const flags = sh(`lsattr ${path} 2>&1 || true`)
  return JSON.stringify({ size, mode, uid, gid, mtimeMs, nlink, flags, sum })
}
