// Whether a file and its extents may be mapped: the policy applied to the facts.
import type { BackingFile } from './backing-file.js'
import { problem, type Problem } from './errors.js'
import type { ExtentFacts, Ranges } from './native.js'
import {
  EXTENT_FLAGS,
  FILE_ATTRIBUTES,
  HARMLESS_EXTENT_FLAGS,
  FILESYSTEMS,
  type DmloopCode,
} from './policy.js'

/** Verdicts on the file as a whole, before its extents are looked at. */
export function judgeFile(file: BackingFile, { readOnly }: { readOnly: boolean }): Problem[] {
  const { path, facts, filesystem, deviceSize, uses } = file
  const problems: Problem[] = []
  const found = (code: DmloopCode, detail?: string): void => {
    problems.push(problem(code, { file: path }, detail))
  }
  if (!FILESYSTEMS[filesystem.name]) {
    const detail = `lies on ${filesystem.name}, whose block addresses are not known to be true`
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  } else if (facts.filesystemSize > deviceSize) {
    // Its addresses go on where the first device ends (f2fs).
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', `lies on a ${filesystem.name} over several devices`)
  }
  for (const attribute of FILE_ATTRIBUTES) {
    const { from, bit, code } = attribute
    if ((facts[from] & bit) === 0 || (code === 'DMLOOP_READ_ONLY' && readOnly)) continue
    const range = { file: path, offset: 0, length: file.size }
    problems.push(problem(code, range, attribute.found))
  }
  const unreplayed = ['noload', 'norecovery'].find((option) => filesystem.options.includes(option))
  if (unreplayed !== undefined) {
    const detail = `lies on a filesystem mounted with ${unreplayed}, whose journal may know better`
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  }
  if (filesystem.readOnly && !readOnly) found('DMLOOP_READ_ONLY')
  if (filesystem.options.includes('data=journal')) found('DMLOOP_DATA_JOURNALED')
  if (uses.swap) found('DMLOOP_SWAPFILE')
  if (uses.filesystem !== undefined) {
    found('DMLOOP_FILESYSTEM_FILE', `is ${uses.filesystem} of its filesystem`)
  }
  for (const loop of uses.loops) found('DMLOOP_ALREADY_MAPPED', `is mapped already, as ${loop}`)
  return problems
}

const flagProblem = (flags: number): DmloopCode | undefined => {
  const known = Object.values(EXTENT_FLAGS).find(({ bit }) => (flags & bit) !== 0)
  if (known) return known.code
  // A flag that nobody here has heard of says something about the blocks that nobody here knows.
  return (flags & ~HARMLESS_EXTENT_FLAGS) === 0 ? undefined : 'DMLOOP_UNALLOCATED_EXTENT'
}

/** Ranges with the same verdict, told as one problem: the first of them, and how many there are. */
class Findings {
  readonly #byCode = new Map<DmloopCode, Ranges>()

  add(code: DmloopCode, ranges: Ranges): void {
    if (ranges.count === 0) return
    const found = this.#byCode.get(code) ?? { ...ranges, count: 0 }
    const { offset, length } = ranges.offset < found.offset ? ranges : found
    this.#byCode.set(code, { offset, length, count: found.count + ranges.count })
  }

  problems(file: string): Problem[] {
    return [...this.#byCode].map(([code, { offset, length, count }]) => {
      const found = problem(code, { file, offset, length })
      if (count > 1) found.message += ` ${count} such ranges in all; the first is given.`
      return found
    })
  }
}

/** Verdicts on the extents of one file. `holes: 'zero'` allows what reads as zeros. */
export function judgeExtents(
  file: string,
  { flagged, unaligned, holes }: Omit<ExtentFacts, 'extents' | 'count'>,
  options: { holes: 'reject' | 'zero' },
): Problem[] {
  const findings = new Findings()
  for (const { flags, ...ranges } of flagged) {
    const code = flagProblem(flags)
    if (code === undefined) continue
    if (code === 'DMLOOP_UNWRITTEN_EXTENT' && options.holes === 'zero') continue
    findings.add(code, ranges)
  }
  findings.add('DMLOOP_UNALIGNED_EXTENT', unaligned)
  if (options.holes === 'reject') findings.add('DMLOOP_HOLE', holes)
  return findings.problems(file)
}
