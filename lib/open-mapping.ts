import { stat } from 'node:fs/promises'
import { isAbsolute } from 'node:path'
import { BackingFile } from './backing-file.js'
import { findDevice, listDevices } from './device-mapper.js'
import { systemError } from './errors.js'
import { MappedDevice } from './mapped-device.js'
import { identityOf, uuidOf } from './names.js'
import type { DmTarget } from './native.js'
import { pathOf } from './options.js'
import { splitDevice } from './sysfs.js'

/**
 * The mapping with a name, of a device (/dev/mapper/NAME, /dev/dm-N, any link to it), or of a file;
 * whoever made it. Rejects with ENXIO when there is none, and with the system's error when the path
 * leads nowhere.
 */
export async function openMapping(nameOrPath: string): Promise<MappedDevice> {
  const given = pathOf(nameOrPath, 'nameOrPath')
  const device = await findDevice(await targetOf(given))
  if (!device || identityOf(device.uuid) === undefined) {
    // The code and call are what the kernel itself gives for a device that is not there.
    throw systemError({ errno: -6, syscall: 'DM_DEV_STATUS' }, given)
  }
  return MappedDevice.of(device)
}

async function targetOf(nameOrPath: string): Promise<DmTarget> {
  // A name has no slash, so what has one is a path.
  if (!isAbsolute(nameOrPath) && !nameOrPath.includes('/')) return { name: nameOrPath }
  const found = await stat(nameOrPath)
  if (found.isBlockDevice()) return splitDevice(found.rdev)
  await using file = await BackingFile.open(nameOrPath)
  return { uuid: uuidOf(file.identity) }
}

/**
 * Every mapping of this machine, whoever made it, in the order of their names; also one that a crash
 * left half-made, to be unmapped.
 */
export async function listMappings(): Promise<MappedDevice[]> {
  const devices = (await listDevices()).filter((device) => identityOf(device.uuid) !== undefined)
  devices.sort((a, b) => (a.name < b.name ? -1 : 1))
  return Promise.all(devices.map((device) => MappedDevice.of(device)))
}
