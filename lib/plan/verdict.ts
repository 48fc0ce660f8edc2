// Whether a file and its extents may be mapped: the policy applied to the facts.
import { problem, type Problem } from '../kernel/errors.js'
import type { Filesystem } from '../kernel/filesystems.js'
import type { ExtentFacts, FileFacts, Ranges } from '../kernel/native.js'
import {
  EXTENT_FLAGS,
  FILE_ATTRIBUTES,
  FILESYSTEMS,
  HARMLESS_EXTENT_FLAGS,
  INODE_FLAGS,
  type DmloopCode,
  type Guard,
} from '../kernel/policy.js'
import type { BackingFile } from './backing-file.js'
import { ownMark, type Mark } from './mark.js'
import { missingProtections, requiredProtections } from './protections.js'

/**
 * Verdicts on the file as a whole, before its extents are read. `ownLoops` are the nodes of loop devices
 * that may be backed by it.
 */
export function judgeFile(
  file: BackingFile,
  {
    readOnly,
    guard = 'none',
    ownLoops = [],
  }: { readOnly: boolean; guard?: Guard; ownLoops?: readonly string[] },
): Problem[] {
  const { path, facts, filesystem, deviceSize, uses } = file
  const problems: Problem[] = []
  const found = (code: DmloopCode, detail?: string): void => {
    problems.push(problem(code, { file: path }, detail))
  }
  if (!FILESYSTEMS[filesystem.name]) {
    const detail = `is stored on ${filesystem.name}, whose block addresses are not known to be true`
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  } else if (facts.filesystemSize > deviceSize || facts.deviceCount > 1) {
    // f2fs numbers the blocks of all its devices in one sequence.
    const detail = `is stored on ${filesystem.name} with several devices`
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  }
  for (const attribute of FILE_ATTRIBUTES) {
    const { from, bit, code } = attribute
    if ((facts[from] & bit) === 0 || (code === 'DMLOOP_READ_ONLY' && readOnly)) continue
    const range = { file: path, offset: 0, length: file.size }
    problems.push(problem(code, range, attribute.found))
  }
  const unreplayed = ['noload', 'norecovery'].find((option) => filesystem.options.includes(option))
  if (unreplayed !== undefined) {
    const detail = `is stored on a filesystem mounted with ${unreplayed}, whose journal was not replayed`
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  }
  if (!readOnly && filesystem.readOnly) found('DMLOOP_READ_ONLY')
  else if (!readOnly && facts.mountReadOnly) found('DMLOOP_READ_ONLY', READ_ONLY_MOUNT)
  if (isCheckpointDisabled(filesystem)) {
    const detail = 'is on an f2fs mounted with checkpoint=disable, which has no direct I/O'
    found('DMLOOP_UNSUPPORTED_FILESYSTEM', detail)
  }
  // Only an open descriptor keeps its blocks allocated: a loop device has one, a linear device has none.
  if (facts.links === 0) {
    const detail = 'is deleted: its blocks are freed when the last process closes it'
    found('DMLOOP_UNGUARDABLE', detail)
  }
  const { inPlace } = FILESYSTEMS[filesystem.name] ?? {}
  // Where nobody can write, nothing is written elsewhere.
  if (inPlace !== undefined && (facts.inodeFlags & inPlace) === 0 && !filesystem.readOnly) {
    found('DMLOOP_COPY_ON_WRITE')
  }
  if (filesystem.options.includes('data=journal')) found('DMLOOP_DATA_JOURNALED')
  // With guard 'swapfile' that is the guard itself, if the file has its header: see `judgeHeads`.
  if (uses.swap && guard !== 'swapfile') found('DMLOOP_SWAPFILE')
  if (uses.filesystem !== undefined) {
    found('DMLOOP_FILESYSTEM_FILE', `is ${uses.filesystem} of its filesystem`)
  }
  for (const loop of uses.loops.filter((each) => !ownLoops.includes(each))) {
    found('DMLOOP_ALREADY_MAPPED', `is mapped already, as ${loop}`)
  }
  return problems
}

/**
 * f2fs then serves direct I/O from the page cache (f2fs_force_buffered_io, fs/f2fs/file.c). mountinfo has the
 * option with a number: "checkpoint=disable:0".
 */
const isCheckpointDisabled = ({ name, options }: Filesystem): boolean =>
  name === 'f2fs' && options.some((option) => option.split(':')[0] === 'checkpoint=disable')

/**
 * Whether a direct read of a file returns what the disk has. The kernel says so since 6.1; before, by what
 * has ext4 and f2fs fall back to the page cache: a journal for data, encryption, compression, fs-verity, data
 * in the inode, checkpoint=disable (ext4_dio_alignment, fs/ext4/inode.c; f2fs_force_buffered_io).
 */
export const hasDirectReads = (facts: FileFacts, filesystem: Filesystem): boolean =>
  facts.directIo !== false &&
  !isCheckpointDisabled(filesystem) &&
  !filesystem.options.includes('data=journal') &&
  FILE_ATTRIBUTES.every(({ from, bit }) => (facts[from] & bit) === 0)

const READ_ONLY_MOUNT = 'is named through a read-only mount of a filesystem that is writable'

export const NOT_PRIVATE =
  'can be opened by other users than root, and whoever can open it can unpin it'

/**
 * Verdicts on whether a guard can protect the file, as far as its facts tell. The rest only shows when the
 * guard is acquired, which changes the file: who has it open for writing, and whether f2fs pins it.
 */
export function judgeGuardable(
  file: BackingFile,
  guard: Guard,
  facts: FileFacts = file.facts,
): Problem[] {
  const { path, filesystem, identity, mountIdmapped } = file
  if (filesystem.readOnly) return []
  const required = requiredProtections(file, guard)
  // Owner and mode, as such a mount shows them, are not what counts for those who use another mount.
  if (required.includes('private') && mountIdmapped !== false) return [idmappedMount(file)]
  const missing = missingProtections(facts, required)
  const found = (code: DmloopCode, detail?: string): Problem[] => [
    problem(code, { file: path }, detail),
  ]
  if (FILESYSTEMS[filesystem.name]?.guards[guard] === undefined) return [unprotected(file, guard)]
  if (guard === 'none') {
    if (missing.length === 0) return []
    return found('DMLOOP_NOT_PINNED', missing.includes('private') ? NOT_PRIVATE : undefined)
  }
  const mark = ownMark(facts.mark, identity)
  // That the file is swap space, which no facts tell, is noted in the mark as well.
  const changes = missing.length > 0 || required.includes('swap')
  // A mark that is there already is written again.
  if (facts.mountReadOnly && (changes || mark)) return [unguardableMount(path)]
  if (!changes) return []
  if (missing.includes('pinned') && filesystem.options.includes('mode=lfs')) {
    return found('DMLOOP_NOT_PINNED', 'cannot be pinned on an f2fs that is mounted with mode=lfs')
  }
  if (mark) return []
  if ((facts.inodeFlags & INODE_FLAGS.immutable) !== 0) {
    const detail = 'is immutable already, so no mark can be written to it: chattr -i FILE first'
    return found(guard === 'swapfile' ? 'DMLOOP_UNGUARDABLE' : 'DMLOOP_NOT_PINNED', detail)
  }
  if ((facts.inodeFlags & INODE_FLAGS.appendOnly) !== 0) {
    const detail = 'is append-only, so no mark can be written to it: chattr -a FILE first'
    return found('DMLOOP_UNGUARDABLE', detail)
  }
  return []
}

/** The problem of a file that a guard does not protect on its filesystem. */
function unprotected({ path, filesystem: { name } }: BackingFile, guard: Guard): Problem {
  const what = guard === 'none' ? 'its user alone cannot' : 'the immutable flag does not'
  const detail = `is stored on ${name}, where ${what} keep its blocks in place`
  const made = 'Make the image with createImage() and guard: ‘swapfile’, and map it with the same'
  const alone = 'or map with guard: ‘none’ if you make sure yourself that nobody touches the file'
  const isLeft = FILESYSTEMS[name]?.guards.none !== undefined
  return {
    ...problem('DMLOOP_UNGUARDABLE', { file: path }, detail),
    remedy: isLeft ? `${made}; ${alone}.` : `${made}.`,
  }
}

/** The problem of a file whose flags cannot be changed through the mount that it was named by. */
const unguardableMount = (file: string | undefined): Problem => ({
  ...problem('DMLOOP_UNGUARDABLE', { file }, READ_ONLY_MOUNT),
  remedy:
    'Name the file through a writable mount of its filesystem; ' +
    'or map with guard: ‘none’ if you make sure yourself that nobody touches the file.',
})

/** The problem of a file that only root can be allowed to open, and whose owner is not told. */
export const idmappedMount = ({ path, mountIdmapped }: BackingFile): Problem => ({
  ...problem('DMLOOP_UNGUARDABLE', { file: path }, mountIdmapped ? IDMAPPED : UNLISTED),
  remedy: 'Name the file through a mount of its filesystem that is not idmapped.',
})

const READ_ONLY = 'is reached through a read-only mount'
const IDMAPPED = 'is reached through an idmapped mount, which does not show who owns it'
const UNLISTED = 'is reached through a mount that /proc does not list, and that may be idmapped'

/** What prevents that the guard which a mark describes is removed, by the file as it is now. */
export function judgeReleasable(file: BackingFile, mark: Mark, facts: FileFacts): Problem[] {
  const { path, filesystem, mountIdmapped } = file
  if (filesystem.readOnly) return [unwritable(path)]
  const again = 'then call unmap() again, or name the file there to releaseFile() or mapFile().'
  const kept = (detail: string, mount: string): Problem[] => [
    {
      ...problem('DMLOOP_UNGUARDABLE', { file: path }, `keeps its guard: it ${detail}`),
      remedy: `Mount its filesystem ${mount}, ${again}`,
    },
  ]
  if (facts.mountReadOnly) return kept(READ_ONLY, 'where it is writable')
  if (mark.access && mountIdmapped === true) return kept(IDMAPPED, 'where it is not idmapped')
  return []
}

/** The problem of a file that keeps its guard because its filesystem can be written to no more. */
export const unwritable = (file: string): Problem => ({
  ...problem('DMLOOP_READ_ONLY', { file }, 'keeps its guard: its filesystem is read-only now'),
  remedy:
    'Make it writable (fsck where it had errors; mount -o remount,rw), then call unmap(), releaseFile() or mapFile() again.',
})

/** Verdicts on the files themselves, and then on their guard: what mapFile checks before it changes anything. */
export function inspectFiles(
  files: readonly BackingFile[],
  request: { readOnly: boolean; guard: Guard },
): Problem[] {
  const judged = files.flatMap((file) => judgeFile(file, request))
  if (judged.length > 0) return judged
  return files.flatMap((file) => judgeGuardable(file, request.guard))
}

/** Whether a file can be opened for writing, as the loop driver needs it. */
export function judgeWritable(
  { path, facts, identity }: BackingFile,
  { readOnly }: { readOnly: boolean },
): Problem[] {
  // A guard that was left behind is released before the loop device is attached.
  const guarded = ownMark(facts.mark, identity)?.protections.includes('immutable')
  if (readOnly || guarded === true) return []
  const flags = { immutable: INODE_FLAGS.immutable, 'append-only': INODE_FLAGS.appendOnly }
  const [kind] = Object.entries(flags).find(([, flag]) => (facts.inodeFlags & flag) !== 0) ?? []
  if (kind === undefined) return []
  return [
    problem('DMLOOP_READ_ONLY', { file: path }, `is ${kind}, and cannot be opened for writing`),
  ]
}

const flagProblem = (flags: number): DmloopCode | undefined => {
  const known = Object.values(EXTENT_FLAGS).find(({ bit }) => (flags & bit) !== 0)
  if (known) return known.code
  // An unknown flag may mean anything about the blocks.
  return (flags & ~HARMLESS_EXTENT_FLAGS) === 0 ? undefined : 'DMLOOP_UNALLOCATED_EXTENT'
}

/** Collects ranges with the same verdict into one problem: the first range, and how many there are. */
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
