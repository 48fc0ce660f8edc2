// No two mappings share a block, whichever their backends and whatever number the filesystem of a file
// has. UUIDs and names are made from that number, and a volume that was deactivated and activated again
// beneath a mapping has another one by now: so places on the disk are compared.
import type { BackingFile } from './backing-file.js'
import {
  alreadyMapped,
  assertAlone,
  findDevice,
  hasLiveTable,
  listDevices,
  overlaps,
} from '../kernel/device-mapper.js'
import { descend, type DeviceStack } from './device-stack.js'
import { verdict } from '../kernel/errors.js'
import { listLoops, type Loop } from '../kernel/loop.js'
import { identityOf, partIdentityOf, uuidOf } from './names.js'
import { native, result, type ExtentList } from '../kernel/native.js'
import type { DrawnPlan } from './plan-file.js'
import { EXTENT_FLAGS, FILESYSTEMS, REALTIME } from '../kernel/policy.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import { deviceName, deviceSize } from '../kernel/sysfs.js'
import { nodePath } from '../kernel/udev.js'

/** Extents whose address, if they have one, is not where their bytes alone lie. */
const PLACELESS =
  EXTENT_FLAGS.UNKNOWN.bit |
  EXTENT_FLAGS.DELALLOC.bit |
  EXTENT_FLAGS.DATA_INLINE.bit |
  EXTENT_FLAGS.DATA_TAIL.bit |
  EXTENT_FLAGS.NOT_ALIGNED.bit

/** Some extents of a device, and which of its bytes they are of. */
interface Extents {
  extents: ExtentList
  offset: number
  length: number
}

/** Where extents lie at the bottom of a stack. */
async function placesOf(
  { extents, offset, length }: Extents,
  { levels, devices }: Pick<DeviceStack, 'levels' | 'devices'>,
): Promise<SegmentTable> {
  const part = { extents, offset, sectors: length / SECTOR, zeroFlags: PLACELESS, levels }
  const layout = await result(native.layOut([part]))
  return new SegmentTable(
    layout,
    layout.devices.map((number) => devices[number] as string),
  )
}

/** Whether what a filesystem says of a file's addresses counts on its device. */
const hasPlaces = ({ filesystem, facts, deviceSize }: BackingFile): boolean =>
  FILESYSTEMS[filesystem.name] !== undefined &&
  facts.filesystemSize <= deviceSize &&
  (facts.extendedFlags & REALTIME) === 0

/**
 * Rejects with DMLOOP_ALREADY_MAPPED when a mapping lies on some of a file's blocks, or a loop device of
 * ours shows them under another number of the same filesystem. Of a file whose addresses cannot be known
 * (btrfs, tmpfs) no other device could be made, under whatever number.
 */
export async function assertUnmapped(file: BackingFile): Promise<void> {
  if (!hasPlaces(file)) return
  const loops = await loopsElsewhere(file.device)
  const mappings = (await listDevices()).filter(({ uuid }) => identityOf(uuid) !== undefined)
  if (loops.length + mappings.length === 0) return
  const places = await placesOfFile(file)
  await assertAlone({ uuid: '' }, places, file.path)
  await assertNotUnder(loops, places, file.path)
}

/** Where all of a file is stored, at the bottom of its device's stack. */
async function placesOfFile({
  fd,
  path,
  addressCall,
  device,
  size,
}: BackingFile): Promise<SegmentTable> {
  const length = Math.ceil(size / SECTOR) * SECTOR
  const { extents } = await result(native.walkExtents(fd, addressCall, 0, length, SECTOR), path)
  return await placesOf({ extents, offset: 0, length }, await descend(device))
}

/** Whether a mapping's table has blocks of a file. */
export async function isShownBy(table: SegmentTable, file: BackingFile): Promise<boolean> {
  return hasPlaces(file) && (await overlaps(await placesOfFile(file), table))
}

/** The same for what of some files is to be mapped, by the device with this UUID. */
export async function assertBlocksFree({ plan, parts }: DrawnPlan, uuid: string): Promise<void> {
  await assertAlone({ uuid }, plan.segments, plan.files[0]?.path ?? '')
  for (const { slice, facts, stack } of parts) {
    const loops = await loopsElsewhere(slice.file.device)
    if (!facts || !stack || loops.length === 0) continue
    await assertNotUnder(loops, await placesOf({ ...slice, ...facts }, stack), slice.file.path)
  }
}

/** Rejects with DMLOOP_ALREADY_MAPPED when a device is there that was made of the file, whatever it shows. */
export async function assertNoDevice({ identity, path }: BackingFile): Promise<void> {
  const device = await findDevice({ uuid: uuidOf(identity) })
  if (device && hasLiveTable(device)) throw alreadyMapped(path, nodePath(device.name))
}

/** The loop devices of ours that show a file of another filesystem, or of this one by another number. */
const loopsElsewhere = async (device: string): Promise<Loop[]> =>
  (await listLoops()).filter(
    (loop) =>
      (identityOf(loop.name) ?? partIdentityOf(loop.name)) !== undefined && hostOf(loop) !== device,
  )

/** The device of the filesystem whose file a loop device shows. */
const hostOf = ({ major, minor }: Loop): string => deviceName(major, minor)

/**
 * Rejects when places lie on a device whose filesystem has one of these files. Which of its files that is
 * does not matter: a filesystem that is alive twice tells two stories of which blocks are whose.
 */
async function assertNotUnder(
  loops: readonly Loop[],
  places: SegmentTable,
  file: string,
): Promise<void> {
  for (const [host, loop] of new Map(loops.map((loop) => [hostOf(loop), loop]))) {
    const length = await deviceSize(host)
    const extents = native.packExtents(Float64Array.of(0, 0, length, 0))
    const area = await placesOf({ extents, offset: 0, length }, await descend(host))
    if (!(await overlaps(places, area))) continue
    const detail = `lies on the blocks of the device ${host}, and ${loop.path} shows a file of that`
    throw verdict('DMLOOP_ALREADY_MAPPED', { file }, detail)
  }
}
