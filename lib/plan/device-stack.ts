// The devices under a filesystem, down to where addresses are no longer just translated.
import debug from 'debug'
import { describeStack } from '../kernel/describe-device.js'
import {
  hasWaitingTable,
  isReadOnly,
  isSuspended,
  isUnreachable,
  noDeviceMapper,
} from '../kernel/device-mapper.js'
import { DmloopError, exactOrTooLarge, problem, type Problem } from '../kernel/errors.js'
import { native, result, type DmTable, type Layer } from '../kernel/native.js'
import { sameNumbers } from '../kernel/segments.js'
import { deviceName } from '../kernel/sysfs.js'
import { poll } from '../kernel/wait.js'
import type { BackingFile } from './backing-file.js'
import { identityOf, wrappedBy } from './names.js'
import { withoutFence } from './wrapper-table.js'

const log = debug('dmloop:device-stack')

/**
 * Whether a layer only translates addresses: all of its targets are linear, striped or zero. One of our
 * mappings does not count: a mapping of a file on it must hold it open, or it could be removed.
 */
const isAddressTranslation = ({ others, device }: DmTable): boolean =>
  others.length === 0 && identityOf(device.uuid) === undefined

/**
 * Why a layer's addresses are about to change; undefined when they are not. LVM moves extents through a
 * temporary mirror volume with a name reserved for it (pvmove(8)); a hyphen within a volume's own name is
 * doubled.
 */
function pendingChange({ device }: DmTable): string | undefined {
  const { name, uuid } = device
  if (uuid.startsWith('LVM-') && /(?<!-)(--)*-pvmove\d+$/.test(name))
    return 'is the temporary volume of a pvmove'
  if (isSuspended(device)) return 'is suspended'
  if (hasWaitingTable(device)) return 'has another table waiting'
  return undefined
}

/** The live tables of a device and of all its underlying devices, by "major:minor". */
async function tablesFrom(device: string): Promise<Map<string, DmTable>> {
  const tables = await result(native.dmStack(device), device)
  const named = tables.map((table) => {
    const { major, minor } = table.device
    return [deviceName(major, minor), withoutFence(table)] as const
  })
  return new Map(named)
}

/** The layers under a filesystem that only translate addresses. */
export interface DeviceStack {
  /** One layer a device, level by level; the first level is that of the filesystem's device. */
  levels: Layer[][]
  /** The devices under the last level, as "major:minor". */
  devices: string[]
  /** Whether a layer is read-only: then the mapping must be, too. */
  readOnly: boolean
}

/** A layer that leaves a device's addresses as they are. */
const identityLayer = (number: number): Layer => ({
  rows: Float64Array.of(0, Number.MAX_SAFE_INTEGER, 0, 0),
  devices: [number],
})

/** The level of some devices; undefined when none of them only translates addresses. */
function nextLevel(
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
    if (table && isAddressTranslation(table)) {
      translated = true
      readOnly ||= isReadOnly(table.device)
      const { rows, stripes } = table
      level.push({ rows, stripes, devices: table.devices.map(numberOf) })
    } else {
      level.push(identityLayer(numberOf(device)))
    }
  }
  return translated ? { level, below, readOnly } : undefined
}

interface ResolvedStack extends DeviceStack {
  /** The device's own table, if it is a device-mapper device. */
  top: DmTable | undefined
  /** The devices under the last level that may be made of others, in a way that is no translation. */
  opaque: { device: string; table: DmTable | undefined }[]
  /** The first layer that is suspended, at any level. */
  suspended: DmTable | undefined
  /** The first layer that is about to change. */
  changing: DmTable | undefined
}

/** Milliseconds that the table of a wrapper may be in exchange for one with another fence. */
const EXCHANGE_LIMIT = { timeout: 1000, signal: undefined }

/**
 * Follows a device down through every layer that only translates addresses. There may be none. Another process
 * that changes the fence of a wrapper is waited for.
 */
export async function resolveStack(device: string): Promise<ResolvedStack> {
  const settled = await poll(async () => {
    const stack = await readLevels(device)
    const isExchanged = stack.changing && wrappedBy(stack.changing.device.uuid) !== undefined
    return isExchanged === true ? undefined : stack
  }, EXCHANGE_LIMIT)
  return settled ?? (await readLevels(device))
}

async function readLevels(device: string): Promise<ResolvedStack> {
  const tables = await tablesFrom(device)
  const levels: Layer[][] = []
  let devices = [device]
  let readOnly = false
  let changing: DmTable | undefined
  for (;;) {
    changing ??= devices
      .map((each) => tables.get(each))
      .find((table) => table && pendingChange(table))
    const next = nextLevel(devices, tables)
    if (!next) break
    levels.push(next.level)
    devices = next.below
    readOnly ||= next.readOnly
  }
  log('%s: %d levels down to %o', device, levels.length, devices)
  const opaque = devices
    .map((each) => ({ device: each, table: tables.get(each) }))
    // What is stored on a mapping is stored in an image, not beside it.
    .filter(({ table }) => identityOf(table?.device.uuid ?? '') === undefined)
  const suspended = [...tables.values()].find((table) => isSuspended(table.device))
  return { levels, devices, readOnly, top: tables.get(device), opaque, suspended, changing }
}

/** Throws DMLOOP_DEVICE_BUSY while a layer is suspended: what reads metadata would wait for as long. */
export async function assertNotSuspended(file: BackingFile): Promise<void> {
  const { suspended } = await resolveStack(file.device)
  if (suspended) throw new DmloopError(await busyProblem(file, suspended))
}

/** The error where a file's addresses cannot be followed down to the disk, or are about to change. */
export async function unresolvedError(file: BackingFile): Promise<DmloopError> {
  const { changing, opaque } = await resolveStack(file.device)
  return new DmloopError(
    changing ? await busyProblem(file, changing) : await unmappableProblem(file, opaque[0]?.table),
  )
}

/**
 * The layers under a file's filesystem, or why the file cannot be mapped there. There must be at least one
 * that only translates: a mounted filesystem opens its own device exclusively (bd_prepare_to_claim,
 * block/bdev.c), so device-mapper can only share the devices under that.
 */
export async function readStack(file: BackingFile): Promise<DeviceStack | Problem> {
  if (!file.isOnMapper) return await unmappableProblem(file, undefined)
  try {
    const { top, changing, levels, devices, readOnly } = await resolveStack(file.device)
    if (changing) return await busyProblem(file, changing)
    if (levels.length === 0) return await unmappableProblem(file, top)
    return { levels, devices, readOnly }
  } catch (error) {
    if (isUnreachable(error)) return noDeviceMapper(error, file.path)
    const detail = `is stored on a device with more than ${Number.MAX_SAFE_INTEGER} sectors`
    throw exactOrTooLarge(error, file.path, detail)
  }
}

/** The levels of a stack, with the devices at the bottom numbered as in a list that contains them all. */
export function renumberDevices(stack: DeviceStack, list: readonly string[]): Layer[][] {
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

/** Whether two readings of a stack are the same. */
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

const describeStorage = async ({ device, filesystem }: BackingFile): Promise<string> =>
  `is stored on ${filesystem.name} on ${await describeStack(device)}`

/** The problem of a layer that is about to change. */
async function busyProblem(file: BackingFile, table: DmTable): Promise<Problem> {
  const change = `"${table.device.name}" ${pendingChange(table) ?? ''}`
  const detail = `${await describeStorage(file)}, and ${change}`
  return problem('DMLOOP_DEVICE_BUSY', { file: file.path }, detail)
}

/** Why nothing under a filesystem's device can be mapped: each layer, and the one that prevents it. */
async function unmappableProblem(file: BackingFile, table: DmTable | undefined): Promise<Problem> {
  const stored = await describeStorage(file)
  if (!table || table.others.length === 0) {
    const { mountPoints } = file
    const where = mountPoints.length === 0 ? '' : `, mounted on ${mountPoints.join(' and ')},`
    const detail = `${stored}, and the filesystem${where} holds that device itself`
    return problem('DMLOOP_DEVICE_CLAIMED', { file: file.path }, detail)
  }
  const targets = [...new Set(table.others.map((other) => other.target))].join(', ')
  const detail = `${stored}, and "${table.device.name}" (${targets}) does more than translate addresses`
  return problem('DMLOOP_OPAQUE_DEVICE', { file: file.path }, detail)
}
