// The walk of mapFile with a loop device in place of segments.
import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import type { BackingFile, BackingFiles } from './backing-file.js'
import type { Claim, MappingRecord } from './claim.js'
import { compareContent } from './content.js'
import {
  assertDeviceMapper,
  createDevice,
  loadTable,
  nameTaken,
  removeDevice,
  resumeDevice,
} from './device-mapper.js'
import { DmloopError, isSystemError, verdict, type Problem } from './errors.js'
import { createLoop, LOOP_MAJOR, removeLoop, type Loop } from './loop.js'
import { joiningTable, LoopDevice, loopName } from './loop-device.js'
import { uuidOf } from './names.js'
import type { DmDevice } from './native.js'
import { isNameTaken } from './open-mapping.js'
import { type MapRequest, UNDO } from './options.js'
import { planLoop } from './plan-file.js'
import { sliceFiles, type FileSlice, type Range } from './range.js'
import { Undo } from './undo.js'

/**
 * Maps files through loop devices. `fallback` is why not otherwise. The files are claimed, and known not
 * to be mapped.
 */
export async function mapLoop(
  files: BackingFiles,
  claim: Claim,
  name: string,
  request: MapRequest,
  fallback: readonly Problem[],
): Promise<LoopDevice> {
  // A loop device has no name of its own that the kernel would keep from being taken twice.
  if (await isNameTaken(name)) throw nameTaken(name)
  await files.settle()
  const plan = planLoop(files.list, request, fallback)
  plan.assertMappable()
  const range = sliceFiles(files.list, request)
  const uuid = uuidOf(files.list[0]?.identity ?? '')

  const undo = new Undo()
  try {
    undo.onFailure(() => claim.clear())
    const loops: Loop[] = []
    for (const slice of range.slices) {
      request.signal?.throwIfAborted()
      const loop = await showSlice(slice, loopName(uuid, range.slices, slice), range, request)
      undo.onFailure(() => removeLoop(loop, UNDO))
      loops.push(loop)
    }
    const top = loops.length > 1 ? await join(loops, name, uuid, request, undo) : undefined
    const record: MappingRecord = {
      id: randomUUID(),
      uuid,
      node: top ?? { name, major: LOOP_MAJOR, minor: loops[0]?.number ?? 0 },
      files: files.list.map((file) => file.path),
      identities: files.list.map((file) => file.identity),
      offset: request.offset,
      length: plan.size,
      readOnly: request.readOnly,
      holes: request.holes,
      guard: 'none',
      backend: 'loop',
      loops: loops.map(({ number }) => number),
      fallback: plan.fallback,
    }
    await claim.write(record)
    const device = new LoopDevice({ loops, top }, record, plan.size)
    await proveContent(device.path, range, request)
    return device
  } catch (error) {
    const failure = await undo.run()
    if (failure !== undefined && error instanceof Error) error.cause ??= failure
    throw error
  }
}

/** A loop device that shows a part of a file. */
async function showSlice(
  { file, offset, length }: FileSlice,
  name: string,
  { blockSize }: Range,
  { readOnly, partitionScan, ...patience }: MapRequest,
): Promise<Loop> {
  await using backing = await openBacking(file, readOnly)
  const settings = {
    offset,
    size: length,
    blockSize,
    readOnly,
    directIo: true,
    partitionScan,
    name,
  }
  return await createLoop(backing.fd, settings, patience)
}

async function openBacking({ handle, path }: BackingFile, readOnly: boolean): Promise<FileHandle> {
  try {
    // By the descriptor: whatever the path leads to by now, this is the file that was looked at.
    const flags = readOnly ? constants.O_RDONLY : constants.O_RDWR
    return await open(`/proc/self/fd/${handle.fd}`, flags)
  } catch (error) {
    if (!isSystemError(error, 'EPERM', 'EROFS', 'ETXTBSY')) throw error
    const detail = `cannot be opened for writing: ${error.message}`
    throw verdict('DMLOOP_READ_ONLY', { file: path }, detail)
  }
}

/** A device that lays loop devices end to end. */
async function join(
  loops: readonly Loop[],
  name: string,
  uuid: string,
  { readOnly, timeout }: MapRequest,
  undo: Undo,
): Promise<DmDevice> {
  await assertDeviceMapper()
  const device = await createDevice(name, uuid, name)
  undo.onFailure(() => removeDevice(device, UNDO))
  await loadTable(device, joiningTable(loops), readOnly)
  return await resumeDevice(device, timeout)
}

/** Rejects with DMLOOP_CONTENT_MISMATCH when file and device differ where they were compared. */
async function proveContent(path: string, { slices }: Range, request: MapRequest): Promise<void> {
  const { verify: mode, signal, onProgress } = request
  signal?.throwIfAborted()
  if (mode === 'none') return
  const parts = slices.map((slice) => ({ slice, extents: new Float64Array() }))
  const found = await compareContent(parts, path, { mode, signal, onProgress })
  if (found) throw new DmloopError(found)
}
