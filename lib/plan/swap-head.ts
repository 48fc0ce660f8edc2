// The head of a file for guard 'swapfile': what it needs to be swap space, and no device has.
import { DmloopError, problem, type Problem } from '../kernel/errors.js'
import type { Guard } from '../kernel/policy.js'
import { NO_HEADER, readSwapHeader, SWAP_HEAD } from '../kernel/swap-space.js'
import type { BackingFile } from './backing-file.js'

/** Bytes at the start of each file that are not mapped. */
export const headOf = (guard: Guard): number => (guard === 'swapfile' ? SWAP_HEAD : 0)

/** Verdicts on the heads of files that are to be guarded. */
export async function judgeHeads(files: readonly BackingFile[], guard: Guard): Promise<Problem[]> {
  const problems: Problem[] = []
  for (const file of guard === 'swapfile' ? files : []) {
    if ((await readSwapHeader(file)) !== undefined) continue
    const { path } = file
    problems.push({ ...problem('DMLOOP_UNGUARDABLE', { file: path }, NO_HEADER), remedy: REMEDY })
  }
  return problems
}

const REMEDY =
  'Make the image again: createImage() with guard: ‘swapfile’ and this file as `from`; or map with another guard.'

/** Throws them, for every backend: with the head, the image would be in another place. */
export async function assertHeads(files: readonly BackingFile[], guard: Guard): Promise<void> {
  const problems = await judgeHeads(files, guard)
  const [first] = problems
  if (first) throw new DmloopError(first, problems)
}
