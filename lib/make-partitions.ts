// Makes the devices of a mapping's partitions.
import debug from 'debug'
import { eachInBatches } from './kernel/batch.js'
import { createDevice, loadTable, removeDevice, resumeDevice } from './kernel/device-mapper.js'
import { problem, type Problem } from './kernel/errors.js'
import { partitionName, partitionUuid } from './kernel/kpartx.js'
import { makeNode, type Loop } from './kernel/loop.js'
import type { DmDevice } from './kernel/native.js'
import { addPartition, readPartitionTable, type PartitionEntry } from './kernel/partition-table.js'
import { SECTOR } from './kernel/segments.js'
import {
  blockSizeOf,
  deviceName,
  deviceSize,
  kernelPartitions,
  parseDevice,
} from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import { createNamed } from './device-name.js'
import type { FileLock } from './file-lock.js'
import type { MapRequest } from './options.js'
import {
  describePartition,
  findLoopPartitions,
  partitionTable,
  type Partition,
} from './partitions.js'
import type { MappingRecord, RecordedPartition } from './record.js'
import type { Undo } from './undo.js'

const log = debug('dmloop:make-partitions')

type PartitionRequest = Pick<
  MapRequest,
  'partitions' | 'readOnly' | 'udevScan' | 'timeout' | 'signal'
>

/** A live mapping that is to have partitions. */
interface Mapping {
  lock: FileLock
  record: MappingRecord
  request: PartitionRequest
  undo: Undo
}

interface Made {
  /** With what was found out about the partitions. */
  record: MappingRecord
  partitions: Partition[]
}

/** Makes a device for each partition, where they were asked for. `undo` removes them. */
export async function makePartitions(device: DmDevice, mapping: Mapping): Promise<Made> {
  const { lock, request, undo } = mapping
  if (!request.partitions) return { record: mapping.record, partitions: [] }
  const { entries, problems } = await readEntries(nodePath(device.name), device, request)
  const created = await eachInBatches(entries, async (entry): Promise<Created> => {
    const node = await createPartition(device, entry, request)
    undo.onFailure(() => removeDevice(node, DEFAULT_WAIT))
    return { node, entry }
  })
  // Before there are nodes, so that a crash leaves none that nothing tells of.
  const record = {
    ...mapping.record,
    partitions: created.map(({ node: { name, major, minor }, entry }) => ({
      ...recorded(entry),
      node: { name, major, minor },
    })),
    partitionProblems: problems,
  }
  await lock.write(record)
  await eachInBatches(created, async ({ node, entry }) => {
    request.signal?.throwIfAborted()
    await loadTable(node, partitionTable(device, entry), request.readOnly)
    await resumeDevice(node, request.timeout, request.udevScan)
  })
  log('%s has %d partitions', device.name, created.length)
  return { record, partitions: created.map((each) => partitionOf(each, record)) }
}

/** A device, and the partition that it is for. */
interface Created {
  node: DmDevice
  entry: PartitionEntry
}

/** Reserves the name and the UUID of a partition's device. */
function createPartition(
  device: DmDevice,
  { number }: PartitionEntry,
  request: PartitionRequest,
): Promise<DmDevice> {
  const name = partitionName(device.name, number)
  const path = nodePath(device.name)
  const create = (): Promise<DmDevice> =>
    createDevice(name, partitionUuid(number, device.uuid), path)
  return createNamed(path, { ...request, name }, create)
}

const partitionOf = (
  { node, entry: { number, start, size } }: Created,
  record: MappingRecord,
): Partition => describePartition({ number, path: nodePath(node.name), start, size }, record)

/**
 * The same on a loop device: the kernel has looked for partitions when it was attached. Those are added that it does
 * not find, in a table for sectors of another size or in the backup of a GPT.
 */
export async function addLoopPartitions(loop: Loop, mapping: Mapping): Promise<Made> {
  const { lock, request } = mapping
  if (!request.partitions) return { record: mapping.record, partitions: [] }
  const device = deviceName(loop.device.major, loop.device.minor)
  const { entries, problems } = await readEntries(loop.path, loop.device, request)
  const kernels = new Set((await kernelPartitions(device)).map(({ number }) => number))
  for (const entry of entries) {
    if (kernels.has(entry.number)) continue
    const refusal = await addPartition(loop.path, entry, request)
    if (refusal !== undefined) problems.push(badPartition(loop.path, entry, refusal))
  }
  for (const { name, device: number } of await kernelPartitions(device)) {
    await makeNode(`/dev/${name}`, parseDevice(number))
  }
  const record = {
    ...mapping.record,
    partitions: entries.map(recorded),
    partitionProblems: problems,
  }
  await lock.write(record)
  return { record, partitions: await findLoopPartitions(loop, record) }
}

const recorded = ({
  number,
  start,
  size,
  type,
  uuid,
  name,
}: PartitionEntry): RecordedPartition => ({ number, start, size, type, uuid, name })

/** The partitions in a device's table, as far as there can be devices for them. */
async function readEntries(
  path: string,
  { major, minor }: Pick<DmDevice, 'major' | 'minor'>,
  request: PartitionRequest,
): Promise<{ entries: PartitionEntry[]; problems: Problem[] }> {
  const device = deviceName(major, minor)
  const blockSize = await blockSizeOf(device)
  const { entries, isDamaged } = await readPartitionTable(path, blockSize, request)
  request.signal?.throwIfAborted()
  const disk = { path, size: await deviceSize(device), blockSize }
  const problems: Problem[] = []
  if (isDamaged) problems.push(problem('DMLOOP_BAD_PARTITION', { file: path }, UNREADABLE))
  const good = entries.filter((entry) => {
    const found = judge(entry, disk)
    if (found) problems.push(found)
    return !found
  })
  return { entries: good.map((entry) => deviceOf(entry, blockSize)), problems }
}

/** What the kernel has at most on any disk (DISK_MAX_PARTS, include/linux/genhd.h): an image may claim many. */
const HIGHEST = 255

const UNREADABLE = 'is marked as a disk with a GPT, and util-linux finds no valid one for its size'

function judge(
  entry: PartitionEntry,
  { path, size, blockSize }: { path: string; size: number; blockSize: number },
): Problem | undefined {
  if (entry.number > HIGHEST) return badPartition(path, entry, `has a number above ${HIGHEST}`)
  if (entry.start + entry.size > size) {
    return badPartition(path, entry, `reaches past the end, at ${size}`)
  }
  if (entry.start % blockSize !== 0 || entry.size % blockSize !== 0) {
    return badPartition(path, entry, `is not made of logical blocks of ${blockSize} bytes`)
  }
  return undefined
}

const badPartition = (path: string, entry: PartitionEntry, detail: string): Problem =>
  problem(
    'DMLOOP_BAD_PARTITION',
    { file: path, offset: entry.start, length: entry.size },
    `partition ${entry.number} ${detail}`,
  )

/**
 * Of an extended partition, there is a device for two sectors or one block: enough for a boot loader, and too little
 * for a filesystem over the logical partitions, as with the kernel (block/partitions/msdos.c) and kpartx.
 */
const deviceOf = (entry: PartitionEntry, blockSize: number): PartitionEntry =>
  entry.isExtended
    ? { ...entry, size: Math.min(entry.size, Math.max(2 * SECTOR, blockSize)) }
    : entry
