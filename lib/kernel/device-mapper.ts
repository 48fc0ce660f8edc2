// The device-mapper device of a mapping: reserve it, give it a table, let it go.
import debug from 'debug'
import { isUnreachable, noDeviceMapper } from '../plan/device-stack.js'
import { DmloopError, isSystemError, systemError, verdict } from './errors.js'
import { stillOpen } from './holders.js'
import { computed, native, result, type DmDevice, type DmTarget } from './native.js'
import { identityOf } from '../plan/names.js'
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
import { poll, type Patience } from './wait.js'

const log = debug('dmloop:device-mapper')

/** linux/dm-ioctl.h */
const ACTIVE_PRESENT = 1 << 5
const DEFERRED_REMOVE = 1 << 17

/**
 * Milliseconds that the kernel may take for each segment that it reads or writes in one call: many times what
 * it takes on a slow machine, and a minute for the largest table.
 */
const PER_SEGMENT = 0.05

export const hasLiveTable = (device: DmDevice): boolean => (device.flags & ACTIVE_PRESENT) !== 0

/** Rejects with DMLOOP_NO_DEVICE_MAPPER where this process cannot use device-mapper. */
export async function assertDeviceMapper(): Promise<void> {
  try {
    log('device-mapper %s', await result(native.dmVersion()))
  } catch (error) {
    throw reachable(error)
  }
}

/** What the kernel knows of a device; undefined when there is none. */
export async function findDevice(target: DmTarget): Promise<DmDevice | undefined> {
  try {
    return await result(native.dmStatus(target))
  } catch (error) {
    if (isSystemError(error, 'ENXIO') && error.syscall === 'DM_DEV_STATUS') return undefined
    // No device has a name that is longer than the field for it.
    if (isSystemError(error, 'EINVAL') && error.syscall === 'dm_ioctl') return undefined
    if (isAbsent(error)) return undefined
    throw reachable(error)
  }
}

/** Every device that device-mapper has. */
export async function listDevices(): Promise<DmDevice[]> {
  try {
    return await result(native.dmList())
  } catch (error) {
    if (isAbsent(error)) return []
    throw reachable(error)
  }
}

/** Whether the kernel has no device-mapper, and so no devices of it. */
const isAbsent = (error: unknown): boolean =>
  isSystemError(error, 'ENOENT', 'ENODEV', 'ENXIO') && error.syscall === 'open'

/** An error that says that device-mapper is not there becomes the verdict with its remedy. */
function reachable(error: unknown): unknown {
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
    if (!isSystemError(error, 'EBUSY')) throw reachable(error)
    // EBUSY is for a name or a UUID that is taken, and does not say which.
    const twin = await findDevice({ uuid })
    if (twin) throw alreadyMapped(file, nodePath(twin.name))
    throw nameTaken(name)
  }
}

export const nameTaken = (name: string): DmloopError =>
  verdict('DMLOOP_NAME_TAKEN', {}, `“${name}” is the name of another device`)

export const alreadyMapped = (file: string, path: string): DmloopError =>
  verdict('DMLOOP_ALREADY_MAPPED', { file }, `is mapped already, as ${path}`)

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
 * Rejects with DMLOOP_ALREADY_MAPPED when another mapping, live or in the making, lies on some of the same
 * blocks. UUIDs tell files apart by the number of their filesystem's device, which may be another one
 * after the volume was deactivated and activated again beneath a mapping. Each process loads first and
 * looks then, so that of two at once at least one sees the other.
 */
export async function assertAlone(
  device: Pick<DmDevice, 'uuid'>,
  segments: SegmentTable,
  file: string,
): Promise<void> {
  for (const other of await listDevices()) {
    if (identityOf(other.uuid) === undefined || other.uuid === device.uuid) continue
    for (const table of await tablesOf(other)) {
      if (await overlaps(segments, table)) throw alreadyMapped(file, nodePath(other.name))
    }
  }
}

/** Whether two tables have a block of a device in common. */
export async function overlaps(segments: SegmentTable, other: SegmentTable): Promise<boolean> {
  const rows = { rows: placesOf(other), devices: segments.numbersOf(other.devices) }
  return (await computed(native.findOverlap(segments.source, rows))) >= 0
}

/** The rows of a table that lie somewhere: what dmsetup --force has put in place of one does not. */
const placesOf = ({ packed }: SegmentTable): Float64Array => {
  const rows: number[] = []
  for (let row = 0; row < packed.length; row += 4) {
    if ((packed[row + 2] as number) >= 0) rows.push(...packed.subarray(row, row + 4))
  }
  return Float64Array.from(rows)
}

/**
 * Both tables of a mapping, of which either may have no rows; none when it has gone meanwhile. The one
 * that is about to be live is read first: a resume in between makes it the other.
 */
async function tablesOf({ uuid, name, targetCount }: DmDevice): Promise<SegmentTable[]> {
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

/** The live table; a target that is neither linear nor zero equals no segment of a plan. */
export async function liveTable(device: DmDevice): Promise<SegmentTable> {
  const { uuid, name, targetCount } = device
  const ask = native.dmTable({ uuid }, false)
  const { rows, devices } = await result(ask, name, targetCount * PER_SEGMENT)
  return new SegmentTable(rows, devices)
}

/** Makes the loaded table live, and /dev/mapper/NAME lead to it. */
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
 * Removes a device and its node. udev and blkid open a new device for a moment, so a busy one is
 * tried again until the time is over; then DMLOOP_STILL_OPEN says who holds it. With `deferred`, the
 * kernel removes it when its last holder leaves. A device that has gone already is no error.
 */
export async function removeDevice(
  device: DmDevice,
  { deferred, ...patience }: Patience & { deferred: boolean },
): Promise<'removed' | 'deferred'> {
  const { uuid, name } = device
  const outcome = await poll(async () => {
    try {
      const left = await withUdev(
        (cookie) => result(native.dmRemove({ uuid }, deferred, cookie), name),
        patience.timeout,
        // udev's rules look into no device that goes, whatever the flags say.
        true,
      )
      return (left.flags & DEFERRED_REMOVE) === 0 ? 'removed' : 'deferred'
    } catch (error) {
      if (isSystemError(error, 'ENXIO')) return 'removed'
      if (isSystemError(error, 'EBUSY')) return undefined
      throw error
    }
  }, patience)
  if (outcome === undefined) {
    const cause = systemError({ errno: -16, syscall: 'DM_DEV_REMOVE' }, name)
    throw await stillOpen(nodePath(name), device, patience.timeout, cause)
  }
  // Whoever holds a device that goes later has it open: the name is not needed any more.
  if (outcome === 'deferred') await removeNode(device)
  else await removeLeftNode(device)
  log('%s %s', outcome, name)
  return outcome
}

/** Makes the node that a process killed between resume and mknod has left out. */
export async function repairNode(device: DmDevice): Promise<void> {
  // A device that waits for its last holder has lost its node on purpose.
  if (!hasLiveTable(device) || (device.flags & DEFERRED_REMOVE) !== 0) return
  await awaitNode(device)
  await ensureNode(device)
  // Meanwhile another process may have removed the device, and its node with it.
  const left = await findDevice({ uuid: device.uuid })
  if (left?.minor !== device.minor) await removeLeftNode(device)
}

/** Removes the node of a device that is gone. */
export async function removeLeftNode(device: DeviceNode): Promise<void> {
  // Another process may have given the name to a device of its own by now, which may have the number too.
  if (!(await findDevice({ name: device.name }))) await removeNode(device)
}
