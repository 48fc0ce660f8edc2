// Device-mapper devices: create, load, resume, remove.
import { constants } from 'node:os'
import debug from 'debug'
import {
  DmloopError,
  dmloopError,
  isSystemError,
  problem,
  systemError,
  type Problem,
} from './errors.js'
import { stillOpenError } from './holders.js'
import { native, result, type DmDevice, type DmTable, type DmTarget } from './native.js'
import { SegmentTable } from './segments.js'
import { deviceName } from './sysfs.js'
import {
  awaitNode,
  ensureNode,
  nodePath,
  removeNode,
  withUdev,
  type DeviceNode,
  type UdevScan,
} from './udev.js'
import { DEFAULT_TIMEOUT, poll, type RemovalRequest } from './wait.js'

const log = debug('dmloop:device-mapper')

/** linux/dm-ioctl.h */
const READ_ONLY = 1
const SUSPENDED = 1 << 1
const ACTIVE_PRESENT = 1 << 5
const INACTIVE_PRESENT = 1 << 6
const DEFERRED_REMOVE = 1 << 17

/**
 * Milliseconds that the kernel may take for each segment that it reads or writes in one call: many times what
 * it takes on a slow machine, and a minute for the largest table.
 */
const PER_SEGMENT = 0.05

export const isReadOnly = (device: DmDevice): boolean => (device.flags & READ_ONLY) !== 0

export const hasLiveTable = (device: DmDevice): boolean => (device.flags & ACTIVE_PRESENT) !== 0

export const isSuspended = ({ flags }: DmDevice): boolean => (flags & SUSPENDED) !== 0

/** Whether a table was loaded that is not live yet. */
export const hasWaitingTable = ({ flags }: DmDevice): boolean => (flags & INACTIVE_PRESENT) !== 0

/** Whether the control device of device-mapper is missing, or this process may not open it. */
export const isUnreachable = (error: unknown): boolean =>
  (isSystemError(error, 'ENOENT', 'ENODEV', 'ENXIO') && error.syscall === 'open') ||
  isSystemError(error, 'EACCES', 'EPERM')

export function noDeviceMapper(cause: unknown, file?: string): Problem {
  const why = cause instanceof Error ? `: ${cause.message}` : ''
  return problem('DMLOOP_NO_DEVICE_MAPPER', { file }, `device-mapper cannot be reached${why}`)
}

/** Rejects with DMLOOP_NO_DEVICE_MAPPER where this process cannot use device-mapper. */
export async function assertDeviceMapper(): Promise<void> {
  try {
    log('device-mapper %s', await result(native.dmVersion()))
  } catch (error) {
    throw explainUnreachable(error)
  }
}

/** Returns what the kernel knows of a device; undefined when there is none. */
export async function findDevice(target: DmTarget): Promise<DmDevice | undefined> {
  try {
    return await result(native.dmStatus(target))
  } catch (error) {
    if (isSystemError(error, 'ENXIO') && error.syscall === 'DM_DEV_STATUS') return undefined
    // The name is longer than any device can have.
    if (isSystemError(error, 'EINVAL') && error.syscall === 'dm_ioctl') return undefined
    if (isAbsent(error)) return undefined
    throw explainUnreachable(error)
  }
}

/** The device with a UUID, if it is still the one with this minor number. */
export async function findSameDevice({
  uuid,
  minor,
}: Pick<DmDevice, 'uuid' | 'minor'>): Promise<DmDevice | undefined> {
  const device = await findDevice({ uuid })
  return device?.minor === minor ? device : undefined
}

/** All device-mapper devices. */
export async function listDevices(): Promise<DmDevice[]> {
  try {
    return await result(native.dmList())
  } catch (error) {
    if (isAbsent(error)) return []
    throw explainUnreachable(error)
  }
}

/** Whether the kernel has no device-mapper, and therefore no such devices. */
const isAbsent = (error: unknown): boolean =>
  isSystemError(error, 'ENOENT', 'ENODEV', 'ENXIO') && error.syscall === 'open'

/** Turns an error that means that device-mapper cannot be used into one with a remedy. */
function explainUnreachable(error: unknown): unknown {
  return isUnreachable(error)
    ? new DmloopError(noDeviceMapper(error), undefined, { cause: error })
    : error
}

/** Reserves name and UUID: the kernel gives each to one device only. */
export async function createDevice(name: string, uuid: string, file: string): Promise<DmDevice> {
  try {
    const device = await result(native.dmCreate(name, uuid), name)
    log('created %s, %s', name, deviceName(device.major, device.minor))
    return device
  } catch (error) {
    throw await explainTaken(error, name, uuid, file)
  }
}

/** Turns an error of DM_DEV_CREATE into one that says what is taken: EBUSY means the name or the UUID. */
async function explainTaken(
  error: unknown,
  name: string,
  uuid: string,
  file: string,
): Promise<unknown> {
  if (!isSystemError(error, 'EBUSY') || error.syscall !== 'DM_DEV_CREATE') {
    return explainUnreachable(error)
  }
  const duplicate = await findDevice({ uuid })
  return duplicate ? alreadyMapped(file, nodePath(duplicate.name)) : nameTaken(name)
}

export const nameTaken = (name: string): DmloopError =>
  dmloopError('DMLOOP_NAME_TAKEN', {}, `“${name}” is the name of another device`)

export const alreadyMapped = (file: string, path: string): DmloopError =>
  dmloopError('DMLOOP_ALREADY_MAPPED', { file }, `is mapped already, as ${path}`)

export async function loadTable(
  device: DmDevice,
  segments: SegmentTable,
  readOnly: boolean,
): Promise<void> {
  const { uuid, name } = device
  const { source, devices } = segments
  const load = native.dmLoad({ uuid }, source, [...devices], readOnly)
  await result(load, name, segments.length * PER_SEGMENT)
  log('%s: loaded %d segments', name, segments.length)
}

/**
 * The inactive and the live table of a device, of which either may have no rows; none when it was removed
 * meanwhile. The inactive one is read first: a resume in between makes it the live one.
 */
export async function bothTables({ uuid, name, targetCount }: DmDevice): Promise<SegmentTable[]> {
  const tables: SegmentTable[] = []
  try {
    for (const inactive of [true, false]) {
      const allowance = targetCount * PER_SEGMENT
      const table = await result(native.dmTable({ uuid }, inactive), name, allowance)
      tables.push(new SegmentTable(table.rows, table.devices))
    }
  } catch (error) {
    if (!isSystemError(error, 'ENXIO')) throw error
  }
  return tables
}

/** Drops the table that was loaded but not made live. */
export async function clearTable(device: DmDevice): Promise<void> {
  await result(native.dmClear({ uuid: device.uuid }), device.name)
}

/** The live table as the kernel has it. */
export async function readTable({ uuid, name, targetCount }: DmDevice): Promise<DmTable> {
  return await result(native.dmTable({ uuid }, false), name, targetCount * PER_SEGMENT)
}

/** The live table. A target that is neither linear nor zero differs from every segment of a plan. */
export async function liveTable(device: DmDevice): Promise<SegmentTable> {
  const { rows, devices } = await readTable(device)
  return new SegmentTable(rows, devices)
}

/** The same; undefined where there is none, or the device has been removed meanwhile. */
export async function findTable(device: DmDevice): Promise<SegmentTable | undefined> {
  if (!hasLiveTable(device)) return undefined
  try {
    return await liveTable(device)
  } catch (error) {
    if (isSystemError(error, 'ENXIO')) return undefined
    throw error
  }
}

/** Makes the loaded table live, and makes sure that /dev/mapper/NAME is the device. */
export async function resumeDevice(
  device: DmDevice,
  timeout: number,
  scan: UdevScan,
): Promise<DmDevice> {
  const { uuid, name } = device
  const resumed = await withUdev(
    (cookie) => result(native.dmResume({ uuid }, cookie), name),
    timeout,
    scan,
  )
  await ensureNode(resumed)
  log('resumed %s', name)
  return resumed
}

/**
 * Creates a device with a live table, of which nothing is left when that fails, and makes sure that /dev/mapper/NAME
 * is the device.
 */
export async function makeDevice(
  name: string,
  uuid: string,
  { segments, readOnly, file }: { segments: SegmentTable; readOnly: boolean; file: string },
): Promise<DmDevice> {
  const { source, devices } = segments
  const made = await withUdev(
    async (cookie) => {
      try {
        const make = native.dmMake(name, uuid, source, [...devices], readOnly, cookie)
        return await result(make, name, segments.length * PER_SEGMENT)
      } catch (error) {
        throw await explainTaken(error, name, uuid, file)
      }
    },
    DEFAULT_TIMEOUT,
    true,
  )
  await ensureNode(made)
  log('made %s, %s', name, deviceName(made.major, made.minor))
  return made
}

/**
 * Removes a device and its node. udev and blkid open a new device for a moment, so a busy one is
 * tried again until the time is over; then DMLOOP_STILL_OPEN says who has it open. With `deferred`, the
 * kernel removes it when its last user closes it. A device that is already gone is no error.
 */
export async function removeDevice(
  device: DmDevice,
  { deferred = false, ...limit }: RemovalRequest,
): Promise<'removed' | 'deferred'> {
  const { uuid, name } = device
  const outcome = await poll(async () => {
    try {
      const left = await withUdev(
        (cookie) => result(native.dmRemove({ uuid }, deferred, cookie), name),
        limit.timeout,
        // udev's rules do not scan a device that is removed, whatever the flags say.
        true,
      )
      return (left.flags & DEFERRED_REMOVE) === 0 ? 'removed' : 'deferred'
    } catch (error) {
      if (isSystemError(error, 'ENXIO')) return 'removed'
      if (isSystemError(error, 'EBUSY')) return undefined
      throw error
    }
  }, limit)
  if (outcome === undefined) throw await deviceOpenError(device, limit.timeout)
  // Those who have the device open do not need its name any more.
  if (outcome === 'deferred') await removeNode(device)
  else await removeLeftNode(device)
  log('%s %s', outcome, name)
  return outcome
}

/** The error for a device that is still open after so many milliseconds, with who has it open. */
export async function deviceOpenError(device: DmDevice, timeout: number): Promise<DmloopError> {
  const { name } = device
  const cause = systemError({ errno: -constants.errno.EBUSY, syscall: 'DM_DEV_REMOVE' }, name)
  return await stillOpenError(nodePath(name), device, timeout, cause)
}

/** Makes the node that is missing when a process was killed between resume and mknod. */
export async function repairNode(device: DmDevice): Promise<void> {
  // A device that is removed when its last user closes it has no node on purpose.
  if (!hasLiveTable(device) || (device.flags & DEFERRED_REMOVE) !== 0) return
  await awaitNode(device)
  await ensureNode(device)
  // Meanwhile another process may have removed the device, and its node with it.
  if (!(await findSameDevice(device))) await removeLeftNode(device)
}

/** Removes the node of a device that is gone. */
export async function removeLeftNode(device: DeviceNode): Promise<void> {
  // Another process may have created a device with the same name since, perhaps with the same number.
  if (!(await findDevice({ name: device.name }))) await removeNode(device)
}
