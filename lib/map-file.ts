import debug from 'debug'
import type { BackingFile, BackingFiles } from './plan/backing-file.js'
import { newId, newRecord, openClaimed, type Claim } from './file-lock.js'
import { proveContent } from './plan/content.js'
import { withDeadline } from './kernel/deadline.js'
import {
  assertDeviceMapper,
  createDevice,
  nameTaken,
  removeDevice,
  resumeDevice,
} from './kernel/device-mapper.js'
import { readStack } from './plan/device-stack.js'
import { isNameTaken, makeNamed } from './device-name.js'
import { DmloopError, isSystemError } from './kernel/errors.js'
import { holdStill, markOf, takeHoldsOff, whileHeld, type Holder } from './guard.js'
import { LinearDevice } from './linear-device.js'
import { mapLoop } from './map-loop.js'
import type { MappedDevice } from './mapped-device.js'
import { checkedName, uuidOf } from './plan/names.js'
import { expelStalePages } from './page-cache.js'
import { parseMapOptions, UNDO, type MapOptions, type MapRequest } from './options.js'
import { drawPlan, fallsBack } from './plan/plan-file.js'
import { loadProven } from './load-table.js'
import { sliceFiles } from './plan/range.js'
import { clearDevices } from './recovery.js'
import { nodePath } from './kernel/udev.js'
import { Undo } from './undo.js'
import { inspectFiles, unguardableMount } from './plan/verdict.js'

const log = debug('dmloop:map')

/**
 * Makes a block device of a file (or of several, laid end to end): its I/O goes straight to the
 * file's own blocks, or through a loop device where `backend` says so. When the promise resolves, the
 * device's `path` opens.
 *
 * Rejects with the first problem that blocks as a DmloopError (all of them on `error.problems`), with
 * the system's error when a call fails, with a TypeError or RangeError for a wrong argument, and with
 * the signal's reason when aborted. Then nothing is left behind; while the kernel keeps a call (then the code
 * is DMLOOP_TIMEOUT), as soon as it gives it back.
 */
export async function mapFile(
  file: string | string[],
  options?: MapOptions,
): Promise<MappedDevice> {
  const request = parseMapOptions(file, options)
  request.signal?.throwIfAborted()
  return await withDeadline(
    request,
    (signal) => map({ ...request, signal }),
    (device) => device.unmap(),
  )
}

async function map(request: MapRequest): Promise<MappedDevice> {
  if (request.backend === 'linear') await assertDeviceMapper()
  const opened = await openClaimed(request.files, request)
  await using files = opened.files
  await using claim = opened.claim
  const [first] = files.list as [BackingFile]
  if (request.name !== undefined) checkedName(request.name)
  await clearDevices(files.list, claim, request).catch((error: unknown) => {
    // A guard that a crash has left cannot be taken off through a read-only mount.
    throw isSystemError(error, 'EROFS') ? new DmloopError(unguardableMount(error.path)) : error
  })
  await files.look()
  // Before anything is done; that it stays free is seen to when the name is given.
  if (request.name !== undefined && (await isNameTaken(request.name))) throw nameTaken(request.name)
  if (request.backend === 'loop') return await mapLoop(files, claim, request, [])
  const undo = new Undo()
  try {
    return await mapLinear(files, claim, request, undo)
  } catch (error) {
    if (request.backend === 'linear' || !(error instanceof DmloopError)) throw error
    // Two devices over one file are never the answer.
    if (undo.failed || !fallsBack(error.problems)) throw error
    log('%s: not linear: %s', first.path, error.message)
    return await mapLoop(files, claim, request, error.problems)
  }
}

/** The walk: guard, extents, verdict, device stack, segments, device-mapper, proof. */
async function mapLinear(
  files: BackingFiles,
  claim: Claim,
  request: MapRequest,
  undo: Undo,
): Promise<LinearDevice> {
  const [first] = files.list as [BackingFile]
  if (request.backend === 'auto') await assertDeviceMapper()
  await assertInspected(files.list, request)
  const id = newId()
  const marked: string[] = []
  let live = false
  try {
    undo.onFailure(() => claim.clear())
    for (const [index, each] of files.list.entries()) {
      // A guard that is there already may be that of another mapping.
      const taken = await markOf(each)
      undo.onFailure(async () => {
        if (live) await expelStalePages(each)
        if (!taken) await takeHoldsOff(each)
      })
      const holder = holderOf(id, request, files.list, index)
      if (await holdStill(each, request.guard, holder)) marked.push(each.identity)
    }
    request.signal?.throwIfAborted()
    await files.settle()
    const drawn = await drawPlan(files.list, request)
    const { plan } = drawn
    plan.assertMappable()
    request.signal?.throwIfAborted()

    const device = await makeNamed(first.path, request, async (name) => {
      const created = await createDevice(name, uuidOf(first.identity), first.path)
      undo.onFailure(() => removeDevice(created, UNDO))
      return created
    })
    const { name, uuid, major, minor } = device
    const record = newRecord(id, files.list, request, {
      uuid,
      node: { name, major, minor },
      length: plan.size,
      guard: request.guard,
      marked,
      backend: 'linear',
      loops: [],
      fallback: [],
    })
    await claim.write(record)
    const resumed = await whileHeld(files.list, request.guard, async () => {
      await loadProven(device, drawn)
      request.signal?.throwIfAborted()
      live = true
      return await resumeDevice(device, request.timeout, request.udevScan)
    })
    await proveContent(drawn.parts, nodePath(resumed.name), request)
    log('%s is %s', record.files, name)
    return new LinearDevice(resumed, record, plan.size)
  } catch (error) {
    await undo.after(error)
    throw error
  }
}

/** What the mark of one of the files says of the mapping. */
const holderOf = (
  id: string,
  { offset }: MapRequest,
  files: readonly BackingFile[],
  index: number,
): Holder => ({
  id,
  offset,
  first: index === 0 ? undefined : files[0]?.identity,
  next: files[index + 1]?.identity,
})

/**
 * Throws what is wrong with the files as such, before anything is done to them; and that a device beneath
 * is about to change, because as long as one is suspended whatever is done to a file waits.
 */
async function assertInspected(files: readonly BackingFile[], request: MapRequest): Promise<void> {
  const { problems } = sliceFiles(files, request)
  problems.push(...inspectFiles(files, request))
  for (const file of problems.length === 0 ? files : []) {
    const found = await readStack(file)
    if ('code' in found && found.code === 'DMLOOP_DEVICE_BUSY') problems.push(found)
  }
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}
