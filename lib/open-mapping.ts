import { withDeadline } from './kernel/deadline.js'
import { findDevice, findSameDevice, listDevices } from './kernel/device-mapper.js'
import { dmloopError, isSystemError } from './kernel/errors.js'
import { parsePartitionUuid } from './kernel/kpartx.js'
import { findLoop, findNamedLoop, listLoops, loopNumber, type Loop } from './kernel/loop.js'
import type { DmDevice } from './kernel/native.js'
import { identify } from './kernel/path.js'
import { deviceName, diskName } from './kernel/sysfs.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import { findLoopNamed } from './device-name.js'
import { sweepLocks } from './file-lock.js'
import { LinearDevice } from './linear-device.js'
import { LoopDevice } from './loop-device.js'
import type { MappedDevice } from './mapped-device.js'
import { parsePath } from './plan/arguments.js'
import { BackingFile } from './plan/backing-file.js'
import { identityOf, uuidOf, wrappedBy } from './plan/names.js'
import { readRecord, type MappingRecord } from './record.js'
import { findDeviceOf, recoverAll } from './recovery.js'
import { WrappedDevice } from './wrap-device.js'

/**
 * Finds a mapping by its name, its device (/dev/mapper/NAME, /dev/dm-N, /dev/loopN, any link to it), one of its
 * partitions, or its file, whichever process made it. Rejects with DMLOOP_NOT_MAPPED when there is none, and
 * with the system's error when nothing is at the path.
 */
export async function openMapping(nameOrPath: string): Promise<MappedDevice> {
  const given = parsePath(nameOrPath, 'nameOrPath')
  // A name has no slash.
  const find = given.includes('/') ? mappingAt : mappingNamed
  const found = await withDeadline(DEFAULT_WAIT, () => find(given))
  if (found) return found
  throw given.includes('/')
    ? dmloopError('DMLOOP_NOT_MAPPED', { file: given })
    : dmloopError('DMLOOP_NOT_MAPPED', {}, `“${given}” is not the name of a mapping`)
}

async function mappingNamed(name: string): Promise<MappedDevice | undefined> {
  const device = await findDevice({ name })
  if (device) return await ofDevice(await wholeDevice(device))
  const loop = await findLoopNamed(name)
  return await ofLoop(loop)
}

async function mappingAt(path: string): Promise<MappedDevice | undefined> {
  const found = await identify(path)
  if (found.isBlockDevice) {
    const { major, minor } = found
    const number = loopNumber(await diskName(deviceName(major, minor)))
    if (number !== undefined) return await ofLoop(await findLoop(number))
    const device = await findDevice({ major, minor })
    return await ofDevice(device && (await wholeDevice(device)))
  }
  await using file = await BackingFile.open(path, DEFAULT_WAIT)
  const record = await readRecord(file.identity)
  const device = await findDeviceOf(file, record)
  if (device) return await ofDevice(device)
  // The mapping may be of several files, of which this is not the first.
  const uuid = record?.uuid ?? uuidOf(file.identity)
  return await ofLoop((await listLoops()).find(({ name }) => name === uuid))
}

/** The device that a partition is part of; other devices are whole. */
async function wholeDevice(device: DmDevice): Promise<DmDevice> {
  const partition = parsePartitionUuid(device.uuid)
  const parent = partition && (await findDevice({ uuid: partition.parent }))
  return parent ? await wholeDevice(parent) : device
}

/** The mapping of a device; undefined where it is none, or another process removes it meanwhile. */
async function ofDevice(device: DmDevice | undefined): Promise<MappedDevice | undefined> {
  if (!device) return undefined
  try {
    const mapping = await readMapping(device)
    if (mapping && (await findSameDevice(device))) return mapping
  } catch (error) {
    // The kernel says that it is gone. One that is there again is another one.
    const gone = isSystemError(error, 'ENXIO') && error.syscall.startsWith('DM_')
    if (!gone && (await findSameDevice(device))) throw error
  }
  return undefined
}

async function readMapping(device: DmDevice): Promise<MappedDevice | undefined> {
  if (wrappedBy(device.uuid) !== undefined) return await WrappedDevice.of(device)
  const identity = identityOf(device.uuid)
  if (identity === undefined) return undefined
  const record = await readRecord(identity)
  const known = record && isRecordOf(record, device) ? record : undefined
  return (await LoopDevice.ofConcatenation(device, known)) ?? (await LinearDevice.of(device))
}

/** Whether a record is of this device, and not of an earlier one. */
const isRecordOf = ({ uuid, node }: MappingRecord, device: DmDevice): boolean =>
  uuid === device.uuid && node.major === device.major && node.minor === device.minor

async function ofLoop(loop: Loop | undefined): Promise<MappedDevice | undefined> {
  if (!loop || identityOf(loop.name) === undefined) return undefined
  const mapping = await LoopDevice.of(loop)
  // See `ofDevice`.
  return (await findNamedLoop(loop)) ? mapping : undefined
}

/**
 * Lists all mappings and wrapped devices of this machine in the order of their names, whichever process made
 * them; also those that a crash left half-made, to be unmapped. Files whose device was removed by someone
 * else, as after a deferred unmap, are released.
 */
export async function listMappings(): Promise<MappedDevice[]> {
  return await withDeadline(DEFAULT_WAIT, findMappings)
}

async function findMappings(): Promise<MappedDevice[]> {
  await recoverAll()
  await sweepLocks()
  const mappings = [
    ...(await Promise.all((await listDevices()).map(ofDevice))),
    ...(await Promise.all((await listLoops()).map(ofLoop))),
  ].filter((mapping) => mapping !== undefined)
  return mappings.sort((a, b) => (a.name < b.name ? -1 : 1))
}
