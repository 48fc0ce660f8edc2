// Compares what is recorded of an image with its files.
import { constants } from 'node:fs'
import { DmloopError, isSystemError, problem, type Problem } from '../kernel/errors.js'
import { OpenPath } from '../kernel/path.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { promisify } from 'node:util'
import { read } from 'node:fs'
import { judgeGuard } from '../guard.js'
import type { Verification } from '../mapped-device.js'
import { BackingFiles } from '../plan/backing-file.js'
import { buildPlan } from '../plan/build-plan.js'
import { parseIdentity } from '../plan/names.js'
import { DiskFinder } from './disk-name.js'
import { LABEL_SIZE, labelOf } from './label.js'
import type { ImageMetadata } from './metadata.js'
import { deviationsOf, storedTable } from './stored-table.js'

const readBytes = promisify(read)

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
  const problems = files.list.flatMap((file, index) => {
    if (parseIdentity(file.identity)?.handle === metadata.files[index]?.handle) return []
    const detail = 'is another file than the one that its metadata are for'
    return [problem('DMLOOP_FILE_CHANGED', { file: file.path }, detail)]
  })
  const bytes = files.list.reduce((sum, file) => sum + file.size, 0)
  const last = files.list.at(-1)
  if (bytes !== size + LABEL_SIZE) {
    const detail = `has ${bytes} bytes with its label, and its metadata say ${size + LABEL_SIZE}`
    problems.push(problem('DMLOOP_FILE_CHANGED', { file: last?.path }, detail))
  }
  if (bytes < size + LABEL_SIZE) return problems
  const scope = { offset: 0, length: size, readOnly: metadata.readOnly, holes: 'reject' } as const
  const { plan } = await buildPlan(files.list, scope)
  if (plan.problems.length > 0) return [...problems, ...plan.problems]
  const recorded = await storedTable(metadata, new DiskFinder(DEFAULT_WAIT))
  const file = files.list.length === 1 ? files.list[0]?.path : undefined
  for (const deviation of deviationsOf(recorded, plan.segments)) {
    problems.push(problem('DMLOOP_FILE_CHANGED', { file, ...deviation }, 'has moved'))
  }
  if (last && !(await hasLabel(last.path, last.size, metadata.id))) {
    problems.push(problem('DMLOOP_FILE_CHANGED', { file: last.path }, 'has another label'))
  }
  return problems
}

async function hasLabel(path: string, size: number, id: string): Promise<boolean> {
  const label = Buffer.alloc(LABEL_SIZE)
  await using file = await OpenPath.open(path, constants.O_RDONLY)
  await readBytes(file.fd, label, 0, LABEL_SIZE, size - LABEL_SIZE)
  return label.equals(labelOf(id))
}
