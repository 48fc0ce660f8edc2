// The devices beneath a filesystem, and a file's segments seen through them.
import debug from 'debug'
import type { BackingFile } from './backing-file.js'
import { describeStack } from '../kernel/describe-device.js'
import { exactOrTooLarge, isSystemError, problem, type Problem } from '../kernel/errors.js'
import { native, result, type DmDevice, type DmTable, type Layer } from '../kernel/native.js'
import { identityOf } from './names.js'
import { sameNumbers } from '../kernel/segments.js'
import { deviceName, mountsOf } from '../kernel/sysfs.js'

const log = debug('dmloop:device-stack')

/** DM_*_FLAG (linux/dm-ioctl.h). */
const READ_ONLY = 1
const SUSPENDED = 1 << 1
const INACTIVE_PRESENT = 1 << 6

export const isReadOnly = (device: DmDevice): boolean => (device.flags & READ_ONLY) !== 0

/**
 * A layer that only translates addresses: all of its targets are linear, striped or zero. A mapping is
 * none, though its table is: what lies on it must keep it from being removed, so nothing is mapped
 * beneath it.
 */
const isTranslation = ({ others, device }: DmTable): boolean =>
  others.length === 0 && identityOf(device.uuid) === undefined

/**
 * What is being done to a layer, after which its addresses may lead elsewhere; undefined for one that
 * stays as it is. LVM moves extents by putting a volume on a mirror of a name that it keeps for this, and
 * takes the mirror away again at the end (pvmove(8)). A hyphen within a volume's own name is a double one.
 */
function changeOf({ device: { name, uuid, flags } }: DmTable): string | undefined {
  if (uuid.startsWith('LVM-') && /(?<!-)(--)*-pvmove\d+$/.test(name))
    return 'is what pvmove moves it through'
  if ((flags & SUSPENDED) !== 0) return 'is suspended'
  if ((flags & INACTIVE_PRESENT) !== 0) return 'has another table waiting'
  return undefined
}

/** The live tables of a device and of what lies beneath it, by "major:minor". */
async function tablesFrom(device: string): Promise<Map<string, DmTable>> {
  const tables = await result(native.dmStack(device), device)
  return new Map(tables.map((table) => [deviceName(table.device.major, table.device.minor), table]))
}

/** The layers beneath a filesystem's device that only translate addresses, and where they end. */
export interface DeviceStack {
  /** One layer a device, level by level; the first level is that of the filesystem's device. */
  levels: Layer[][]
  /** The devices below the last level, as "major:minor". */
  devices: string[]
  /** Whether a layer is read-only: so is what shows beneath it, then. */
  readOnly: boolean
}

/** A layer that leaves a device's addresses as they are. */
const identity = (number: number): Layer => ({
  rows: Float64Array.of(0, Number.MAX_SAFE_INTEGER, 0, 0),
  devices: [number],
})

/** The level of some devices; undefined when none of them is a translation. */
function levelBeneath(
  devices: readonly string[],
  tables: ReadonlyMap<string, DmTable>,
): { level: Layer[]; below: string[]; readOnly: boolean } | undefined {
  const below: string[] = []
  const numberOf = (device: string): number => {
    const found = below.indexOf(device)
    return found === -1 ? below.push(device) - 1 : found
  }
  const level: Layer[] = []
  let translated = false
  let readOnly = false
  for (const device of devices) {
    const table = tables.get(device)
    if (table && isTranslation(table)) {
      translated = true
      readOnly ||= isReadOnly(table.device)
      const { rows, stripes } = table
      level.push({ rows, stripes, devices: table.devices.map(numberOf) })
    } else {
      level.push(identity(numberOf(device)))
    }
  }
  return translated ? { level, below, readOnly } : undefined
}

/** What a device lies on, and the first of the layers that were looked at that is about to change. */
interface Descent extends DeviceStack {
  /** The device's own table, if it is device-mapper's. */
  top: DmTable | undefined
  changing: DmTable | undefined
}

/** Looks down from a device through every layer that only translates. There may be none. */
export async function descend(device: string): Promise<Descent> {
  const tables = await tablesFrom(device)
  const levels: Layer[][] = []
  let devices = [device]
  let readOnly = false
  let changing: DmTable | undefined
  for (;;) {
    changing ??= devices.map((each) => tables.get(each)).find((table) => table && changeOf(table))
    const next = levelBeneath(devices, tables)
    if (!next) break
    levels.push(next.level)
    devices = next.below
    readOnly ||= next.readOnly
  }
  log('%s: %d levels down to %o', device, levels.length, devices)
  return { levels, devices, readOnly, top: tables.get(device), changing }
}

/**
 * The layers beneath a filesystem's device. At least one that only translates must be there, because the
 * filesystem holds the device that it is mounted on: only what is beneath that is device-mapper's to share
 * (FACTS section 2).
 */
export async function readStack(file: BackingFile): Promise<DeviceStack | Problem> {
  try {
    const { top, changing, ...stack } = await descend(file.device)
    if (changing) return await unsettled(file, changing)
    return stack.levels.length === 0 ? await notBeneath(file, top) : stack
  } catch (error) {
    if (isUnreachable(error)) return noDeviceMapper(error, file.path)
    const detail = `lies on a device with more than ${Number.MAX_SAFE_INTEGER} sectors`
    throw exactOrTooLarge(error, file.path, detail)
  }
}

/** The levels of a stack, the devices at the bottom numbered as they are in a list that has them all. */
export function levelsOver(stack: DeviceStack, list: readonly string[]): Layer[][] {
  const numbers = stack.devices.map((device) => list.indexOf(device))
  const bottom = stack.levels.length - 1
  return stack.levels.map((level, depth) =>
    depth < bottom
      ? level
      : level.map((layer) => ({
          ...layer,
          devices: layer.devices.map((device) => numbers[device] as number),
        })),
  )
}

/** Whether two looks found the same. */
export function sameStack(a: DeviceStack, b: DeviceStack): boolean {
  const text = (stack: DeviceStack): string =>
    JSON.stringify([
      stack.devices,
      stack.levels.map((level) => level.map(({ devices }) => devices)),
    ])
  const rows = (stack: DeviceStack): Float64Array[] =>
    stack.levels.flatMap((level) =>
      level.flatMap(({ rows, stripes }) => [rows, stripes ?? new Float64Array()]),
    )
  const others = rows(b)
  return text(a) === text(b) && rows(a).every((each, index) => sameNumbers(each, others[index]))
}

/** That a layer is about to change. */
async function unsettled(
  { device, path, filesystem }: BackingFile,
  table: DmTable,
): Promise<Problem> {
  const stack = `${filesystem.name} on ${await describeStack(device)}`
  const detail = `lies on ${stack}, and "${table.device.name}" ${changeOf(table) ?? ''}`
  return problem('DMLOOP_DEVICE_BUSY', { file: path }, detail)
}

/** Why nothing beneath a filesystem's device can be mapped: each layer, and which of them stops it. */
async function notBeneath(
  { device, path, filesystem }: BackingFile,
  table: DmTable | undefined,
): Promise<Problem> {
  const stack = `${filesystem.name} on ${await describeStack(device)}`
  if (!table || table.others.length === 0) {
    const mounts = (await mountsOf(device)).map(({ mountPoint }) => mountPoint)
    const where = mounts.length === 0 ? '' : `, mounted on ${mounts.join(' and ')},`
    const detail = `lies on ${stack}, and the filesystem${where} holds that device itself`
    return problem('DMLOOP_DEVICE_CLAIMED', { file: path }, detail)
  }
  const targets = [...new Set(table.others.map((other) => other.target))].join(', ')
  const detail = `lies on ${stack}, and "${table.device.name}" (${targets}) does more than translate addresses`
  return problem('DMLOOP_OPAQUE_DEVICE', { file: path }, detail)
}

/** Whether device-mapper's control device is missing or closed to this process. */
export const isUnreachable = (error: unknown): boolean =>
  (isSystemError(error, 'ENOENT', 'ENODEV', 'ENXIO') && error.syscall === 'open') ||
  isSystemError(error, 'EACCES', 'EPERM')

export function noDeviceMapper(cause: unknown, file?: string): Problem {
  const why = cause instanceof Error ? `: ${cause.message}` : ''
  return problem('DMLOOP_NO_DEVICE_MAPPER', { file }, `device-mapper cannot be reached${why}`)
}
