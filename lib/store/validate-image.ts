// Compares what is recorded of an image with its files.
import { DmloopError, isSystemError, problem, type Problem } from '../kernel/errors.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { judgeGuard } from '../guard.js'
import type { Verification } from '../mapped-device.js'
import { BackingFiles } from '../plan/backing-file.js'
import { buildPlan } from '../plan/build-plan.js'
import { DiskFinder } from './disk-name.js'
import { otherFiles } from './kept-files.js'
import { hasLabel, LABEL_SIZE } from './label.js'
import type { ImageMetadata } from './metadata.js'
import { deviationsOf, storedTable } from './stored-table.js'

/** All deviations, as problems; the guard's too. */
export async function validateImage(
  paths: readonly string[],
  metadata: ImageMetadata,
): Promise<Verification> {
  const problems = await findDeviations(paths, metadata, true)
  return { ok: problems.length === 0, problems }
}

/** Throws the first deviation. The guard does not count: whoever maps the image acquires it. */
export async function assertValid(
  paths: readonly string[],
  metadata: ImageMetadata,
): Promise<void> {
  const problems = await findDeviations(paths, metadata, false)
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}

async function findDeviations(
  paths: readonly string[],
  metadata: ImageMetadata,
  guarded: boolean,
): Promise<Problem[]> {
  try {
    await using files = await BackingFiles.open(paths, DEFAULT_WAIT)
    const problems = await compare(files, metadata)
    for (const file of guarded ? files.list : []) {
      problems.push(...(await judgeGuard(file, 'immutable')))
    }
    return problems
  } catch (error) {
    if (error instanceof DmloopError) return [...error.problems]
    if (!isSystemError(error, 'ENOENT', 'ENOTDIR')) throw error
    return [problem('DMLOOP_FILE_CHANGED', { file: paths[0] }, 'is gone')]
  }
}

async function compare(files: BackingFiles, metadata: ImageMetadata): Promise<Problem[]> {
  const { size } = metadata
  const problems = otherFiles(files.list, metadata)
  const bytes = files.list.reduce((sum, file) => sum + file.size, 0)
  const last = files.list.at(-1)
  if (bytes !== size + LABEL_SIZE) {
    const detail = `has ${bytes} bytes with its label, and its metadata say ${size + LABEL_SIZE}`
    problems.push(problem('DMLOOP_FILE_CHANGED', { file: last?.path }, detail))
  }
  if (bytes < size + LABEL_SIZE) return problems
  const { readOnly } = metadata
  const scope = { offset: 0, length: size, readOnly, holes: 'reject', guard: 'immutable' } as const
  const { plan } = await buildPlan(files.list, scope)
  if (plan.problems.length > 0) return [...problems, ...plan.problems]
  const recorded = await storedTable(metadata, new DiskFinder(DEFAULT_WAIT))
  const file = files.list.length === 1 ? files.list[0]?.path : undefined
  for (const deviation of deviationsOf(recorded, plan.segments)) {
    problems.push(problem('DMLOOP_FILE_CHANGED', { file, ...deviation }, 'has moved'))
  }
  if (last && !(await hasLabel(last.fd, metadata.id, last.size - LABEL_SIZE))) {
    problems.push(problem('DMLOOP_FILE_CHANGED', { file: last.path }, 'has another label'))
  }
  return problems
}
