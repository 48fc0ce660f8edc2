import { stat } from 'node:fs/promises'
import { BackingFile } from './backing-file.js'
import { findDevice, listDevices } from './device-mapper.js'
import { systemError } from './errors.js'
import { MappedDevice } from './mapped-device.js'
import { identityOf } from './names.js'
import type { DmDevice } from './native.js'
import { pathOf } from './options.js'
import { deviceOf, sweep } from './remains.js'
import { splitDevice } from './sysfs.js'

/**
 * The mapping with a name, of a device (/dev/mapper/NAME, /dev/dm-N, any link to it), or of a file;
 * whoever made it. Rejects with ENXIO when there is none, and with the system's error when the path
 * leads nowhere.
 */
export async function openMapping(nameOrPath: string): Promise<MappedDevice> {
  const given = pathOf(nameOrPath, 'nameOrPath')
  const device = await deviceAt(given)
  if (!device || identityOf(device.uuid) === undefined) {
    // The code and call are what the kernel itself gives for a device that is not there.
    throw systemError({ errno: -6, syscall: 'DM_DEV_STATUS' }, given)
  }
  return MappedDevice.of(device)
}

async function deviceAt(nameOrPath: string): Promise<DmDevice | undefined> {
  // A name has no slash, so what has one is a path.
  if (!nameOrPath.includes('/')) return findDevice({ name: nameOrPath })
  const found = await stat(nameOrPath)
  if (found.isBlockDevice()) return findDevice(splitDevice(found.rdev))
  await using file = await BackingFile.open(nameOrPath)
  return await deviceOf(file.identity)
}

/**
 * Every mapping of this machine, whoever made it, in the order of their names; also one that a crash
 * left half-made, to be unmapped. Files whose device is gone without an unmap of ours, as after a
 * deferred one, are let go.
 */
export async function listMappings(): Promise<MappedDevice[]> {
  await sweep()
  const devices = (await listDevices()).filter((device) => identityOf(device.uuid) !== undefined)
  devices.sort((a, b) => (a.name < b.name ? -1 : 1))
  return Promise.all(devices.map((device) => MappedDevice.of(device)))
}
