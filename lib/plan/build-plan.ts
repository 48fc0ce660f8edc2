// From open files to a plan: ranges, extents, device stack, verdicts, segments.
import debug from 'debug'
import { exactOrTooLarge, problem, type Problem } from '../kernel/errors.js'
import { inBatches } from '../kernel/batch.js'
import { computed, native, result, type ExtentFacts } from '../kernel/native.js'
import { EXTENT_FLAGS } from '../kernel/policy.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import type { BackingFile } from './backing-file.js'
import { readStack, renumberDevices, type DeviceStack } from './device-stack.js'
import { ExtentTable } from './extents.js'
import type { PlanRequest } from './plan-options.js'
import { Plan, type PlannedFile } from './plan.js'
import { requiredProtections } from './protections.js'
import { sliceFiles, type FileSlice } from './range.js'
import { judgeExtents, judgeFile, judgeWritable } from './verdict.js'

const log = debug('dmloop:plan')

/** The kernel's DM_MAX_TARGETS (drivers/md/dm-ioctl.c). */
export const MAX_SEGMENTS = 1_048_576

export const EXTENT_TOO_FAR = `has an extent that reaches beyond ${Number.MAX_SAFE_INTEGER} bytes`

/** Which part of the files is planned, and for what kind of device. */
export type PlanScope = Pick<PlanRequest, 'offset' | 'length' | 'readOnly' | 'holes' | 'guard'>

/** A plan with the facts that it was built from, so that they can be read again and compared. */
export interface BuiltPlan {
  plan: Plan
  parts: SlicePlan[]
}

/** The plan for a part of one file. */
export interface SlicePlan {
  slice: FileSlice
  /** Of its extents and of the underlying devices. */
  problems: Problem[]
  /** Undefined where a problem of the file itself comes first. */
  facts: ExtentFacts | undefined
  stack: DeviceStack | undefined
}

/** The plan for open files; `judged` is what is known to be wrong with the files themselves. */
export async function buildPlan(
  files: readonly BackingFile[],
  request: PlanScope,
  judged: readonly Problem[] = files.flatMap((file) => judgeFile(file, request)),
): Promise<BuiltPlan> {
  const range = sliceFiles(files, request)
  const parts = []
  for (const slice of range.slices) {
    parts.push(await planSlice(slice, { ...request, blockSize: range.blockSize }))
  }
  const problems = [...range.problems, ...judged, ...parts.flatMap((part) => part.problems)]
  const segments = problems.length > 0 ? new SegmentTable() : await buildSegments(parts, request)
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

/**
 * The plan for a loop device over open files: their addresses do not matter to it. `ownLoops` are the
 * nodes of the loop devices of the mapping that the plan is for, if there is one.
 */
export function buildLoopPlan(
  files: readonly BackingFile[],
  request: PlanScope & { blockSize?: number | undefined; ownLoops?: readonly string[] },
  fallback: readonly Problem[] = [],
): Plan {
  const range = sliceFiles(files, request, request.blockSize)
  const judged = files.flatMap((file) => [
    // Nobody can write to swap space, the loop driver included.
    ...judgeFile(file, { ...request, guard: 'none' }),
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

/** Those that protect a file, the usual one first. */
const GUARDS = ['immutable', 'swapfile'] as const

const plannedFile = (file: BackingFile): PlannedFile => ({
  path: file.path,
  size: file.size,
  filesystem: file.filesystem.name,
  device: file.device,
  blockSize: file.blockSize,
  guard: GUARDS.find((guard) => requiredProtections(file, guard).length > 0) ?? 'none',
})

/** Extents, device stack and verdict of one file. */
async function planSlice(
  slice: FileSlice,
  options: PlanScope & { blockSize: number },
): Promise<SlicePlan> {
  const { file } = slice
  const { path } = file
  const unplanned = (problems: Problem[]): SlicePlan => ({
    slice,
    problems,
    facts: undefined,
    stack: undefined,
  })
  // The addresses of an unknown filesystem mean nothing, so it is not even asked for them.
  if (judgeFile(file, options).length > 0) return unplanned([])

  // FIEMAP may have to read metadata, which waits for as long as a device is suspended. Only device-mapper suspends.
  const mapped = file.isOnMapper ? await readStack(file) : undefined
  if (mapped && 'code' in mapped && mapped.code === 'DMLOOP_DEVICE_BUSY') return unplanned([mapped])
  const [found, facts] = await inBatches(() =>
    Promise.all([mapped ?? readStack(file), walkSlice(slice, options.blockSize)]),
  )
  const problems = judgeExtents(path, facts, options)

  const stack = 'code' in found ? undefined : found
  if ('code' in found) problems.push(found)
  if (stack?.readOnly === true && !options.readOnly) {
    problems.push(problem('DMLOOP_READ_ONLY', { file: path }))
  }
  return { slice, problems, facts, stack }
}

async function walkSlice(
  { file, offset, length }: FileSlice,
  blockSize: number,
): Promise<ExtentFacts> {
  const { fd, path, addressCall } = file
  const walk = native.walkExtents(fd, addressCall, offset, length, blockSize)
  return await result(walk, path).catch((error: unknown) => {
    throw exactOrTooLarge(error, path, EXTENT_TOO_FAR)
  })
}

/** The segments of all parts, end to end. */
async function buildSegments(
  parts: readonly SlicePlan[],
  { holes }: Pick<PlanScope, 'holes'>,
): Promise<SegmentTable> {
  const zeroFlags = holes === 'zero' ? EXTENT_FLAGS.UNWRITTEN.bit : 0
  const devices = [...new Set(parts.flatMap(({ stack }) => stack?.devices ?? []))]
  const fileParts = parts.flatMap(({ slice, facts, stack }) => {
    if (!facts || !stack) return []
    const { offset, length } = slice
    const levels = renumberDevices(stack, devices)
    return [{ ...facts, offset, sectors: length / SECTOR, zeroFlags, levels }]
  })
  const built = await computed(native.buildSegments(fileParts), parts[0]?.slice.file.path)
  return new SegmentTable(
    built,
    built.devices.map((number) => devices[number] as string),
  )
}
