// The walk of mapFile with a loop device in place of segments.
import { constants } from 'node:fs'
import { assertUnmapped } from './plan/overlap.js'
import type { BackingFile, BackingFiles } from './plan/backing-file.js'
import { newId, newRecord, type Claim, type MappingRecord } from './file-lock.js'
import { proveContent, wholly } from './plan/content.js'
import {
  assertDeviceMapper,
  createDevice,
  loadTable,
  removeDevice,
  resumeDevice,
} from './kernel/device-mapper.js'
import { makeNamed } from './device-name.js'
import { isSystemError, verdict, type Problem } from './kernel/errors.js'
import { markOf } from './guard.js'
import { createLoop, removeLoop, type Announce, type Loop } from './kernel/loop.js'
import { joiningTable, LoopDevice } from './loop-device.js'
import { partOf, uuidOf } from './plan/names.js'
import { type MapRequest, UNDO } from './options.js'
import { OpenPath } from './kernel/path.js'
import { planLoop } from './plan/plan-file.js'
import type { Plan } from './plan/plan.js'
import { sliceFiles, type FileSlice, type Range } from './plan/range.js'
import type { DeviceNode } from './kernel/udev.js'
import { Undo } from './undo.js'

/**
 * Maps files through loop devices. `fallback` is why not otherwise. The files are claimed, and known not
 * to be mapped.
 */
export async function mapLoop(
  files: BackingFiles,
  claim: Claim,
  request: MapRequest,
  fallback: readonly Problem[],
): Promise<LoopDevice> {
  await files.settle()
  const plan = planLoop(files.list, request, fallback)
  plan.assertMappable()
  const range = sliceFiles(files.list, request, request.blockSize)
  const undo = new Undo()
  try {
    undo.onFailure(() => claim.clear())
    const work = { files, claim, request, plan, range, undo }
    const device = range.slices.length === 1 ? await showOne(work) : await showJoined(work)
    // Only now: of two processes at once at least one sees the device of the other.
    for (const file of files.list) await assertUnmapped(file)
    await proveContent(wholly(range.slices), device.path, request)
    return device
  } catch (error) {
    await undo.after(error)
    throw error
  }
}

interface Work {
  files: BackingFiles
  claim: Claim
  request: MapRequest
  plan: Plan
  range: Range
  undo: Undo
}

const firstPath = ({ files }: Work): string => files.list[0]?.path ?? ''

const uuidFor = ({ files }: Work): string => uuidOf(files.list[0]?.identity ?? '')

const recordFor = (work: Work, node: DeviceNode, loops: MappingRecord['loops']): MappingRecord => {
  const { files, request, plan, range } = work
  return newRecord(newId(), files.list, request, {
    uuid: uuidFor(work),
    node,
    length: plan.size,
    // The file's filesystem knows of every write, and moves what it likes.
    guard: 'none',
    marked: [],
    backend: 'loop',
    blockSize: range.blockSize,
    loops: loops.map(({ number, name }) => ({ number, name })),
    fallback: plan.fallback,
  })
}

/** A loop device that is the mapping. The record comes first: what it speaks of, a crash leaves or not. */
async function showOne(work: Work): Promise<LoopDevice> {
  const { claim, request, plan, range, undo } = work
  const [slice] = range.slices as [FileSlice]
  let record: MappingRecord | undefined
  const uuid = uuidFor(work)
  const loop = await makeNamed(firstPath(work), request, async (name) => {
    const made = await showSlice(work, slice, uuid, async ({ number, device }) => {
      record = recordFor(work, { name, ...device }, [{ number, name: uuid }])
      await claim.write(record)
    })
    undo.onFailure(() => removeLoop(made, UNDO))
    return made
  })
  return new LoopDevice({ loops: [loop], top: undefined }, record, plan.size)
}

/** A loop device for each file, and a device that lays them end to end. */
async function showJoined(work: Work): Promise<LoopDevice> {
  const { claim, plan, range, request, undo } = work
  await assertDeviceMapper()
  const loops: Loop[] = []
  for (const slice of range.slices) {
    const loop = await showSlice(work, slice, partOf(slice.file.identity), () => Promise.resolve())
    undo.onFailure(() => removeLoop(loop, UNDO))
    loops.push(loop)
  }
  const file = firstPath(work)
  const device = await makeNamed(file, request, async (name) => {
    const created = await createDevice(name, uuidFor(work), file)
    undo.onFailure(() => removeDevice(created, UNDO))
    return created
  })
  const { name, major, minor } = device
  const record = recordFor(work, { name, major, minor }, loops)
  await claim.write(record)
  await loadTable(device, joiningTable(loops), request.readOnly)
  const top = await resumeDevice(device, request.timeout, request.udevScan)
  return new LoopDevice({ loops, top }, record, plan.size)
}

/** A loop device that shows a part of a file. */
async function showSlice(
  { range: { blockSize }, request }: Work,
  { file, offset, length: size }: FileSlice,
  name: string,
  announce: Announce,
): Promise<Loop> {
  const { readOnly, partitionScan } = request
  request.signal?.throwIfAborted()
  await using backing = await openBacking(file, readOnly)
  const settings = { offset, size, blockSize, readOnly, directIo: true, partitionScan, name }
  return await createLoop(backing.fd, settings, request, announce)
}

async function openBacking(file: BackingFile, readOnly: boolean): Promise<OpenPath> {
  const { fd, path } = file
  try {
    // By the descriptor: whatever the path leads to by now, this is the file that was looked at.
    const flags = readOnly ? constants.O_RDONLY : constants.O_RDWR
    return await OpenPath.open(`/proc/self/fd/${fd}`, flags)
  } catch (error) {
    if (!isSystemError(error, 'EPERM', 'EROFS', 'ETXTBSY')) throw error
    const held = (await markOf(file)) ? ' (the guard of a mapping holds it: releaseFile)' : ''
    const detail = `cannot be opened for writing: ${error.message}${held}`
    throw verdict('DMLOOP_READ_ONLY', { file: path }, detail)
  }
}
