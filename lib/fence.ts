// The fence: while a file is mapped with one, the wrapper that its filesystem is mounted on gives errors for the
// file's blocks, so that not even the filesystem reads or writes them. It is in the wrapper's table and nowhere else;
// what of it no mapping needs any more, any later call takes away.
import { isDeepStrictEqual } from 'node:util'
import debug from 'debug'
import {
  clearTable,
  findDevice,
  hasWaitingTable,
  isReadOnly,
  isSuspended,
  loadTable,
  readTable,
  resumeDevice,
} from './kernel/device-mapper.js'
import { DmloopError, dmloopError, isSystemError, problem, type Problem } from './kernel/errors.js'
import { native, result, type DmDevice } from './kernel/native.js'
import { EXTENT_FLAGS } from './kernel/policy.js'
import { SECTOR } from './kernel/segments.js'
import { mapperUuid, parseDevice } from './kernel/sysfs.js'
import { DEFAULT_TIMEOUT, DEFAULT_WAIT, NO_WAIT, type WaitLimit } from './kernel/wait.js'
import { FileLock, lockWrapped } from './file-lock.js'
import type { BackingFile } from './plan/backing-file.js'
import { MAX_SEGMENTS, type BuiltPlan } from './plan/build-plan.js'
import { mappedRuns } from './plan/mapped-runs.js'
import { wrappedBy } from './plan/names.js'
import {
  fenceOf,
  mergeRuns,
  sectorsOf,
  subtractRuns,
  wrapperTable,
  type SectorRun,
} from './plan/wrapper-table.js'

const log = debug('dmloop:fence')

/** What keeps files from having a fence. */
export async function judgeFenceable(files: readonly BackingFile[]): Promise<Problem[]> {
  const problems: Problem[] = []
  for (const { path, device } of files) {
    if (wrappedBy((await mapperUuid(device)) ?? '') !== undefined) continue
    problems.push(problem('DMLOOP_UNFENCED', { file: path }))
  }
  return problems
}

/** Has the wrappers of a plan's filesystems give errors for its blocks. */
export async function raiseFences(built: BuiltPlan): Promise<void> {
  for (const [device, runs] of runsOf(built)) await raiseFence(device, runs)
}

/** Has a wrapper give errors for some of its sectors too. Rejects with DMLOOP_UNFENCED for another device. */
export async function raiseFence(device: string, runs: readonly SectorRun[]): Promise<void> {
  const raised = await changeFence(device, (fence) => mergeRuns([...fence, ...runs]))
  if (!raised)
    throw dmloopError('DMLOOP_UNFENCED', {}, `${device} is not a wrapper, or was changed`)
}

/** Whether all of a plan's blocks are fenced off. */
async function areFenced(built: BuiltPlan): Promise<boolean> {
  const fences = new Map<string, SectorRun[]>()
  for (const { slice } of built.parts) {
    const wrapper = await findWrapper(slice.file.device)
    // Most devices have no fence, and a plan may have a million extents.
    if (!wrapper || wrapper.targetCount <= 1) return false
    fences.set(slice.file.device, fenceOf(await readTable(wrapper)) ?? [])
  }
  return [...runsOf(built)].every(
    ([device, runs]) => subtractRuns(runs, fences.get(device) ?? []).length === 0,
  )
}

/** One process at a time takes the fence of a mapping away to read its files. */
const lockFence = ({ parts: [first] }: BuiltPlan, limit: WaitLimit): Promise<FileLock> =>
  FileLock.take([`fence-${first?.slice.file.identity ?? ''}`], limit)

/** Whether a mapping still has the fence that it was made with. */
export async function judgeFence(built: BuiltPlan): Promise<Problem[]> {
  if (await areFenced(built)) return []
  try {
    await using _ = await lockFence(built, NO_WAIT)
    if (await areFenced(built)) return []
  } catch (error) {
    // Another process reads the files just now.
    if (error instanceof DmloopError && error.code === 'DMLOOP_TIMEOUT') return []
    throw error
  }
  const detail = 'is no longer fenced off: somebody has changed the table of the wrapper'
  return [problem('DMLOOP_UNFENCED', { file: built.parts[0]?.slice.file.path }, detail)]
}

/**
 * Runs a step that reads the files of a mapping; a fence is taken away meanwhile. `made` says whether the mapping was
 * made with one, where that is known.
 */
export async function whileReadable<T>(
  built: BuiltPlan,
  made: boolean | undefined,
  step: () => Promise<T>,
): Promise<T> {
  if (!(made ?? (await areFenced(built)))) return await step()
  await using _ = await lockFence(built, DEFAULT_WAIT)
  const fences = runsOf(built)
  try {
    for (const [device, runs] of fences) {
      await changeFence(device, (fence) => subtractRuns(fence, runs))
    }
    return await step()
  } finally {
    for (const [device, runs] of fences) {
      // Unless it was unmapped meanwhile.
      await changeFence(device, async (fence) =>
        mergeRuns([...fence, ...(await mappedRuns(device, runs))]),
      )
    }
  }
}

/**
 * Takes away what no mapping needs of the fences on some devices ("major:minor"), of which wrappers alone have any,
 * and a table that a killed process has not made live. `files` are those of the mapping that is gone: what was
 * written to them through their filesystem fails while the fence is still there.
 */
export async function settleFences(
  devices: Iterable<string>,
  files: readonly BackingFile[],
): Promise<void> {
  for (const device of new Set(devices)) {
    const wrapper = await findWrapper(device)
    if (!wrapper || (wrapper.targetCount <= 1 && !hasWaitingTable(wrapper))) continue
    for (const file of files) if (file.device === device) await failWrites(file)
    await changeFence(device, (fence) => mappedRuns(device, fence))
  }
}

/** Has pages of a file that somebody has written to under the fence written out, which fails. */
async function failWrites({ fd, path }: BackingFile): Promise<void> {
  await result(native.sync(fd), path).catch((error: unknown) => {
    if (!isSystemError(error, 'EIO')) throw error
    log('%s: %o', path, error)
  })
}

/** The sectors of a plan on the devices of its filesystems. */
function runsOf({ parts }: BuiltPlan): Map<string, SectorRun[]> {
  const found = new Map<string, SectorRun[]>()
  for (const { slice, facts } of parts) {
    if (!facts) continue
    const rows = native.extentRows(facts.extents, 0, facts.count)
    const runs = found.get(slice.file.device) ?? []
    for (let row = 0; row < rows.length; row += 4) {
      const [, physical = 0, length = 0, flags = 0] = rows.subarray(row, row + 4)
      // What reads as zeros is not mapped.
      if ((flags & EXTENT_FLAGS.UNWRITTEN.bit) !== 0) continue
      runs.push({ start: physical / SECTOR, length: length / SECTOR })
    }
    found.set(slice.file.device, runs)
  }
  return new Map([...found].map(([device, runs]) => [device, mergeRuns(runs)]))
}

async function findWrapper(device: string): Promise<DmDevice | undefined> {
  const found = await findDevice(parseDevice(device))
  return found && wrappedBy(found.uuid) !== undefined ? found : undefined
}

/**
 * Changes the fence of a wrapper in one step, between two requests of its filesystem. Returns whether the device is a
 * wrapper whose table is known.
 */
async function changeFence(
  device: string,
  change: (fence: SectorRun[]) => SectorRun[] | Promise<SectorRun[]>,
): Promise<boolean> {
  const unlocked = await findWrapper(device)
  const wrapped = wrappedBy(unlocked?.uuid ?? '')
  if (wrapped === undefined) return false
  await using _ = await lockWrapped(wrapped)
  const wrapper = await findWrapper(device)
  if (!wrapper) return false
  // Because of the lock no process is about to make it live.
  if (hasWaitingTable(wrapper)) await clearTable(wrapper)
  // To resume it is up to whoever has suspended it.
  if (isSuspended(wrapper))
    throw dmloopError('DMLOOP_DEVICE_BUSY', {}, `"${wrapper.name}" is suspended`)
  const table = await readTable(wrapper)
  const fence = fenceOf(table)
  if (!fence) return false
  const changed = await change(fence)
  if (isDeepStrictEqual(fence, changed)) return true
  const exchanged = wrapperTable(wrapped, sectorsOf(table), changed)
  if (exchanged.length > MAX_SEGMENTS) {
    const detail = `the fence of "${wrapper.name}" takes ${exchanged.length} segments, and a table has at most ${MAX_SEGMENTS}`
    throw dmloopError('DMLOOP_TOO_MANY_SEGMENTS', {}, detail)
  }
  await loadTable(wrapper, exchanged, isReadOnly(wrapper))
  try {
    // No record says how the wrapper was made; udev's database does.
    await resumeDevice(wrapper, DEFAULT_TIMEOUT, undefined)
  } catch (error) {
    await clearTable(wrapper).catch((failure: unknown) => log('clearing: %o', failure))
    throw error
  }
  log('%s: %d runs are fenced off', wrapper.name, changed.length)
  return true
}
