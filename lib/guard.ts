// The guard: what keeps a file's blocks in place while it is mapped, acquired and released.
import debug from 'debug'
import { DmloopError, dmloopError, isSystemError, problem, type Problem } from './kernel/errors.js'
import { native, result, type FileFacts } from './kernel/native.js'
import { FILESYSTEMS, type Guard, type Protection } from './kernel/policy.js'
import {
  disableSwap,
  enableSwap,
  isFilled,
  isOpenForWriting,
  readSwapHeader,
} from './kernel/swap-space.js'
import { readText } from './kernel/sysfs.js'
import { NO_WAIT, poll } from './kernel/wait.js'
import { openersOf, writersOf } from './kernel/writers.js'
import { lockSwapSpace } from './file-lock.js'
import { dropStalePages } from './page-cache.js'
import type { BackingFile } from './plan/backing-file.js'
import { formatMark, ownMark, type Mark } from './plan/mark.js'
import { assertNotInTables } from './plan/overlap.js'
import {
  missingProtections,
  needsMark,
  needsPin,
  OTHERS,
  requiredProtections,
} from './plan/protections.js'
import {
  idmappedMount,
  judgeGuardable,
  judgeReleasable,
  NOT_PRIVATE,
  unwritable,
} from './plan/verdict.js'

const log = debug('dmloop:guard')

/** What a mark says of the mapping itself. */
export type MappingReference = Pick<Mark, 'id' | 'offset' | 'first' | 'next'> &
  Partial<Pick<Mark, 'kept'>>

const PERMISSIONS = 0o7777

/** The attributes of the file now. */
const inspect = ({ fd, path }: BackingFile): Promise<FileFacts> => result(native.inspect(fd), path)

/** The mark that a guard has left on a file, read now. */
export const readMark = async (file: BackingFile): Promise<Mark | undefined> =>
  ownMark((await inspect(file)).mark, file.identity)

/**
 * Makes sure that nobody writes, moves or frees the file's blocks: takes a lease, which the kernel grants
 * only while the file is not open for writing; sets the immutable flag, so that nobody can open it for
 * writing, and f2fs's pin; and ends the lease. Whoever can open a file on f2fs can unpin it
 * (f2fs_ioc_set_pin_file, fs/f2fs/file.c, asks for no permission), so there only root may open it, and a
 * write lease shows that nobody else has it open. A guard that a crash has left is taken over.
 *
 * With guard 'swapfile' the lease comes first: swapon(2) opens the file for writing, for as long as it is swap space.
 * Then the immutable flag. Where the file has an owner, only root can open it in between.
 *
 * Rejects with DMLOOP_FILE_IN_USE, which names the processes, with DMLOOP_UNGUARDABLE, with DMLOOP_SWAPFILE and
 * with DMLOOP_NOT_PINNED. Resolves to whether the file bears a mark now: where nothing had to be changed, it
 * needs none.
 */
export async function acquireGuard(
  file: BackingFile,
  guard: Guard,
  mapping: MappingReference,
): Promise<boolean> {
  const [unguardable] = judgeGuardable(file, guard, await inspect(file))
  if (unguardable) throw new DmloopError(unguardable)
  const required = requiredProtections(file, guard)
  if (required.length === 0) return false

  const exclusive = isExclusive(file, guard)
  // With guard 'none' the file has what is required already: nothing is changed, or noted.
  const changes = guard !== 'none'
  // Before the lease, which shows then that nobody opened the file in time.
  if (changes && exclusive) await markAndRestrict(file, required, mapping)
  const isSwap = required.includes('swap')
  await takeLease(file, exclusive)
  let mark: Mark | undefined
  try {
    if (changes) {
      mark = exclusive ? await readMark(file) : await markAndRestrict(file, required, mapping)
    }
    if (!isSwap) await setProtections(file, required, mark)
  } catch (error) {
    await endLease(file, exclusive)
    throw error
  }
  // Whoever passed the permission checks before waits in open(2) for the lease, and would succeed now.
  if (!(await endLease(file, exclusive))) throw await fileInUse(file, exclusive)
  if (isSwap) {
    await becomeSwapSpace(file)
    await setProtections(file, required, mark)
    await assertUnused(file, exclusive)
  }
  log('%s is guarded', file.path)
  return mark !== undefined
}

async function becomeSwapSpace(file: BackingFile): Promise<void> {
  await using _ = await lockSwapSpace()
  await enableSwap(file)
}

/** Whether the lease must show that nobody else has the file open at all. */
const isExclusive = (file: BackingFile, guard: Guard): boolean =>
  requiredProtections(file, guard).includes('private')

/** The kernel has a swap file open for writing itself, so a lease tells nothing. What /proc lists does. */
async function assertUnused(file: BackingFile, exclusive: boolean): Promise<void> {
  const users = await usersOf(file, exclusive)
  if (users.length > 0) throw new DmloopError(openBy(file, users, exclusive))
}

/** Describes who has the file open for writing or, with `exclusive`, at all. */
const usersOf = (file: BackingFile, exclusive: boolean): Promise<string[]> =>
  (exclusive ? openersOf : writersOf)(file)

function openBy(
  file: BackingFile,
  users: readonly string[],
  exclusive: boolean,
  why = needsPin(file) ? ', and whoever has it open can unpin it' : '',
): Problem {
  const by = users.length === 0 ? '' : ` by ${users.join(', ')}`
  const detail = exclusive ? `is open${by}${why}` : `is open for writing${by}`
  return problem('DMLOOP_FILE_IN_USE', { file: file.path }, detail)
}

/**
 * Runs a step while a lease shows once more what `acquireGuard` has made sure of, that nobody has the files
 * open for writing or, on f2fs, at all: root may have cleared a flag, or given a permission, since. The step
 * must not open the files itself. Swap files, which have no lease, are looked at after the step. Rejects with
 * DMLOOP_FILE_IN_USE, and with what `judgeGuard` finds of a swap file.
 */
export async function whileLeased<T>(
  files: readonly BackingFile[],
  guard: Guard,
  step: () => Promise<T>,
): Promise<T> {
  if (guard === 'swapfile') {
    const value = await step()
    for (const file of files) await assertSwapGuarded(file)
    return value
  }
  const [file, ...rest] = files.filter((each) => requiredProtections(each, guard).length > 0)
  if (!file) return await step()
  const exclusive = isExclusive(file, guard)
  await takeLease(file, exclusive)
  let value: T
  try {
    value = await whileLeased(rest, guard, step)
  } catch (error) {
    await endLease(file, exclusive)
    throw error
  }
  if (!(await endLease(file, exclusive))) throw await fileInUse(file, exclusive)
  return value
}

async function assertSwapGuarded(file: BackingFile): Promise<void> {
  const [found] = await judgeGuard(file, 'swapfile')
  if (found) throw new DmloopError(found)
  // Nobody has it open for writing, then.
  if (isExclusive(file, 'swapfile')) await assertUnused(file, true)
}

/**
 * Runs a step on a file that is open for writing, while nobody else has it open at all: whoever opens it
 * meanwhile waits. The step is given a check, to be made again and again, that nobody waits. Rejects with
 * DMLOOP_FILE_IN_USE.
 */
export async function whileExclusive<T>(
  file: BackingFile,
  step: (assertExclusive: () => Promise<void>) => Promise<T>,
): Promise<T> {
  await takeLease(file, true, '')
  const assertExclusive = async (): Promise<void> => {
    if (await result(native.hasLease(file.fd, true), file.path)) return
    const detail = 'is being opened by another process'
    throw dmloopError('DMLOOP_FILE_IN_USE', { file: file.path }, detail)
  }
  try {
    return await step(assertExclusive)
  } finally {
    await endLease(file, true)
  }
}

/**
 * Notes in the mark what will be changed, and takes the permission to open the file from other users where
 * that is part of it: neither is possible once the file is immutable. An existing mark still describes how
 * the file was before; only the mapping that it names changes.
 */
async function markAndRestrict(
  file: BackingFile,
  required: readonly Protection[],
  mapping: MappingReference,
): Promise<Mark | undefined> {
  const { fd, path, identity } = file
  const facts = await inspect(file)
  const before = ownMark(facts.mark, identity)
  const missing = missingProtections(facts, required)
  const swap = needsMark(required) ? required.filter((each) => each === 'swap') : []
  const protections = [...new Set([...(before?.protections ?? []), ...swap, ...missing])]
  if (protections.length === 0) return undefined
  // To write the mark, the flag must go for a moment: a process that is killed then must not leave an image without
  // it that will be mapped before anybody can look.
  if (before?.kept !== undefined && missing.length === 0) return before
  const access =
    before?.access ??
    (protections.includes('private')
      ? { uid: facts.uid, mode: facts.mode & PERMISSIONS }
      : undefined)
  const mark = { ...mapping, identity, protections, access, kept: before?.kept ?? mapping.kept }
  // A mark's own flag may be cleared while the guard is renewed: the lease shows whether anybody used the
  // moment.
  if (before?.protections.includes('immutable') === true)
    await result(native.setImmutable(fd, false), path)
  // The mark comes first: what is changed without a mark cannot be restored.
  await writeMark(file, mark)
  if (access) await result(native.setAccess(fd, 0, access.mode & ~OTHERS), path)
  return mark
}

/** Rejects with DMLOOP_UNGUARDABLE where the filesystem has no extended attributes. */
async function writeMark({ fd, path }: BackingFile, mark: Mark): Promise<void> {
  try {
    await result(native.setMark(fd, formatMark(mark)), path)
  } catch (error) {
    if (!isSystemError(error, 'ENOTSUP', 'EOPNOTSUPP')) throw error
    const detail = 'is stored on a filesystem without extended attributes for the mark'
    throw dmloopError('DMLOOP_UNGUARDABLE', { file: path }, detail)
  }
}

async function setProtections(
  file: BackingFile,
  required: readonly Protection[],
  mark: Mark | undefined,
): Promise<void> {
  for (const protection of mark?.protections ?? []) await setProtection(file, protection)
  const [missing] = missingProtections(await inspect(file), required)
  if (missing === undefined) return
  const code = missing === 'immutable' ? 'DMLOOP_UNGUARDABLE' : 'DMLOOP_NOT_PINNED'
  throw dmloopError(code, { file: file.path }, `could not be made ${missing}`)
}

async function setProtection({ fd, path }: BackingFile, protection: Protection): Promise<void> {
  if (protection === 'immutable') await result(native.setImmutable(fd, true), path)
  if (protection !== 'pinned') return
  try {
    await result(native.setPinned(fd, true), path)
  } catch (error) {
    // mode=lfs; moved too often; compressed; has blocks already, which matters on a zoned device and, in
    // 6.12, on every other too (f2fs_ioc_set_pin_file, fs/f2fs/file.c).
    if (!isSystemError(error, 'EINVAL', 'EAGAIN', 'EOPNOTSUPP', 'EFBIG')) throw error
    const late = 'has blocks already, and this f2fs pins a file only before it has any'
    const detail = error.code === 'EFBIG' ? late : 'cannot be pinned'
    throw dmloopError('DMLOOP_NOT_PINNED', { file: path }, `${detail}: ${error.message}`)
  }
}

/** For another dmloop process, or a plan, to close the file that it has opened for reading. */
const OPENERS_LIMIT = { timeout: 2000, signal: undefined }

async function takeLease(file: BackingFile, exclusive: boolean, why?: string): Promise<void> {
  const { fd, path } = file
  const taken = await poll(
    async () => {
      try {
        await result(native.takeLease(fd, exclusive), path)
        return true
      } catch (error) {
        if (isSystemError(error, 'EAGAIN')) return undefined
        throw error
      }
    },
    exclusive ? OPENERS_LIMIT : NO_WAIT,
  )
  if (!taken) throw await fileInUse(file, exclusive, why)
}

const endLease = ({ fd, path }: BackingFile, exclusive: boolean): Promise<boolean> =>
  result(native.endLease(fd, exclusive), path)

const fileInUse = async (file: BackingFile, exclusive: boolean, why?: string): Promise<Error> =>
  new DmloopError(openBy(file, await usersOf(file, exclusive), exclusive, why))

/**
 * Releases a file whose device is gone: first the page cache, for nobody may write to the file while a
 * cached page is older than the disk (DMLOOP_STALE_CACHE); then the guard.
 */
export async function releaseGuard(file: BackingFile): Promise<void> {
  await dropStalePages(file)
  await restoreAttributes(file)
}

/**
 * The same for a guard that may be that of another mapping than the one that is gone: while a mapping has
 * blocks of the file, the guard stays (DMLOOP_ALREADY_MAPPED), and also where that cannot be told
 * (DMLOOP_OPAQUE_DEVICE, DMLOOP_DEVICE_BUSY).
 */
export async function releaseUnmapped(file: BackingFile): Promise<void> {
  await assertNotInTables(file)
  await releaseGuard(file)
}

/**
 * Restores what `acquireGuard` has changed. Leaves a file without a mark alone, and one whose guard is kept
 * for an image store. Where the filesystem or the mount does not allow it, rejects with DMLOOP_READ_ONLY or
 * DMLOOP_UNGUARDABLE, and the guard stays.
 */
export async function restoreAttributes(file: BackingFile): Promise<void> {
  const mark = await readMark(file)
  if (mark && mark.kept === undefined) await restoreMarked(file, mark)
  else if (!mark && isSwapUnmarked(file)) await reportingReadOnly(file, () => disableSwap(file))
}

/** Whether swap space is all that the guard by it needs, so that the file has no mark. */
const isSwapUnmarked = ({ filesystem }: BackingFile): boolean => {
  const required = FILESYSTEMS[filesystem.name]?.guards.swapfile ?? []
  return required.length > 0 && !needsMark(required)
}

/**
 * Whether a file without a mark may have been guarded: a process that was killed as it ended the swap space has left the
 * memory that filled it.
 */
export const mayHaveBeenGuarded = async (file: BackingFile): Promise<boolean> =>
  isSwapUnmarked(file) && (await readSwapHeader(file)) !== undefined

/**
 * Whether a file is guarded without a mark: swap space by `acquireGuard`. Its path in /proc/swaps tells, or in another
 * mount namespace, that it is open for writing by no process.
 */
export const isGuardedUnmarked = async (file: BackingFile): Promise<boolean> =>
  (await mayHaveBeenGuarded(file)) &&
  (file.uses.swap || ((await isOpenForWriting(file)) && (await writersOf(file)).length === 0))

/** Releases a guard that was kept for an image store. */
export async function releaseKept(file: BackingFile): Promise<void> {
  await dropStalePages(file)
  const mark = await readMark(file)
  if (mark) await restoreMarked(file, mark)
}

async function restoreMarked(file: BackingFile, mark: Mark): Promise<void> {
  // Its filesystem may have been remounted since it was opened.
  await file.probe()
  const [unreleasable] = judgeReleasable(file, mark, file.facts)
  if (unreleasable) throw new DmloopError(unreleasable)
  await reportingReadOnly(file, () => restore(file, mark))
  log('%s is released', file.path)
}

async function reportingReadOnly({ path }: BackingFile, step: () => Promise<void>): Promise<void> {
  try {
    await step()
  } catch (error) {
    throw isSystemError(error, 'EROFS') ? new DmloopError(unwritable(path)) : error
  }
}

async function restore(file: BackingFile, { protections, access }: Mark): Promise<void> {
  const { fd, path } = file
  // The immutable flag first, for nothing else can be changed under it. The mark last: until everything is
  // restored, it says what is not.
  if (protections.includes('immutable')) await result(native.setImmutable(fd, false), path)
  if (protections.includes('swap')) await disableSwap(file)
  if (protections.includes('pinned')) await result(native.setPinned(fd, false), path)
  if (access) await result(native.setAccess(fd, access.uid, access.mode), path)
  await result(native.removeMark(fd), path)
}

/** Whether all protections are still in place: root can remove them, and f2fs drops a pin at a limit. */
export async function judgeGuard(file: BackingFile, guard: Guard): Promise<Problem[]> {
  const { path } = file
  const required = requiredProtections(file, guard)
  const facts = await inspect(file)
  const missing = missingProtections(facts, required)
  const problems: Problem[] = []
  if (required.includes('private') && file.mountIdmapped === true) {
    problems.push(idmappedMount(file))
  }
  if (missing.includes('immutable')) {
    const detail = ownMark(facts.mark, file.identity)
      ? 'is no longer guarded: its immutable flag was cleared'
      : 'is not guarded: its filesystem was read-only when it was mapped, or the flag was cleared'
    problems.push(problem('DMLOOP_UNGUARDABLE', { file: path }, detail))
  }
  if (missing.includes('private')) {
    problems.push(problem('DMLOOP_NOT_PINNED', { file: path }, NOT_PRIVATE))
  }
  if (required.includes('swap')) {
    problems.push(...(await judgeSwap(file)))
  }
  if (missing.includes('pinned') || (required.includes('swap') && isUnpinned(file, facts))) {
    problems.push(problem('DMLOOP_NOT_PINNED', { file: path }, 'is no longer pinned'))
  } else if (required.includes('pinned')) {
    problems.push(...(await judgePin(file)))
  }
  return problems
}

/** Whether f2fs may move a file, which it pins itself while that is swap space. */
const isUnpinned = (file: BackingFile, facts: FileFacts): boolean =>
  needsPin(file) && missingProtections(facts, ['pinned']).length > 0

async function judgeSwap(file: BackingFile): Promise<Problem[]> {
  const found = (detail: string): Problem[] => [
    problem('DMLOOP_UNGUARDABLE', { file: file.path }, detail),
  ]
  if (!(await isOpenForWriting(file))) {
    return found('is no longer guarded: it was taken out of use as swap space (swapoff)')
  }
  // By the kernel, which has a swap file open; or by a process, and then nobody knows whether it is one.
  const writers = await writersOf(file)
  if (writers.length > 0) return [openBy(file, writers, false)]
  if ((await isFilled(file)) !== false) return []
  return found(
    'is swap space that is no longer full: the memory of processes may be written to its head',
  )
}

/** f2fs counts how often cleaning had to skip a pinned file, and drops the pin at a limit. */
async function judgePin({ fd, path, deviceName }: BackingFile): Promise<Problem[]> {
  const count = await result(native.getPinCount(fd), path)
  const folder = `/sys/fs/f2fs/${deviceName ?? ''}`
  const limit = Number((await readText(`${folder}/gc_pin_file_thresh`)) ?? Infinity)
  if (count <= limit / 2) return []
  const detail = `will soon be unpinned: f2fs wanted to move it ${count} times, and unpins it at ${limit}`
  return [problem('DMLOOP_NOT_PINNED', { file: path }, detail)]
}
