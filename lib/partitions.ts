// The partitions of mappings: devices of device-mapper, as kpartx makes them, or the kernel's own on a loop device.
// The kernel says which there are, whoever made them; the record tells what the partition table says of them.
import { eachInBatches } from './kernel/batch.js'
import {
  deviceOpenError,
  findDevice,
  findSameDevice,
  findTable,
  hasLiveTable,
  listDevices,
  removeDevice,
  removeLeftNode,
  repairNode,
} from './kernel/device-mapper.js'
import { problem, type Problem } from './kernel/errors.js'
import { parsePartitionUuid } from './kernel/kpartx.js'
import type { Loop } from './kernel/loop.js'
import type { DmDevice } from './kernel/native.js'
import { SECTOR, SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize, holderNames, kernelPartitions } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { poll, type RemovalRequest, type WaitLimit } from './kernel/wait.js'
import type { MappingRecord, RecordedPartition } from './record.js'

/** A device for a partition of a mapping. */
export interface Partition {
  /** As the kernel counts: 1 to 4 of an MBR, and its logical partitions from 5. */
  number: number
  /** /dev/mapper/NAME1, NAMEp1 where the name ends with a digit, or /dev/loopNp1. */
  path: string
  /** Bytes from the start of the mapping. */
  start: number
  /** Bytes. Of an extended partition, the device has only the beginning. */
  size: number
  /**
   * GPT: a GUID; MBR: a number, as `0x83`. Missing, as are `uuid` and `name`, where another program made the
   * device, or the record in /run was lost.
   */
  type?: string
  /** GPT: the partition's own (PARTUUID); MBR: made of the disk's and the number. */
  uuid?: string
  /** Of GPT: the partition's name (PARTLABEL), where it has one. */
  name?: string
}

type Recorded = Pick<MappingRecord, 'partitions'> | undefined

/** Adds what the record says. */
export function describePartition(
  found: Pick<Partition, 'number' | 'path' | 'start' | 'size'>,
  record: Recorded,
): Partition {
  const same = ({ number, start }: RecordedPartition): boolean =>
    number === found.number && start === found.start
  const { type, uuid, name } = record?.partitions.find(same) ?? {}
  return {
    ...found,
    ...(type !== undefined && { type }),
    ...(uuid !== undefined && { uuid }),
    ...(name !== undefined && { name }),
  }
}

/** All partition devices of the device with a UUID, in their order; also those that are half-made. */
async function partitionDevices(uuid: string): Promise<(DmDevice & { number: number })[]> {
  const devices = (await listDevices()).flatMap((device) => {
    const found = parsePartitionUuid(device.uuid)
    return found?.parent === uuid ? [{ ...device, number: found.number }] : []
  })
  return devices.sort((a, b) => a.number - b.number)
}

/** The partitions of a device-mapper device. */
export async function findPartitions(device: DmDevice, record: Recorded): Promise<Partition[]> {
  // A partition has its table on the device: without anything there, none need be looked for.
  if ((await holderNames(deviceName(device.major, device.minor))).length === 0) return []
  const partitions: Partition[] = []
  for (const each of await partitionDevices(device.uuid)) {
    const [segment] = (await findTable(each)) ?? []
    if (segment?.offset === undefined) continue
    await repairNode(each)
    const size = await deviceSize(deviceName(each.major, each.minor))
    const { number, name } = each
    const found = { number, path: nodePath(name), start: segment.offset * SECTOR, size }
    partitions.push(describePartition(found, record))
  }
  return partitions
}

/** The partitions that the kernel has on a loop device. */
export async function findLoopPartitions(
  { device: { major, minor } }: Loop,
  record: Recorded,
): Promise<Partition[]> {
  const found = await kernelPartitions(deviceName(major, minor))
  return found.map(({ number, name, start, size }) =>
    describePartition({ number, path: `/dev/${name}`, start, size }, record),
  )
}

/** The table of a partition device: a part of another device, in bytes. */
export const partitionTable = (
  { major, minor }: Pick<DmDevice, 'major' | 'minor'>,
  { start, size }: Pick<Partition, 'start' | 'size'>,
): SegmentTable =>
  new SegmentTable(Float64Array.of(0, size / SECTOR, 0, start / SECTOR), [deviceName(major, minor)])

/** A problem for each partition device that is not any more what was made. */
export async function judgePartitions(device: DmDevice, record: MappingRecord): Promise<Problem[]> {
  const problems: Problem[] = []
  for (const each of record.partitions.length === 0 ? [] : await partitionDevices(device.uuid)) {
    const made = record.partitions.find(({ number }) => number === each.number)
    const table = made && (await findTable(each))
    if (!table || (await partitionTable(device, made).firstDifference(table)) === undefined)
      continue
    const file = nodePath(each.name)
    problems.push(
      problem('DMLOOP_BAD_PARTITION', { file }, 'has another table than it was made with'),
    )
  }
  return problems
}

/**
 * Removes a device, after its partitions, whoever made them. If one of them or the device itself stays open,
 * it rejects with DMLOOP_STILL_OPEN and has removed none.
 */
export async function removeWithPartitions(
  device: DmDevice,
  request: RemovalRequest,
): Promise<'removed' | 'deferred'> {
  if (request.deferred !== true) await awaitClosed(device, request)
  await eachInBatches(await partitionDevices(device.uuid), (each) => removeDevice(each, request))
  return await removeDevice(device, request)
}

/** Waits until nobody has a device or one of its partitions open; see `removeDevice`. */
async function awaitClosed(device: DmDevice, limit: WaitLimit): Promise<void> {
  const closed = await poll(async () => ((await isOpen(device)) ? undefined : true), limit)
  // With the holders of all partitions.
  if (closed === undefined) throw await deviceOpenError(device, limit.timeout)
}

/** Whether a partition is open, or others than its partitions have the device open. */
async function isOpen(device: DmDevice): Promise<boolean> {
  const partitions = await partitionDevices(device.uuid)
  if (partitions.length === 0) return false
  if (partitions.some(({ openCount }) => openCount > 0)) return true
  const current = await findSameDevice(device)
  return current !== undefined && current.openCount > partitions.length
}

/** Removes what was half-made of partitions whose device is gone. */
export async function removeLeftPartitions(uuid: string, limit: WaitLimit): Promise<void> {
  if (await findDevice({ uuid })) return
  for (const each of await partitionDevices(uuid)) {
    if (!hasLiveTable(each)) await removeDevice(each, limit)
  }
}

/** Removes the nodes that a mapping has left; see `removeLeftNode`. */
export async function removeLeftNodes({ node, partitions }: MappingRecord): Promise<void> {
  const nodes = [node, ...partitions.map((each) => each.node)]
  for (const each of nodes) if (each) await removeLeftNode(each)
}
