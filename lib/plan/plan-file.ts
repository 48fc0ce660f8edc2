import debug from 'debug'
import { assertBlocksFree, assertNoDevice, assertUnmapped } from './overlap.js'
import { BackingFiles, type BackingFile } from './backing-file.js'
import { withDeadline } from '../kernel/deadline.js'
import { assertDeviceMapper } from '../kernel/device-mapper.js'
import { levelsOver, readStack, sameStack, type DeviceStack } from './device-stack.js'
import { DmloopError, exactOrTooLarge, problem, verdict, type Problem } from '../kernel/errors.js'
import { ExtentTable } from './extents.js'
import { needed } from '../guard.js'
import { computed, native, result, type ExtentFacts } from '../kernel/native.js'
import { parsePlanOptions, PATIENCE, type PlanOptions, type PlanRequest } from '../options.js'
import { Plan, type PlannedFile } from './plan.js'
import { EXTENT_FLAGS } from '../kernel/policy.js'
import { sliceFiles, type FileSlice } from './range.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import { inspectFiles, judgeExtents, judgeFile, judgeWritable } from './verdict.js'

const log = debug('dmloop:plan')

/** The kernel's DM_MAX_TARGETS (drivers/md/dm-ioctl.c). */
const MAX_SEGMENTS = 1_048_576

const TOO_FAR = `has an extent that reaches beyond ${Number.MAX_SAFE_INTEGER} bytes`

/**
 * Looks at what mapping a file (or several, laid end to end) would do, and changes nothing: nothing
 * is synced, so data that has no place on the disk yet is a problem of the plan, which mapFile solves
 * by syncing first.
 *
 * What stands in the way is listed in `problems` rather than thrown. Rejects with the system's error
 * when the file cannot be opened for reading, with a TypeError or RangeError for a wrong argument, and with
 * DMLOOP_TIMEOUT when the kernel does not answer for ten seconds.
 */
export async function planFile(file: string | string[], options?: PlanOptions): Promise<Plan> {
  const request = parsePlanOptions(file, options)
  return await withDeadline(PATIENCE, () => draw(request))
}

async function draw(request: PlanRequest): Promise<Plan> {
  try {
    await using files = await BackingFiles.open(request.files)
    const judged = inspectFiles(files.list, request)
    const drawn =
      request.backend === 'loop' ? undefined : await drawPlan(files.list, request, judged)
    if (drawn && (request.backend === 'linear' || !fallsBack(drawn.plan.problems))) {
      return await withMappings(drawn.plan, files.list, () => assertBlocksFree(drawn, ''))
    }
    const plan = await planLoops(files.list, request, drawn?.plan.problems)
    return await withMappings(plan, files.list, async () => {
      for (const file of files.list) await assertUnmapped(file)
    })
  } catch (error) {
    if (!(error instanceof DmloopError)) throw error
    return new Plan({
      problems: [...error.problems],
      size: 0,
      tailBytes: 0,
      readOnly: request.readOnly,
      files: [],
      extents: new ExtentTable(),
      segments: new SegmentTable(),
      backend: request.backend === 'loop' ? 'loop' : 'linear',
      fallback: [],
    })
  }
}

/** A plan with the problem that files are mapped already, as far as this process may ask. */
async function withMappings(
  plan: Plan,
  files: readonly BackingFile[],
  assertFree: () => Promise<void>,
): Promise<Plan> {
  if (plan.problems.length > 0) return plan
  try {
    for (const file of files) await assertNoDevice(file)
    await assertFree()
  } catch (error) {
    if (!(error instanceof DmloopError)) throw error
    if (error.code !== 'DMLOOP_NO_DEVICE_MAPPER') plan.problems.push(...error.problems)
  }
  return plan
}

/** Whether these problems stand in the way of a linear device, and not of a loop device. */
export const fallsBack = (problems: readonly Problem[]): boolean =>
  problems.length > 0 && problems.every(({ blocks }) => blocks === 'linear')

/** The plan for loop devices, with what joins them if there are several. */
async function planLoops(
  files: readonly BackingFile[],
  request: PlanRequest,
  fallback: readonly Problem[] = [],
): Promise<Plan> {
  const plan = planLoop(files, request, fallback)
  if (sliceFiles(files, request, request.blockSize).slices.length > 1) {
    await assertDeviceMapper().catch((error: unknown) => {
      if (!(error instanceof DmloopError)) throw error
      plan.problems.push(...error.problems)
    })
  }
  return plan
}

/** The plan for a loop device over files that are open already: addresses do not matter to it. */
export function planLoop(
  files: readonly BackingFile[],
  request: PlanBasis & { blockSize?: number | undefined },
  fallback: readonly Problem[] = [],
): Plan {
  const range = sliceFiles(files, request, request.blockSize)
  const judged = files.flatMap((file) => [
    ...judgeFile(file, request),
    ...judgeWritable(file, request),
  ])
  return new Plan({
    problems: [...range.problems, ...judged].filter(({ blocks }) => blocks === 'all'),
    size: range.size,
    tailBytes: range.tailBytes,
    readOnly: request.readOnly,
    files: files.map(plannedFile),
    extents: new ExtentTable(),
    segments: new SegmentTable(),
    backend: 'loop',
    fallback: [...fallback],
  })
}

/** What of the files is planned, and for which kind of device. */
export type PlanBasis = Pick<PlanRequest, 'offset' | 'length' | 'readOnly' | 'holes'>

/** A plan with what it rests on, which proveUnchanged looks at again. */
export interface DrawnPlan {
  plan: Plan
  parts: SlicePlan[]
}

/** The plan for files that are open already; `judged` is what is known to be wrong with them. */
export async function drawPlan(
  files: readonly BackingFile[],
  request: PlanBasis,
  judged: readonly Problem[] = files.flatMap((file) => judgeFile(file, request)),
): Promise<DrawnPlan> {
  const range = sliceFiles(files, request)
  const parts = []
  for (const slice of range.slices) {
    parts.push(await planSlice(slice, { ...request, blockSize: range.blockSize }))
  }
  const problems = [...range.problems, ...judged, ...parts.flatMap((part) => part.problems)]
  const segments = problems.length > 0 ? new SegmentTable() : await layOut(parts, request)
  if (segments.length > MAX_SEGMENTS) {
    const detail = `is in ${segments.length} pieces, and a table has at most ${MAX_SEGMENTS}`
    problems.push(problem('DMLOOP_TOO_MANY_SEGMENTS', { file: files[0]?.path }, detail))
  }
  log('%d segments, %d problems', segments.length, problems.length)
  const plan = new Plan({
    problems,
    size: range.size,
    tailBytes: range.tailBytes,
    readOnly: request.readOnly,
    files: files.map(plannedFile),
    extents: new ExtentTable(
      parts.flatMap(({ facts, slice }) => (facts ? [{ ...facts, ...slice }] : [])),
    ),
    segments,
    backend: 'linear',
    fallback: [],
  })
  return { plan, parts }
}

const plannedFile = (file: BackingFile): PlannedFile => ({
  path: file.path,
  size: file.size,
  filesystem: file.filesystem.name,
  device: file.device,
  blockSize: file.blockSize,
  guard: needed(file, 'immutable').includes('immutable') ? 'immutable' : 'none',
})

/** The plan for a part of one file. */
export interface SlicePlan {
  slice: FileSlice
  /** Of its extents and of the devices beneath. */
  problems: Problem[]
  /** Undefined where a problem of the file's own stands in the way. */
  facts: ExtentFacts | undefined
  stack: DeviceStack | undefined
}

/** Extents, device stack and verdict of one file. */
async function planSlice(
  slice: FileSlice,
  options: PlanBasis & { blockSize: number },
): Promise<SlicePlan> {
  const { file, offset, length } = slice
  // Where the filesystem is not known, neither are its answers: they are not even asked for.
  if (judgeFile(file, options).length > 0) {
    return { slice, problems: [], facts: undefined, stack: undefined }
  }

  const found = await readStack(file)
  // What the filesystem would have to read for its answer may wait for as long as a device is suspended.
  if ('code' in found && found.code === 'DMLOOP_DEVICE_BUSY') {
    return { slice, problems: [found], facts: undefined, stack: undefined }
  }

  const { fd, path, addressCall } = file
  const walk = native.walkExtents(fd, addressCall, offset, length, options.blockSize)
  const facts = await result(walk, path).catch((error: unknown) => {
    throw exactOrTooLarge(error, path, TOO_FAR)
  })
  const problems = judgeExtents(path, facts, options)

  const stack = 'code' in found ? undefined : found
  if ('code' in found) problems.push(found)
  if (stack?.readOnly === true && !options.readOnly) {
    problems.push(problem('DMLOOP_READ_ONLY', { file: path }))
  }
  return { slice, problems, facts, stack }
}

/** The segments of all parts, laid end to end. */
async function layOut(
  parts: readonly SlicePlan[],
  { holes }: Pick<PlanBasis, 'holes'>,
): Promise<SegmentTable> {
  const zeroFlags = holes === 'zero' ? EXTENT_FLAGS.UNWRITTEN.bit : 0
  const devices = [...new Set(parts.flatMap(({ stack }) => stack?.devices ?? []))]
  const laid = parts.flatMap(({ slice, facts, stack }) => {
    if (!facts || !stack) return []
    const { offset, length } = slice
    const levels = levelsOver(stack, devices)
    return [{ ...facts, offset, sectors: length / SECTOR, zeroFlags, levels }]
  })
  const layout = await computed(native.layOut(laid), parts[0]?.slice.file.path)
  return new SegmentTable(
    layout,
    layout.devices.map((number) => devices[number] as string),
  )
}

/**
 * The file may have changed between the reading of its extents and now: they are read again, and the
 * devices beneath are looked at again. Rejects with DMLOOP_FILE_CHANGED unless all is as it was.
 */
export async function proveUnchanged({ parts }: DrawnPlan): Promise<void> {
  for (const { slice, facts, stack } of parts) {
    const { file, offset, length } = slice
    if (!facts) continue
    const again = await readStack(file)
    if ('code' in again) throw new DmloopError(again)
    if (!stack || !sameStack(stack, again)) {
      const detail = 'the devices beneath changed while it was being mapped'
      throw verdict('DMLOOP_FILE_CHANGED', { file: file.path }, detail)
    }
    const moved = await result(
      native.findMovedByte(file.fd, file.addressCall, offset, length, facts.extents),
      file.path,
    ).catch((error: unknown) => {
      throw exactOrTooLarge(error, file.path, TOO_FAR)
    })
    if (moved >= 0) {
      const range = { file: file.path, offset: moved, length: file.blockSize }
      throw verdict('DMLOOP_FILE_CHANGED', range, 'changed while it was being mapped')
    }
  }
}
