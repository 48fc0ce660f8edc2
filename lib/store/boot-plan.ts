// What is to be made at boot: disks by lasting names, and the devices over them.
import { invalidValue } from '../kernel/errors.js'
import { SECTOR } from '../kernel/segments.js'
import { checkedName, parseIdentity } from '../plan/names.js'

/** A disk or partition by a name that stays when its number changes. */
export interface BootDisk {
  /** The UUID of its entry in a partition table, of the filesystem on it, or of the logical volume that it is. */
  by: 'PARTUUID' | 'UUID' | 'LV'
  value: string
  /** Bytes. The disk may have grown since. */
  size: number
  /** For dm-mod.create only: its number ("8:3"), which must be the same at every boot. */
  number?: string
}

/** A device that maps a whole disk, for a filesystem to be mounted on; see `wrapDevice`. */
export interface BootWrapper {
  name: string
  /** Its index in `disks`. */
  disk: number
}

/** Sectors. */
export interface BootSegment {
  length: number
  /** The index in `disks`. */
  disk: number
  /** Where it starts on the disk. */
  offset: number
}

/** What a block of a disk holds while a table is true: one that nobody writes to, such as an image's label. */
export interface BootProbe {
  /** The index in `disks`. */
  disk: number
  /** Of the disk. */
  sector: number
  bytes: Uint8Array
}

/** Sectors. */
export interface BootPartition {
  number: number
  name: string
  start: number
  length: number
}

export interface BootDevice {
  name: string
  /** What the image's filesystem is mounted from: an index in `wrappers` or in `disks`. Part of the UUID. */
  filesystem: { wrapper: number } | { disk: number }
  /** What follows the number of that device in the file's identity: `hHANDLE`. */
  identity: string
  readOnly: boolean
  /** In the order of the device, without gaps. */
  segments: readonly BootSegment[]
  probe: BootProbe
  partitions: readonly BootPartition[]
}

export interface BootPlan {
  disks: readonly BootDisk[]
  wrappers: readonly BootWrapper[]
  devices: readonly BootDevice[]
  /** For dm-mod.create only: the major number of device-mapper, which must be the same at every boot. */
  mapperMajor?: number
}

/** What is safe in a script, a path of /dev/disk and a kernel argument. */
const VALUE = /^[A-Za-z0-9-]+$/

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/** Throws where a plan cannot be what a device was made from; nothing of it needs quoting afterwards. */
export function checkPlan(plan: BootPlan): void {
  for (const { value, size } of plan.disks) {
    if (!VALUE.test(value)) throw invalidValue('disk.value', 'a UUID', value)
    if (!isCount(size) || size % SECTOR !== 0) throw invalidValue('disk.size', 'sectors', size)
  }
  for (const { name, disk } of plan.wrappers) {
    checkedName(name)
    assertIndex('wrapper.disk', disk, plan.disks)
  }
  for (const device of plan.devices) checkDevice(device, plan)
}

function checkDevice(device: BootDevice, plan: BootPlan): void {
  const { name, filesystem, identity, segments, partitions } = device
  checkedName(name)
  if ('wrapper' in filesystem) assertIndex('filesystem.wrapper', filesystem.wrapper, plan.wrappers)
  else assertIndex('filesystem.disk', filesystem.disk, plan.disks)
  if (parseIdentity(`0-0-${identity}`)?.handle === undefined) {
    throw invalidValue('device.identity', 'a file handle', identity)
  }
  for (const { length, disk, offset } of segments) {
    assertIndex('segment.disk', disk, plan.disks)
    if (!isCount(length) || length === 0) throw invalidValue('segment.length', 'sectors', length)
    if (!isCount(offset)) throw invalidValue('segment.offset', 'sectors', offset)
  }
  for (const { name, number, start, length } of partitions) {
    checkedName(name)
    for (const value of [number, start, length]) {
      if (!isCount(value)) throw invalidValue('partition', 'numbers of sectors', value)
    }
  }
  checkProbe(device.probe, plan)
}

function assertIndex(name: string, index: number, list: readonly unknown[]): void {
  if (list[index] === undefined) throw invalidValue(name, 'an index of the plan', index)
}

function checkProbe({ disk, sector, bytes }: BootProbe, plan: BootPlan): void {
  assertIndex('probe.disk', disk, plan.disks)
  if (!isCount(sector)) throw invalidValue('probe.sector', 'a sector', sector)
  if (bytes.length === 0 || bytes.length % SECTOR !== 0) {
    throw invalidValue('probe.bytes', 'whole sectors', bytes.length)
  }
}
