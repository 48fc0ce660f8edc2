import debug from 'debug'
import { BackingFiles, type BackingFile } from './backing-file.js'
import { Claim, newRecord } from './claim.js'
import { proveContent } from './content.js'
import {
  assertDeviceMapper,
  createDevice,
  nameTaken,
  removeDevice,
  resumeDevice,
} from './device-mapper.js'
import { DmloopError } from './errors.js'
import { holdStill, isMarked, letGo } from './guard.js'
import { LinearDevice } from './linear-device.js'
import { mapLoop } from './map-loop.js'
import type { MappedDevice } from './mapped-device.js'
import { deviceNameFor, uuidOf } from './names.js'
import { isNameTaken } from './open-mapping.js'
import { parseMapOptions, UNDO, type MapOptions, type MapRequest } from './options.js'
import { drawPlan, fallsBack } from './plan-file.js'
import { loadProven } from './proof.js'
import { sliceFiles } from './range.js'
import { clearDevices } from './remains.js'
import { nodePath } from './udev.js'
import { Undo } from './undo.js'
import { judgeFile } from './verdict.js'

const log = debug('dmloop:map')

/**
 * Makes a block device of a file (or of several, laid end to end): its I/O goes straight to the
 * file's own blocks, or through a loop device where `backend` says so. When the promise resolves, the
 * device's `path` opens.
 *
 * Rejects with the first problem that blocks as a DmloopError (all of them on `error.problems`), with
 * the system's error when a call fails, with a TypeError or RangeError for a wrong argument, and with
 * the signal's reason when aborted. Then nothing is left behind.
 */
export async function mapFile(
  file: string | string[],
  options?: MapOptions,
): Promise<MappedDevice> {
  const request = parseMapOptions(file, options)
  request.signal?.throwIfAborted()
  if (request.backend === 'linear') await assertDeviceMapper()
  await using files = await BackingFiles.open(request.files)
  const [first] = files.list as [BackingFile]
  const name = deviceNameFor(first.path, request.name)
  await using claim = await Claim.take(
    files.list.map((each) => each.identity),
    request,
  )
  await clearDevices(files.list, claim, request)
  await files.look()
  // The kernel sees to it for device-mapper; a loop device has no name of its own.
  if (await isNameTaken(name)) throw nameTaken(name)
  if (request.backend === 'loop') return await mapLoop(files, claim, name, request, [])
  const undo = new Undo()
  try {
    return await mapLinear(files, claim, name, request, undo)
  } catch (error) {
    if (request.backend === 'linear' || !(error instanceof DmloopError)) throw error
    // Two devices over one file are never the answer.
    if (undo.failed || !fallsBack(error.problems)) throw error
    log('%s: not linear: %s', name, error.message)
    return await mapLoop(files, claim, name, request, error.problems)
  }
}

/** The walk: guard, extents, verdict, device stack, segments, device-mapper, proof. */
async function mapLinear(
  files: BackingFiles,
  claim: Claim,
  name: string,
  request: MapRequest,
  undo: Undo,
): Promise<LinearDevice> {
  const [first] = files.list as [BackingFile]
  if (request.backend === 'auto') await assertDeviceMapper()
  assertInspected(files.list, request)
  try {
    undo.onFailure(() => claim.clear())
    for (const each of files.list) {
      // A guard that is there already may be that of another mapping.
      if (!(await isMarked(each))) undo.onFailure(() => letGo(each))
      await holdStill(each, request.guard)
    }
    request.signal?.throwIfAborted()
    await files.settle()
    const drawn = await drawPlan(files.list, request)
    const { plan } = drawn
    plan.assertMappable()
    request.signal?.throwIfAborted()

    const device = await createDevice(name, uuidOf(first.identity), first.path)
    undo.onFailure(() => removeDevice(device, UNDO))
    const { uuid, major, minor } = device
    const record = newRecord(files.list, request, {
      uuid,
      node: { name, major, minor },
      length: plan.size,
      guard: request.guard,
      backend: 'linear',
      loops: [],
      fallback: [],
    })
    await claim.write(record)
    await loadProven(device, drawn)
    request.signal?.throwIfAborted()
    const live = await resumeDevice(device, request.timeout)
    await proveContent(drawn.parts, nodePath(live.name), request)
    log('%s is %s', record.files, name)
    return new LinearDevice(live, record, plan.size)
  } catch (error) {
    await undo.after(error)
    throw error
  }
}

/** Throws what is wrong with the files as such, before anything is done to them. */
function assertInspected(files: readonly BackingFile[], request: MapRequest): void {
  const { problems } = sliceFiles(files, request)
  problems.push(...files.flatMap((file) => judgeFile(file, request)))
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}
