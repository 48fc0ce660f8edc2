import debug from 'debug'
import { BackingFiles, type BackingFile } from './backing-file.js'
import { takeDown } from './device-stack.js'
import { DmloopError, problem, verdict, type Problem } from './errors.js'
import { ExtentTable } from './extents.js'
import { native, result } from './native.js'
import { parsePlanOptions, type PlanOptions, type PlanRequest } from './options.js'
import { Plan, type PlannedFile } from './plan.js'
import { EXTENT_FLAGS } from './policy.js'
import { sliceFiles, type FileSlice } from './range.js'
import { SECTOR, SegmentTable } from './segments.js'
import { judgeExtents, judgeFile } from './verdict.js'

const log = debug('dmloop:plan')

/** The kernel's DM_MAX_TARGETS (drivers/md/dm-ioctl.c). */
const MAX_SEGMENTS = 1_048_576

/**
 * Looks at what mapping a file (or several, laid end to end) would do, and changes nothing: nothing
 * is synced, so data that has no place on the disk yet is a problem of the plan, which mapFile solves
 * by syncing first.
 *
 * What stands in the way is listed in `problems` rather than thrown. Rejects with the system's error
 * when the file cannot be opened for reading, and with a TypeError or RangeError for a wrong argument.
 */
export async function planFile(file: string | string[], options?: PlanOptions): Promise<Plan> {
  const request = parsePlanOptions(file, options)
  try {
    await using files = await BackingFiles.open(request.files)
    return await planBackingFiles(files.list, request)
  } catch (error) {
    if (!(error instanceof DmloopError)) throw error
    return new Plan({
      problems: [...error.problems],
      size: 0,
      readOnly: request.readOnly,
      files: [],
      extents: new ExtentTable(),
      segments: new SegmentTable(),
    })
  }
}

/** What of the files is planned, and for which kind of device. */
type PlanBasis = Pick<PlanRequest, 'offset' | 'length' | 'readOnly' | 'holes'>

/** The plan for files that are open already. */
export async function planBackingFiles(
  files: readonly BackingFile[],
  request: PlanBasis,
): Promise<Plan> {
  const range = sliceFiles(files, request)
  const parts = []
  for (const slice of range.slices) {
    parts.push(await planSlice(slice, { holes: request.holes, blockSize: range.blockSize }))
  }
  const problems = [...range.problems, ...parts.flatMap((part) => part.problems)]
  const segments =
    problems.length > 0
      ? new SegmentTable()
      : SegmentTable.concat(parts.map((part) => part.segments))
  if (segments.length > MAX_SEGMENTS) {
    const detail = `is in ${segments.length} pieces, and a table has at most ${MAX_SEGMENTS}`
    problems.push(problem('DMLOOP_TOO_MANY_SEGMENTS', { file: files[0]?.path }, detail))
  }
  log(
    '%o: %d segments, %d problems',
    files.map((file) => file.path),
    segments.length,
    problems.length,
  )
  return new Plan({
    problems,
    size: range.size,
    readOnly: request.readOnly,
    files: files.map(plannedFile),
    extents: joinExtents(
      range.slices,
      parts.map((part) => part.extents),
    ),
    segments,
  })
}

/**
 * The file may have changed between the reading of its extents and the table: the extents are read
 * again, and the table must come out the same. Rejects with DMLOOP_FILE_CHANGED otherwise.
 */
export async function proveUnchanged(
  files: readonly BackingFile[],
  request: PlanBasis,
  plan: Plan,
): Promise<void> {
  const again = await planBackingFiles(files, request)
  if (again.problems.length === 0 && again.segments.equals(plan.segments)) return
  throw verdict(
    'DMLOOP_FILE_CHANGED',
    { file: files[0]?.path },
    'changed while it was being mapped',
  )
}

const plannedFile = (file: BackingFile): PlannedFile => ({
  path: file.path,
  size: file.size,
  filesystem: file.filesystem.name,
  device: file.device,
  blockSize: file.blockSize,
})

interface SlicePlan {
  problems: Problem[]
  extents: Float64Array
  segments: SegmentTable
}

/** Extents, verdict, device stack and segments of one file. */
async function planSlice(
  { file, offset, length }: FileSlice,
  options: { holes: 'reject' | 'zero'; blockSize: number },
): Promise<SlicePlan> {
  const problems = judgeFile(file)
  const none = { extents: new Float64Array(), segments: new SegmentTable() }
  // Where the filesystem is not known, neither are its answers: they are not even asked for.
  if (problems.length > 0) return { problems, ...none }

  const facts = await result(native.walkExtents(file.handle.fd, offset, length), file.path)
  problems.push(...judgeExtents(file.path, facts, options))
  const plan = { problems, extents: facts.rows, segments: none.segments }

  // With a problem among the extents there is no table, but the devices still have their say.
  const mappable = problems.length === 0
  const zeroFlags = options.holes === 'zero' ? EXTENT_FLAGS.UNWRITTEN.bit : 0
  const rows = mappable
    ? await result(
        native.segmentsOfExtents(facts.rows, offset, length / SECTOR, zeroFlags),
        file.path,
      )
    : new Float64Array()
  const taken = await takeDown(new SegmentTable(rows, [file.device]), {
    device: file.device,
    file: file.path,
  })
  if (taken instanceof SegmentTable) plan.segments = taken
  else problems.push(taken)
  return plan
}

/** The extents of all slices, counted from the start of the first file. */
function joinExtents(slices: readonly FileSlice[], extents: readonly Float64Array[]): ExtentTable {
  const [only] = extents
  if (only !== undefined && extents.length === 1) return new ExtentTable(only)
  const packed = new Float64Array(extents.reduce((sum, rows) => sum + rows.length, 0))
  let start = 0
  let row = 0
  extents.forEach((rows, index) => {
    packed.set(rows, row)
    for (const end = row + rows.length; row < end; row += 4) {
      packed[row] = (packed[row] as number) + start
    }
    start += slices[index]?.file.size ?? 0
  })
  return new ExtentTable(packed)
}
