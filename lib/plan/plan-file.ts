import { withDeadline } from '../kernel/deadline.js'
import { assertDeviceMapper } from '../kernel/device-mapper.js'
import { DmloopError, type Problem } from '../kernel/errors.js'
import { SegmentTable } from '../kernel/segments.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { BackingFiles, type BackingFile } from './backing-file.js'
import { buildLoopPlan, buildPlan } from './build-plan.js'
import { ExtentTable } from './extents.js'
import { assertBlocksUnmapped, assertNoDevice, assertUnmapped } from './overlap.js'
import { parsePlanOptions, type PlanOptions, type PlanRequest } from './plan-options.js'
import { Plan } from './plan.js'
import { sliceFiles } from './range.js'
import { judgeHeads } from './swap-head.js'
import { inspectFiles } from './verdict.js'

/**
 * Plans the mapping of a file (or of several files, end to end) and changes nothing. Nothing is synced:
 * data that has no place on the disk yet is a problem of the plan, which mapFile solves by syncing first.
 *
 * What prevents the mapping is listed in `problems` rather than thrown. Rejects with the system's error
 * when the file cannot be opened for reading, with a TypeError or RangeError for a wrong argument, and with
 * DMLOOP_TIMEOUT when a kernel call does not return for ten seconds.
 */
export async function planFile(file: string | string[], options?: PlanOptions): Promise<Plan> {
  const request = parsePlanOptions(file, options)
  return await withDeadline(DEFAULT_WAIT, () => makePlan(request))
}

async function makePlan(request: PlanRequest): Promise<Plan> {
  try {
    await using files = await BackingFiles.open(request.files, DEFAULT_WAIT)
    const heads = await judgeHeads(files.list, request.guard)
    const judged = [...heads, ...inspectFiles(files.list, request)]
    const built =
      request.backend === 'loop' ? undefined : await buildPlan(files.list, request, judged)
    if (built && (request.backend === 'linear' || !fallsBack(built.plan.problems))) {
      return await withMappings(built.plan, files.list, () => assertBlocksUnmapped(built, ''))
    }
    const plan = await planLoopDevices(files.list, request, built?.plan.problems)
    return await withMappings(plan, files.list, async () => {
      for (const file of files.list) await assertUnmapped(file)
    })
  } catch (error) {
    if (!(error instanceof DmloopError)) throw error
    return emptyPlan(error.problems, request)
  }
}

/** The plan for a file of which nothing but its problems can be told. */
const emptyPlan = (problems: readonly Problem[], { readOnly, backend }: PlanRequest): Plan =>
  new Plan({
    problems: [...problems],
    size: 0,
    tailBytes: 0,
    readOnly,
    files: [],
    extents: new ExtentTable(),
    segments: new SegmentTable(),
    backend: backend === 'loop' ? 'loop' : 'linear',
    fallback: [],
  })

/** Adds to a plan that files are already mapped, as far as this process may ask. */
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

/** Whether these problems rule out a linear device, but not a loop device. */
export const fallsBack = (problems: readonly Problem[]): boolean =>
  problems.length > 0 && problems.every(({ blocks }) => blocks === 'linear')

/** The plan for loop devices, which device-mapper joins if there are several. */
async function planLoopDevices(
  files: readonly BackingFile[],
  request: PlanRequest,
  fallback: readonly Problem[] = [],
): Promise<Plan> {
  const plan = buildLoopPlan(files, request, fallback)
  if (sliceFiles(files, request, request.blockSize).slices.length > 1) {
    await assertDeviceMapper().catch((error: unknown) => {
      if (!(error instanceof DmloopError)) throw error
      plan.problems.push(...error.problems)
    })
  }
  return plan
}
