import { BackingFile } from './plan/backing-file.js'
import { readRecord, type MappingRecord } from './file-lock.js'
import { withDeadline } from './kernel/deadline.js'
import { findDevice, listDevices } from './kernel/device-mapper.js'
import { loopNamed, sweepNames } from './device-name.js'
import { verdict } from './kernel/errors.js'
import { LinearDevice } from './linear-device.js'
import { LoopDevice } from './loop-device.js'
import { findLoop, listLoops, loopNumber, type Loop } from './kernel/loop.js'
import type { MappedDevice } from './mapped-device.js'
import { identityOf, uuidOf, wrappedBy } from './plan/names.js'
import type { DmDevice } from './kernel/native.js'
import { pathOf, PATIENCE } from './options.js'
import { identify } from './kernel/path.js'
import { deviceOf, sweep } from './recovery.js'
import { deviceName, kernelName } from './kernel/sysfs.js'
import { WrappedDevice } from './wrap-device.js'

/**
 * The mapping with a name, of a device (/dev/mapper/NAME, /dev/dm-N, /dev/loopN, any link to it), or of a
 * file; whoever made it. Rejects with DMLOOP_NOT_MAPPED when there is none, and with the system's error when the
 * path leads nowhere.
 */
export async function openMapping(nameOrPath: string): Promise<MappedDevice> {
  const given = pathOf(nameOrPath, 'nameOrPath')
  // A name has no slash, so what has one is a path.
  const find = given.includes('/') ? mappingAt : mappingNamed
  const found = await withDeadline(PATIENCE, () => find(given))
  if (found) return found
  throw given.includes('/')
    ? verdict('DMLOOP_NOT_MAPPED', { file: given })
    : verdict('DMLOOP_NOT_MAPPED', {}, `“${given}” is not the name of a mapping`)
}

async function mappingNamed(name: string): Promise<MappedDevice | undefined> {
  const device = await findDevice({ name })
  if (device) return await ofDevice(device)
  const loop = await loopNamed(name)
  return loop && (await LoopDevice.of(loop))
}

async function mappingAt(path: string): Promise<MappedDevice | undefined> {
  const found = await identify(path)
  if (found.isBlockDevice) {
    const { major, minor } = found
    const number = loopNumber(await kernelName(deviceName(major, minor)))
    if (number !== undefined) return ofLoop(await findLoop(number))
    return ofDevice(await findDevice({ major, minor }))
  }
  await using file = await BackingFile.open(path)
  const record = await readRecord(file.identity)
  const device = await deviceOf(file, record)
  if (device) return await ofDevice(device)
  // The mapping may be of several files, of which this is not the first.
  const uuid = record?.uuid ?? uuidOf(file.identity)
  return await ofLoop((await listLoops()).find(({ name }) => name === uuid))
}

async function ofDevice(device: DmDevice | undefined): Promise<MappedDevice | undefined> {
  if (device && wrappedBy(device.uuid) !== undefined) return await WrappedDevice.of(device)
  const identity = identityOf(device?.uuid ?? '')
  if (!device || identity === undefined) return undefined
  const record = await readRecord(identity)
  const known = record && isRecordOf(record, device) ? record : undefined
  return (await LoopDevice.joined(device, known)) ?? (await LinearDevice.of(device))
}

/** Whether a record speaks of this device, and not of what was there before. */
const isRecordOf = ({ uuid, node }: MappingRecord, device: DmDevice): boolean =>
  uuid === device.uuid && node.major === device.major && node.minor === device.minor

const ofLoop = async (loop: Loop | undefined): Promise<MappedDevice | undefined> =>
  loop && identityOf(loop.name) !== undefined ? LoopDevice.of(loop) : undefined

/**
 * Every mapping of this machine and every wrapped device, whoever made it, in the order of their names;
 * also one that a crash left half-made, to be unmapped. Files whose device is gone without an unmap of
 * ours, as after a deferred one, are let go.
 */
export async function listMappings(): Promise<MappedDevice[]> {
  return await withDeadline(PATIENCE, findMappings)
}

async function findMappings(): Promise<MappedDevice[]> {
  await sweep()
  await sweepNames()
  const mappings = [
    ...(await Promise.all((await listDevices()).map(ofDevice))),
    ...(await Promise.all((await listLoops()).map(ofLoop))),
  ].filter((mapping) => mapping !== undefined)
  return mappings.sort((a, b) => (a.name < b.name ? -1 : 1))
}
