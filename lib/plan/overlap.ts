// No two mappings share a block, whatever their backends. UUIDs and names do not tell: they are made from
// the number of the filesystem's device, which changes when a volume is deactivated and activated again.
// So physical addresses are compared.
import { inBatches } from '../kernel/batch.js'
import { underlyingDevices } from '../kernel/describe-device.js'
import {
  alreadyMapped,
  bothTables,
  findDevice,
  hasLiveTable,
  listDevices,
} from '../kernel/device-mapper.js'
import { dmloopError } from '../kernel/errors.js'
import { listLoops, type Loop } from '../kernel/loop.js'
import { computed, native, result, type DmDevice, type ExtentList } from '../kernel/native.js'
import { EXTENT_FLAGS, FILESYSTEMS, REALTIME } from '../kernel/policy.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import { deviceName, deviceSize } from '../kernel/sysfs.js'
import { nodePath } from '../kernel/udev.js'
import type { BackingFile } from './backing-file.js'
import type { BuiltPlan } from './build-plan.js'
import {
  assertNotSuspended,
  resolveStack,
  unresolvedError,
  type DeviceStack,
} from './device-stack.js'
import { identityOf, partIdentityOf, uuidOf } from './names.js'

/** Extents without a physical address of their own: what FIEMAP reports for them, if anything, is shared. */
const NO_ADDRESS_FLAGS =
  EXTENT_FLAGS.UNKNOWN.bit |
  EXTENT_FLAGS.DELALLOC.bit |
  EXTENT_FLAGS.DATA_INLINE.bit |
  EXTENT_FLAGS.DATA_TAIL.bit |
  EXTENT_FLAGS.NOT_ALIGNED.bit

/** Extents, and the range of the file that counts; bytes. */
interface ExtentRange {
  extents: ExtentList
  offset: number
  length: number
}

/** Where extents are stored on the devices at the bottom of a stack. */
export async function resolveExtents(
  { extents, offset, length }: ExtentRange,
  { levels, devices }: Pick<DeviceStack, 'levels' | 'devices'>,
): Promise<SegmentTable> {
  const part = { extents, offset, sectors: length / SECTOR, zeroFlags: NO_ADDRESS_FLAGS, levels }
  const built = await result(native.buildSegments([part]))
  return new SegmentTable(
    built,
    built.devices.map((number) => devices[number] as string),
  )
}

/** Whether the addresses that a filesystem reports for a file are positions on its device. */
const hasPhysicalAddresses = ({ filesystem, facts, deviceSize }: BackingFile): boolean =>
  FILESYSTEMS[filesystem.name] !== undefined &&
  facts.filesystemSize <= deviceSize &&
  (facts.extendedFlags & REALTIME) === 0

/**
 * Rejects with DMLOOP_ALREADY_MAPPED when a mapping has some of a file's blocks, or one of our loop devices
 * is backed by a file of the same filesystem under another device number. A file whose addresses are not
 * known (btrfs, tmpfs) can have no other mapping, whatever its device number.
 */
export async function assertUnmapped(file: BackingFile): Promise<void> {
  if (!hasPhysicalAddresses(file)) return
  const mappings = await listMappings()
  const loops = mappings.loops.filter((loop) => filesystemDeviceOf(loop) !== file.device)
  if (loops.length + mappings.devices.length === 0) return
  const segments = await resolveFile(file)
  await assertNoOverlap(mappings.devices, segments, file.path)
  await assertNotBackedBy(loops, segments, file.path)
}

/** Where all of a file is stored on the devices at the bottom of its stack. */
async function resolveFile({
  fd,
  path,
  addressCall,
  device,
  size,
}: BackingFile): Promise<SegmentTable> {
  const length = Math.ceil(size / SECTOR) * SECTOR
  const { extents } = await result(native.walkExtents(fd, addressCall, 0, length, SECTOR), path)
  return await resolveExtents({ extents, offset: 0, length }, await resolveStack(device))
}

/**
 * Rejects with DMLOOP_ALREADY_MAPPED when the table of a mapping, live or waiting, has some of a file's blocks,
 * whatever else is wrong with the file. Where a mapping may have them and that cannot be told, rejects with
 * DMLOOP_OPAQUE_DEVICE or DMLOOP_DEVICE_BUSY.
 */
export async function assertNotInTables(file: BackingFile): Promise<void> {
  if (!hasPhysicalAddresses(file)) return
  let segments: SegmentTable | undefined
  for (const mapping of await listDevices()) {
    if (identityOf(mapping.uuid) === undefined) continue
    for (const table of await bothTables(mapping)) {
      if (!hasBlocks(table)) continue
      const storage = await compareStorage(table, file.device)
      if (storage === 'other') continue
      if (storage === 'unknown') throw await unresolvedError(file)
      await assertNotSuspended(file)
      segments ??= await resolveFile(file)
      if (await overlaps(segments, table)) throw alreadyMapped(file.path, nodePath(mapping.name))
    }
  }
}

/**
 * Whether the filesystem on a device is stored where a table has blocks. It is unknown where the device is
 * made of others that have them, in a way that is no translation of addresses (a snapshot's origin, a mirror),
 * and where the table has no blocks.
 */
export type StorageComparison = 'same' | 'other' | 'unknown'

/** Not where all segments are zeros, or `dmsetup remove --force` has left an error target in their place. */
export const hasBlocks = ({ devices }: SegmentTable): boolean => devices.length > 0

/** Compares where the filesystem on a device is stored with a table. Asks the filesystem nothing. */
export async function compareStorage(
  table: SegmentTable,
  device: string,
): Promise<StorageComparison> {
  if (!hasBlocks(table)) return 'unknown'
  const stack = await resolveStack(device)
  if (await overlaps(await resolveDevice(device, stack), table)) return 'same'
  for (const { device: opaque } of stack.opaque) {
    for (const underlying of await underlyingDevices(opaque)) {
      if ((await compareStorage(table, underlying)) !== 'other') return 'unknown'
    }
  }
  return 'other'
}

/** Where all of a device is stored on the devices at the bottom of its stack. */
async function resolveDevice(device: string, stack: DeviceStack): Promise<SegmentTable> {
  const length = await deviceSize(device)
  if (length === 0) return new SegmentTable()
  const extents = native.packExtents(Float64Array.of(0, 0, length, 0))
  return await resolveExtents({ extents, offset: 0, length }, stack)
}

/**
 * Like `assertUnmapped`, for the blocks of a plan alone. `own` is the UUID of the plan's device. Every process
 * loads its table first and compares then, so that of two at the same time at least one sees the other.
 */
export async function assertBlocksUnmapped({ plan, parts }: BuiltPlan, own: string): Promise<void> {
  const mappings = await listMappings()
  const others = mappings.devices.filter(({ uuid }) => uuid !== own)
  await assertNoOverlap(others, plan.segments, plan.files[0]?.path ?? '')
  for (const { slice, facts, stack } of parts) {
    const loops = mappings.loops.filter((loop) => filesystemDeviceOf(loop) !== slice.file.device)
    if (!facts || !stack || loops.length === 0) continue
    const segments = await resolveExtents({ ...slice, ...facts }, stack)
    await assertNotBackedBy(loops, segments, slice.file.path)
  }
}

/** Rejects with DMLOOP_ALREADY_MAPPED when there is a device that was made for the file, whatever its table. */
export async function assertNoDevice({ identity, path }: BackingFile): Promise<void> {
  const device = await findDevice({ uuid: uuidOf(identity) })
  if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
}

/** The devices of device-mapper that are mappings, live or being made, and the loop devices of dmloop. */
const listMappings = (): Promise<{ devices: DmDevice[]; loops: Loop[] }> =>
  inBatches(async () => {
    const [devices, loops] = await Promise.all([listDevices(), listLoops()])
    return {
      devices: devices.filter(({ uuid }) => identityOf(uuid) !== undefined),
      loops: loops.filter(({ name }) => (identityOf(name) ?? partIdentityOf(name)) !== undefined),
    }
  })

/** Rejects with DMLOOP_ALREADY_MAPPED when a mapping has some of the same blocks, in either of its tables. */
async function assertNoOverlap(
  mappings: readonly DmDevice[],
  segments: SegmentTable,
  file: string,
): Promise<void> {
  for (const other of mappings) {
    for (const table of await bothTables(other)) {
      if (await overlaps(segments, table)) throw alreadyMapped(file, nodePath(other.name))
    }
  }
}

/** Whether two tables have a block of a device in common. */
async function overlaps(a: SegmentTable, b: SegmentTable): Promise<boolean> {
  const [few, many] = a.length < b.length ? [a, b] : [b, a]
  const search = native.findOverlap(many.source, few.source, many.numbersOf(few.devices))
  return (await computed(search)) >= 0
}

/** The device of the filesystem that has a loop device's backing file. */
const filesystemDeviceOf = ({ major, minor }: Loop): string => deviceName(major, minor)

/**
 * Rejects when segments are stored on the device of a filesystem that has one of these backing files. Which
 * file it is does not matter: a filesystem that is active twice has two views of which blocks belong to
 * what.
 */
async function assertNotBackedBy(
  loops: readonly Loop[],
  segments: SegmentTable,
  file: string,
): Promise<void> {
  for (const [device, loop] of new Map(loops.map((each) => [filesystemDeviceOf(each), each]))) {
    const whole = await resolveDevice(device, await resolveStack(device))
    if (!(await overlaps(segments, whole))) continue
    const detail = `is stored on the device ${device}, and a file there backs ${loop.path}`
    throw dmloopError('DMLOOP_ALREADY_MAPPED', { file }, detail)
  }
}
