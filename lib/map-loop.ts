// The walk of mapFile with loop devices in place of segments.
import { constants } from 'node:fs'
import {
  assertDeviceMapper,
  createDevice,
  loadTable,
  removeDevice,
  resumeDevice,
} from './kernel/device-mapper.js'
import { dmloopError, isSystemError, type Problem } from './kernel/errors.js'
import { attachLoop, detachLoop, type BeforeAttach, type Loop } from './kernel/loop.js'
import type { LoopSettings } from './kernel/native.js'
import { OpenPath } from './kernel/path.js'
import type { DeviceNode } from './kernel/udev.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import { createNamed } from './device-name.js'
import type { LockedFiles } from './file-lock.js'
import { readMark } from './guard.js'
import { concatenationTable, LoopDevice, pathOf, type LoopStack } from './loop-device.js'
import { addLoopPartitions, makePartitions } from './make-partitions.js'
import type { MapRequest } from './options.js'
import type { BackingFile } from './plan/backing-file.js'
import { buildLoopPlan } from './plan/build-plan.js'
import { proveContent, withoutExtents } from './plan/content.js'
import { partName, uuidOf } from './plan/names.js'
import { assertUnmapped } from './plan/overlap.js'
import type { Plan } from './plan/plan.js'
import { sliceFiles, type FileSlice, type Range } from './plan/range.js'
import { newId, newRecord, type MappingRecord } from './record.js'
import { Undo } from './undo.js'

/** Maps locked files that have no mapping through loop devices. `fallback` is why not otherwise. */
export async function mapLoop(
  { files, lock }: LockedFiles,
  request: MapRequest,
  fallback: readonly Problem[],
): Promise<LoopDevice> {
  await files.syncAndProbe()
  const plan = buildLoopPlan(files.list, request, fallback)
  plan.assertMappable()
  const range = sliceFiles(files.list, request, request.blockSize)
  const undo = new Undo()
  try {
    undo.onFailure(() => lock.clear())
    const mapping = { files, lock, request, plan, range, undo }
    const { stack, record } =
      range.slices.length === 1 ? await attachSingle(mapping) : await concatenate(mapping)
    // Not before: of two processes at the same time at least one sees the device of the other.
    for (const file of files.list) await assertUnmapped(file)
    await proveContent(withoutExtents(range.slices), pathOf(stack), request)
    const live = { lock, record, request, undo }
    const made = stack.top
      ? await makePartitions(stack.top, live)
      : await addLoopPartitions(stack.loops[0] as Loop, live)
    return new LoopDevice(stack, made.record, plan.size, made.partitions)
  } catch (error) {
    await undo.rollBack(error)
    throw error
  }
}

/** A mapping that is being made. */
interface LoopMapping extends LockedFiles {
  request: MapRequest
  plan: Plan
  range: Range
  undo: Undo
}

const firstPath = ({ files }: LoopMapping): string => files.list[0]?.path ?? ''

const uuidFor = ({ files }: LoopMapping): string => uuidOf(files.list[0]?.identity ?? '')

const recordFor = (
  mapping: LoopMapping,
  node: DeviceNode,
  loops: MappingRecord['loops'],
): MappingRecord => {
  const { files, request, plan, range } = mapping
  return newRecord(newId(), files.list, request, {
    uuid: uuidFor(mapping),
    node,
    length: plan.size,
    // The filesystem takes part in all I/O, and may move the blocks. What it is made for stays: where its head ends.
    guard: request.guard === 'swapfile' ? 'swapfile' : 'none',
    marked: [],
    backend: 'loop',
    blockSize: range.blockSize,
    loops: loops.map(({ number, name }) => ({ number, name })),
    fallback: plan.fallback,
  })
}

/** A mapping that is live, and its record. */
interface LiveLoops {
  stack: LoopStack
  record: MappingRecord
}

/** One loop device is the mapping. Its record is written first, so that a crash leaves no device without one. */
async function attachSingle(mapping: LoopMapping): Promise<LiveLoops> {
  const { lock, request, range, undo } = mapping
  const [slice] = range.slices as [FileSlice]
  const uuid = uuidFor(mapping)
  return await createNamed(firstPath(mapping), request, async (name) => {
    const recordOn = ({ number, device }: Pick<Loop, 'number' | 'device'>): MappingRecord =>
      recordFor(mapping, { name, ...device }, [{ number, name: uuid }])
    let record: MappingRecord | undefined
    const settings = { name: uuid, partitionScan: request.partitions }
    const loop = await attachSlice(mapping, slice, settings, async (free) => {
      record = recordOn(free)
      await lock.write(record)
    })
    undo.onFailure(() => detachLoop(loop, DEFAULT_WAIT))
    return { stack: { loops: [loop], top: undefined }, record: record ?? recordOn(loop) }
  })
}

/** A loop device for each file, and a device that concatenates them. */
async function concatenate(mapping: LoopMapping): Promise<LiveLoops> {
  const { lock, range, request, undo } = mapping
  await assertDeviceMapper()
  const loops: Loop[] = []
  for (const slice of range.slices) {
    const name = partName(slice.file.identity)
    // A partition table is that of the whole, and the kernel would look for it in the first part.
    const settings = { name, partitionScan: false }
    const loop = await attachSlice(mapping, slice, settings, () => Promise.resolve())
    undo.onFailure(() => detachLoop(loop, DEFAULT_WAIT))
    loops.push(loop)
  }
  const file = firstPath(mapping)
  const device = await createNamed(file, request, async (name) => {
    const created = await createDevice(name, uuidFor(mapping), file)
    undo.onFailure(() => removeDevice(created, DEFAULT_WAIT))
    return created
  })
  const { name, major, minor } = device
  const record = recordFor(mapping, { name, major, minor }, loops)
  await lock.write(record)
  await loadTable(device, concatenationTable(loops), request.readOnly)
  const top = await resumeDevice(device, request.timeout, request.udevScan)
  return { stack: { loops, top }, record }
}

/** Attaches a part of a file to a loop device. */
async function attachSlice(
  { range: { blockSize }, request }: LoopMapping,
  { file, offset, length: size }: FileSlice,
  named: Pick<LoopSettings, 'name' | 'partitionScan'>,
  beforeAttach: BeforeAttach,
): Promise<Loop> {
  const { readOnly } = request
  request.signal?.throwIfAborted()
  await using backing = await openBacking(file, readOnly)
  const settings = { offset, size, blockSize, readOnly, directIo: true, ...named }
  return await attachLoop(backing.fd, settings, request, beforeAttach)
}

async function openBacking(file: BackingFile, readOnly: boolean): Promise<OpenPath> {
  const { fd, path } = file
  try {
    // Through the descriptor: the path may be that of another file now.
    const flags = readOnly ? constants.O_RDONLY : constants.O_RDWR
    return await OpenPath.open(`/proc/self/fd/${fd}`, flags)
  } catch (error) {
    if (!isSystemError(error, 'EPERM', 'EROFS', 'ETXTBSY')) throw error
    const guarded = (await readMark(file)) ? ' (it has the guard of a mapping: releaseFile)' : ''
    const detail = `cannot be opened for writing: ${error.message}${guarded}`
    throw dmloopError('DMLOOP_READ_ONLY', { file: path }, detail)
  }
}
