import debug from 'debug'
import { inBatches } from './kernel/batch.js'
import { withDeadline } from './kernel/deadline.js'
import {
  assertDeviceMapper,
  createDevice,
  nameTaken,
  removeDevice,
  resumeDevice,
} from './kernel/device-mapper.js'
import { DmloopError } from './kernel/errors.js'
import { readFilesystemIds } from './kernel/filesystems.js'
import { assertPartitionReader } from './kernel/partition-table.js'
import { nodePath } from './kernel/udev.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import { createNamed, isNameTaken } from './device-name.js'
import { judgeFenceable, raiseFences, settleFences } from './fence.js'
import { openLocked, sweepLocks, type LockedFiles } from './file-lock.js'
import { acquireGuard, readMark, restoreAttributes, whileLeased } from './guard.js'
import { LinearDevice } from './linear-device.js'
import { loadProven } from './load-table.js'
import { makePartitions } from './make-partitions.js'
import { mapLoop } from './map-loop.js'
import type { MappedDevice } from './mapped-device.js'
import { parseMapOptions, type MapOptions, type MapRequest } from './options.js'
import { dropStalePages } from './page-cache.js'
import type { BackingFile, BackingFiles } from './plan/backing-file.js'
import { buildPlan } from './plan/build-plan.js'
import { proveContent } from './plan/content.js'
import { readStack } from './plan/device-stack.js'
import { checkedName, uuidOf } from './plan/names.js'
import { fallsBack } from './plan/plan-file.js'
import { sliceFiles } from './plan/range.js'
import { assertHeads } from './plan/swap-head.js'
import { inspectFiles } from './plan/verdict.js'
import { newId, newRecord } from './record.js'
import { recoverFiles } from './recovery.js'
import { Undo } from './undo.js'

const log = debug('dmloop:map')

/**
 * Makes a block device of a file (or of several, end to end): its I/O goes straight to the file's own
 * blocks, or through a loop device where `backend` says so. When the promise resolves, the device's `path`
 * can be opened.
 *
 * Rejects with the first problem that blocks as a DmloopError (all of them in `error.problems`), with
 * the system's error when a call fails, with a TypeError or RangeError for a wrong argument, and with
 * the signal's reason when aborted. Then nothing is left behind; while the kernel keeps a call (the code is
 * DMLOOP_TIMEOUT then), as soon as that returns.
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
  if (request.partitions) await assertPartitionReader(request)
  const locked = await openLocked(request.files, request)
  await using files = locked.files
  await using _ = locked.lock
  if (request.name !== undefined) checkedName(request.name)
  await sweepLocks()
  await recoverFiles(locked, request)
  await files.probe()
  await assertHeads(files.list, request.guard)
  // Before anything is changed. createNamed makes sure of it.
  if (request.name !== undefined && (await isNameTaken(request.name))) throw nameTaken(request.name)
  if (request.backend === 'loop') return await mapLoop(locked, request, [])
  const undo = new Undo()
  try {
    return await mapLinear(locked, request, undo)
  } catch (error) {
    if (request.backend === 'linear' || !(error instanceof DmloopError)) throw error
    // Never a second device over a file whose first one could not be removed.
    if (undo.failed || !fallsBack(error.problems)) throw error
    log('%s: not linear: %s', request.files[0], error.message)
    return await mapLoop(locked, request, error.problems)
  }
}

/** The walk: guard, extents, verdict, device stack, segments, device-mapper, proof. */
async function mapLinear(
  locked: LockedFiles,
  request: MapRequest,
  undo: Undo,
): Promise<LinearDevice> {
  const { files, lock } = locked
  const [first] = files.list as [BackingFile]
  if (request.backend === 'auto') await assertDeviceMapper()
  await assertInspected(files.list, request)
  const id = newId()
  let live = false
  // swapon(2) only says that it does not take a file. The extents tell why.
  if (request.guard === 'swapfile') await assertPlanned(files, request)
  try {
    undo.onFailure(() => lock.clear())
    const marked = await guardFiles(files.list, id, request, undo, () => live)
    await files.flushJournal()
    await files.syncAndProbe()
    const built = await buildPlan(files.list, request)
    const { plan } = built
    plan.assertMappable()
    request.signal?.throwIfAborted()

    if (request.fence) undo.onFailure(() => settleFences(files.devices, files.list))
    const device = await createNamed(first.path, request, async (name) => {
      const created = await createDevice(name, uuidOf(first.identity), first.path)
      undo.onFailure(() => removeDevice(created, DEFAULT_WAIT))
      return created
    })
    const { name, uuid, major, minor } = device
    const filesystems = await inBatches(() =>
      Promise.all(files.list.map((file) => readFilesystemIds(file.device))),
    )
    const record = newRecord(id, files.list, request, {
      uuid,
      node: { name, major, minor },
      length: plan.size,
      guard: request.guard,
      fence: request.fence,
      marked,
      filesystems,
      backend: 'linear',
      loops: [],
      fallback: [],
    })
    await lock.write(record)
    const resumed = await whileLeased(files.list, request.guard, async () => {
      await loadProven(device, built)
      request.signal?.throwIfAborted()
      live = true
      return await resumeDevice(device, request.timeout, request.udevScan)
    })
    await proveContent(built.parts, nodePath(resumed.name), request)
    const made = await makePartitions(resumed, { lock, record, request, undo })
    if (request.fence) await raiseFences(built)
    log('%s is %s', record.files, name)
    return new LinearDevice(resumed, made.record, plan.size, made.partitions)
  } catch (error) {
    await undo.rollBack(error)
    throw error
  }
}

/** Throws what is wrong with the extents before anything is changed. */
async function assertPlanned(files: BackingFiles, request: MapRequest): Promise<void> {
  await files.syncAndProbe()
  const { plan } = await buildPlan(files.list, request)
  plan.assertMappable()
}

/**
 * Acquires the guard of each file. Returns the identities of those that bear a mark. If the mapping fails, the
 * guards are released, after the cached pages if the device was live and so may have been written to.
 */
async function guardFiles(
  files: readonly BackingFile[],
  id: string,
  { guard, offset, signal }: MapRequest,
  undo: Undo,
  wasLive: () => boolean,
): Promise<string[]> {
  const marked: string[] = []
  for (const [index, file] of files.entries()) {
    // A guard that is there already may be that of another mapping.
    const guarded = await readMark(file)
    undo.onFailure(async () => {
      if (wasLive()) await dropStalePages(file)
      if (!guarded) await restoreAttributes(file)
    })
    const first = index === 0 ? undefined : files[0]?.identity
    const next = files[index + 1]?.identity
    if (await acquireGuard(file, guard, { id, offset, first, next })) marked.push(file.identity)
  }
  signal?.throwIfAborted()
  return marked
}

/**
 * Throws what is wrong with the files themselves before anything is changed; and that an underlying device is
 * about to change, for changes to the files would wait for as long as one is suspended.
 */
async function assertInspected(files: readonly BackingFile[], request: MapRequest): Promise<void> {
  const { problems } = sliceFiles(files, request)
  problems.push(...inspectFiles(files, request))
  if (request.fence) problems.push(...(await judgeFenceable(files)))
  for (const file of problems.length === 0 ? files : []) {
    const found = await readStack(file)
    if ('code' in found && found.code === 'DMLOOP_DEVICE_BUSY') problems.push(found)
  }
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}
