// Whether a file and its extents may be mapped: the policy applied to the facts.
import type { BackingFile } from './backing-file.js'
import { problem, type Problem } from '../kernel/errors.js'
import { missing, needed, NOT_PRIVATE, type Guard } from '../guard.js'
import { ownMark } from './mark.js'
import type { ExtentFacts, Ranges } from '../kernel/native.js'
import {
  EXTENT_FLAGS,
  FILE_ATTRIBUTES,
  HARMLESS_EXTENT_FLAGS,
  FILESYSTEMS,
  type DmloopCode,
} from '../kernel/policy.js'

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
  if (!readOnly && filesystem.readOnly) found('DMLOOP_READ_ONLY')
  else if (!readOnly && facts.mountReadOnly) found('DMLOOP_READ_ONLY', READ_ONLY_MOUNT)
  // Then f2fs reads what direct I/O asks for from its caches (f2fs_force_buffered_io, fs/f2fs/file.c).
  if (filesystem.options.includes('checkpoint=disable')) {
    const detail = 'is on an f2fs mounted with checkpoint=disable, which has no direct I/O'
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  }
  // Nothing but a descriptor keeps it, and a loop device has one.
  if (facts.links === 0) {
    const detail = 'has no name any more: its blocks are freed when the last process closes it'
    found('DMLOOP_UNGUARDABLE', detail)
  }
  if (filesystem.options.includes('data=journal')) found('DMLOOP_DATA_JOURNALED')
  if (uses.swap) found('DMLOOP_SWAPFILE')
  if (uses.filesystem !== undefined) {
    found('DMLOOP_FILESYSTEM_FILE', `is ${uses.filesystem} of its filesystem`)
  }
  for (const loop of uses.loops) found('DMLOOP_ALREADY_MAPPED', `is mapped already, as ${loop}`)
  return problems
}

const READ_ONLY_MOUNT = 'is seen through a read-only mount of a filesystem that is writable'

/** FS_IMMUTABLE_FL and FS_APPEND_FL (linux/fs.h). */
const IMMUTABLE = 0x10
const APPEND_ONLY = 0x20

/**
 * Verdicts on whether a guard can hold the file still, as far as that shows before it is tried. The rest
 * only mapFile finds out, for to try is to change something: who has the file open for writing, and
 * whether f2fs takes the pin.
 */
function judgeGuardable(file: BackingFile, guard: Guard): Problem[] {
  const { path, facts, filesystem } = file
  if (filesystem.readOnly) return []
  const holds = needed(file, guard)
  const lacking = missing(facts, holds)
  const found = (code: DmloopCode, detail?: string): Problem[] => [
    problem(code, { file: path }, detail),
  ]
  if (guard === 'none') {
    if (lacking.length === 0) return []
    return found('DMLOOP_NOT_PINNED', lacking.includes('private') ? NOT_PRIVATE : undefined)
  }
  if (holds.length === 0) {
    return found('DMLOOP_UNGUARDABLE', `lies on ${filesystem.name}, which has no immutable flag`)
  }
  // A mark that is there is written to as well.
  const mark = ownMark(facts.mark, file.identity)
  if (facts.mountReadOnly && (lacking.length > 0 || mark)) {
    return [unguardableMount(path)]
  }
  if (lacking.length === 0) return []
  if (lacking.includes('pinned') && filesystem.options.includes('mode=lfs')) {
    return found('DMLOOP_NOT_PINNED', 'cannot be pinned on an f2fs that is mounted with mode=lfs')
  }
  if (mark) return []
  if ((facts.inodeFlags & IMMUTABLE) !== 0) {
    const detail =
      'is immutable already, so what else must be changed cannot be noted: chattr -i FILE first'
    return found('DMLOOP_NOT_PINNED', detail)
  }
  if ((facts.inodeFlags & APPEND_ONLY) !== 0) {
    const detail = 'is append-only, so the guard cannot be noted: chattr -a FILE first'
    return found('DMLOOP_UNGUARDABLE', detail)
  }
  return []
}

/** That a file's flags cannot be changed through the mount that it was named by. */
export const unguardableMount = (file: string | undefined): Problem => ({
  ...problem('DMLOOP_UNGUARDABLE', { file }, READ_ONLY_MOUNT),
  remedy:
    'Name the file through a writable mount of its filesystem; ' +
    'or map with guard: ‘none’ if you make sure yourself that nobody touches the file.',
})

/** What mapFile looks at before it does anything to the files: what they are, and then how to hold them. */
export function inspectFiles(
  files: readonly BackingFile[],
  request: { readOnly: boolean; guard: Guard },
): Problem[] {
  const judged = files.flatMap((file) => judgeFile(file, request))
  if (judged.length > 0) return judged
  return files.flatMap((file) => judgeGuardable(file, request.guard))
}

/** Whether a loop device could write to a file: the driver needs it open for that. */
export function judgeWritable(
  { path, facts, identity }: BackingFile,
  { readOnly }: { readOnly: boolean },
): Problem[] {
  // A guard of ours goes before the loop device comes.
  const ours = ownMark(facts.mark, identity)?.holds.includes('immutable')
  if (readOnly || ours === true) return []
  const flags = { immutable: IMMUTABLE, 'append-only': APPEND_ONLY }
  const [kind] = Object.entries(flags).find(([, flag]) => (facts.inodeFlags & flag) !== 0) ?? []
  if (kind === undefined) return []
  return [
    problem('DMLOOP_READ_ONLY', { file: path }, `is ${kind}, and cannot be opened for writing`),
  ]
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
