// The kernel's argument dm-mod.create=, which makes devices without an initramfs (drivers/md/dm-init.c). It needs
// CONFIG_DM_INIT and device-mapper built in. Nobody compares a block before, and nobody waits for a disk.
import { partitionUuid } from '../kernel/kpartx.js'
import { SECTOR } from '../kernel/segments.js'
import { parseDevice } from '../kernel/sysfs.js'
import { uuidOf, wrapUuidOf } from '../plan/names.js'
import type { BootDevice, BootDisk, BootPlan, BootSegment } from './boot-plan.js'

/** DM_MAX_DEVICES, DM_MAX_TARGETS and DM_MAX_STR_SIZE there. */
const MOST_DEVICES = 256
const MOST_TARGETS = 256
/** Less the NUL. */
const MOST_TEXT = 4095

const PREFIX = 'dm-mod.create='

interface Created {
  name: string
  uuid: string
  readOnly: boolean
  targets: string[]
}

/** Throws a RangeError where a limit of the kernel is passed, and a TypeError where it cannot find a disk. */
export function createArgument(plan: BootPlan): string {
  const devices = createdDevices(plan)
  if (devices.length > MOST_DEVICES) {
    throw tooLarge(`needs ${devices.length} devices, and dm-mod.create takes ${MOST_DEVICES}`)
  }
  for (const { name, targets } of devices) {
    if (targets.length <= MOST_TARGETS) continue
    throw tooLarge(
      `${name} needs ${targets.length} targets, and dm-mod.create takes ${MOST_TARGETS}`,
    )
  }
  const text = devices.map(formatDevice).join(';')
  if (text.length > MOST_TEXT) {
    throw tooLarge(`needs ${text.length} bytes, and dm-mod.create takes ${MOST_TEXT}`)
  }
  return `${PREFIX}"${text}"`
}

/** What a kernel argument cannot hold, an initramfs can. */
const tooLarge = (detail: string): Error =>
  Object.assign(new RangeError(`the boot plan ${detail}`), { code: 'ERR_OUT_OF_RANGE' })

/** Its index is its minor number, by which tables and UUIDs name it. */
const formatDevice = ({ name, uuid, readOnly, targets }: Created, minor: number): string =>
  [name, uuid, minor, readOnly ? 'ro' : 'rw', ...targets].join(',')

function createdDevices(plan: BootPlan): Created[] {
  const devices: Created[] = plan.wrappers.map(({ name, disk }) => {
    const found = plan.disks[disk] as BootDisk
    return {
      name,
      uuid: wrapUuidOf(numberOf(found)),
      readOnly: false,
      targets: [`0 ${found.size / SECTOR} linear ${diskName(found)} 0`],
    }
  })
  for (const device of plan.devices) {
    const image = createdImage(device, plan)
    const minor = devices.push(image) - 1
    for (const { number, name, start, length } of device.partitions) {
      devices.push({
        name,
        uuid: partitionUuid(number, image.uuid),
        readOnly: device.readOnly,
        targets: [`0 ${length} linear /dev/dm-${minor} ${start}`],
      })
    }
  }
  return devices
}

function createdImage(device: BootDevice, plan: BootPlan): Created {
  const { name, filesystem, identity, segments, readOnly } = device
  const host =
    'wrapper' in filesystem
      ? `${mapperMajor(plan)}:${filesystem.wrapper}`
      : numberOf(plan.disks[filesystem.disk] as BootDisk)
  const uuid = uuidOf(`${host.replace(':', '-')}-${identity}`)
  return { name, uuid, readOnly, targets: targetsOf(segments, plan.disks) }
}

function targetsOf(segments: readonly BootSegment[], disks: readonly BootDisk[]): string[] {
  let start = 0
  return segments.map(({ length, disk, offset }) => {
    const target = `${start} ${length} linear ${diskName(disks[disk] as BootDisk)} ${offset}`
    start += length
    return target
  })
}

/**
 * Without user space the kernel knows a disk by its number or by a PARTUUID, and not by what is on it. A table may have
 * either (dm_get_device, drivers/md/dm-table.c, looks names up like root=).
 */
function diskName(disk: BootDisk): string {
  return disk.by === 'PARTUUID' ? `PARTUUID=${disk.value}` : numberOf(disk)
}

function numberOf({ by, value, number }: BootDisk): string {
  if (number === undefined) {
    throw new TypeError(`dm-mod.create needs the number of the disk with ${by} ${value}`)
  }
  const { major, minor } = parseDevice(number)
  return `${major}:${minor}`
}

function mapperMajor({ mapperMajor }: BootPlan): number {
  if (mapperMajor !== undefined) return mapperMajor
  throw new TypeError('dm-mod.create needs the major number of device-mapper')
}
