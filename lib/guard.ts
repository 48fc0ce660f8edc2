// Holding a file still while it is mapped, and letting it go afterwards.
import debug from 'debug'
import type { BackingFile } from './plan/backing-file.js'
import { isSystemError, problem, verdict, type Problem } from './kernel/errors.js'
import { ownMark, writeMark, type Mark } from './plan/mark.js'
import { native, result, type FileFacts } from './kernel/native.js'
import { expelStalePages } from './page-cache.js'
import { FILESYSTEMS, type Hold } from './kernel/policy.js'
import { readText } from './kernel/sysfs.js'
import { poll } from './kernel/wait.js'
import { openersOf, writersOf } from './kernel/writers.js'

const log = debug('dmloop:guard')

/** Who keeps the file still: a guard of ours, or the caller. */
export type Guard = 'immutable' | 'none'

/** What a mark says besides what was changed. */
export type Holder = Pick<Mark, 'id' | 'offset' | 'first' | 'next'>

/** The permissions of everybody but the owner. */
const OTHERS = 0o077
const PERMISSIONS = 0o7777

/** Whether a file is held in a way: FS_IMMUTABLE_FL, and FS_NOCOW_FL, which f2fs gives for a pin (linux/fs.h). */
const IS_HELD: Record<Hold, (facts: FileFacts) => boolean> = {
  immutable: ({ inodeFlags }) => (inodeFlags & 0x10) !== 0,
  pinned: ({ inodeFlags }) => (inodeFlags & 0x800000) !== 0,
  private: ({ uid, mode }) => uid === 0 && (mode & OTHERS) === 0,
}

/** What must hold a file. A caller who holds it still can do without the flag, for the rest is f2fs's own doing. */
export function needed({ filesystem }: BackingFile, guard: Guard): readonly Hold[] {
  // Where nobody can write, nothing moves.
  if (filesystem.readOnly) return []
  const holds = FILESYSTEMS[filesystem.name]?.holds ?? []
  return guard === 'immutable' ? holds : holds.filter((hold) => hold !== 'immutable')
}

/** What the file's attributes are just now. */
const inspect = ({ fd, path }: BackingFile): Promise<FileFacts> => result(native.inspect(fd), path)

/** Which of these holds a file does not have. */
export const missing = (facts: FileFacts, holds: readonly Hold[]): Hold[] =>
  holds.filter((hold) => !IS_HELD[hold](facts))

/** The mark that a guard of ours has left on a file, as it is just now. */
export const markOf = async (file: BackingFile): Promise<Mark | undefined> =>
  ownMark((await inspect(file)).mark, file.identity)

export const NOT_PRIVATE =
  'can be opened by others than root, and whoever can open it can take its pin away'

/**
 * Makes sure that nobody writes, moves or frees the file's blocks: takes a lease, which nobody gets
 * while the file is open for writing; sets the immutable flag, so that nobody can open it so, and f2fs's
 * pin; and drops the lease. Whoever can open a file of f2fs can unpin it (f2fs_ioc_set_pin_file,
 * fs/f2fs/file.c, asks for no permission), so there only root may, and a write lease shows that nobody
 * else has it open. A guard that a crash has left behind is taken over. Rejects with
 * DMLOOP_FILE_IN_USE, which names the processes, with DMLOOP_UNGUARDABLE and with DMLOOP_NOT_PINNED.
 * Resolves to whether the file bears a mark of ours now: it needs none where nothing had to be changed.
 */
export async function holdStill(file: BackingFile, guard: Guard, holder: Holder): Promise<boolean> {
  const { path, filesystem } = file
  if (filesystem.readOnly) return false
  if (guard === 'none') {
    const [lacking] = missing(await inspect(file), needed(file, guard))
    if (lacking === undefined) return false
    const detail = lacking === 'private' ? NOT_PRIVATE : undefined
    throw verdict('DMLOOP_NOT_PINNED', { file: path }, detail)
  }
  const wanted = needed(file, guard)
  if (wanted.length === 0) {
    const detail = `is on ${filesystem.name}, which has no immutable flag`
    throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
  }
  const exclusive = wanted.includes('private')
  // Before the lease, which shows then that nobody has come in before.
  if (exclusive) await noteHolds(file, wanted, holder)
  await takeLease(file, exclusive)
  let mark: Mark | undefined
  try {
    mark = exclusive ? await markOf(file) : await noteHolds(file, wanted, holder)
    await setHolds(file, wanted, mark)
  } catch (error) {
    await endLease(file, exclusive)
    throw error
  }
  // Who had passed the checks before they were set waits for the lease, and would get in now.
  if (!(await endLease(file, exclusive))) throw await inUse(file, exclusive)
  log('%s is held still', path)
  return mark !== undefined
}

/**
 * Runs a step while a lease shows that nobody has the files open for writing, as holdStill has seen to it:
 * root may have taken a flag off since. Rejects with DMLOOP_FILE_IN_USE.
 */
export async function whileHeld<T>(
  files: readonly BackingFile[],
  guard: Guard,
  step: () => Promise<T>,
): Promise<T> {
  const [file, ...rest] = guard === 'none' ? [] : files.filter((each) => !each.filesystem.readOnly)
  if (!file) return await step()
  await takeLease(file, false)
  let value: T
  try {
    value = await whileHeld(rest, guard, step)
  } catch (error) {
    await endLease(file, false)
    throw error
  }
  if (!(await endLease(file, false))) throw await inUse(file, false)
  return value
}

/**
 * Notes in the mark what will be changed, and takes from others the right to open the file where that is
 * part of it: neither can be done to a file that is immutable. A mark that is there stays the way back
 * to how the file was; only whose it is becomes what it is now.
 */
async function noteHolds(
  file: BackingFile,
  wanted: readonly Hold[],
  holder: Holder,
): Promise<Mark | undefined> {
  const { fd, path, identity } = file
  const facts = await inspect(file)
  const before = ownMark(facts.mark, identity)
  const holds = [...new Set([...(before?.holds ?? []), ...missing(facts, wanted)])]
  if (holds.length === 0) return undefined
  const access =
    before?.access ??
    (holds.includes('private') ? { uid: facts.uid, mode: facts.mode & PERMISSIONS } : undefined)
  const mark = { ...holder, identity, holds, access }
  // Ours to take off: the guard that it is part of is being renewed, and the lease shows whether anybody
  // has used the moment.
  if (before?.holds.includes('immutable') === true)
    await result(native.setImmutable(fd, false), path)
  // The mark first: what is set without a mark has no way back.
  await writeMark(fd, path, mark)
  if (access) await result(native.setAccess(fd, 0, access.mode & ~OTHERS), path)
  return mark
}

async function setHolds(
  file: BackingFile,
  wanted: readonly Hold[],
  mark: Mark | undefined,
): Promise<void> {
  for (const hold of mark?.holds ?? []) await setHold(file, hold)
  const [left] = missing(await inspect(file), wanted)
  if (left === undefined) return
  const detail = `could not be made ${left}`
  const code = left === 'immutable' ? 'DMLOOP_UNGUARDABLE' : 'DMLOOP_NOT_PINNED'
  throw verdict(code, { file: file.path }, detail)
}

async function setHold({ fd, path }: BackingFile, hold: Hold): Promise<void> {
  if (hold === 'immutable') await result(native.setImmutable(fd, true), path)
  if (hold !== 'pinned') return
  try {
    await result(native.setPinned(fd, true), path)
  } catch (error) {
    // mode=lfs; moved too often; compressed; with blocks already, which matters on a zoned device and, in
    // 6.12, on every other too (f2fs_ioc_set_pin_file, fs/f2fs/file.c).
    if (!isSystemError(error, 'EINVAL', 'EAGAIN', 'EOPNOTSUPP', 'EFBIG')) throw error
    const late = 'has blocks already, and is pinned by this f2fs only before it has any'
    const detail = error.code === 'EFBIG' ? late : 'cannot be pinned'
    throw verdict('DMLOOP_NOT_PINNED', { file: path }, `${detail}: ${error.message}`)
  }
}

/** Milliseconds for another process of ours, or a plan, to close the file that it looks at. */
const OPENERS_TIMEOUT = 2000

async function takeLease(file: BackingFile, exclusive: boolean): Promise<void> {
  const { fd, path } = file
  const patience = { timeout: exclusive ? OPENERS_TIMEOUT : 0, signal: undefined }
  const taken = await poll(async () => {
    try {
      await result(native.takeLease(fd, exclusive), path)
      return true
    } catch (error) {
      if (isSystemError(error, 'EAGAIN')) return undefined
      throw error
    }
  }, patience)
  if (!taken) throw await inUse(file, exclusive)
}

const endLease = ({ fd, path }: BackingFile, exclusive: boolean): Promise<boolean> =>
  result(native.endLease(fd, exclusive), path)

async function inUse(file: BackingFile, exclusive: boolean): Promise<Error> {
  const users = await (exclusive ? openersOf : writersOf)(file)
  const by = users.length === 0 ? '' : ` by ${users.join(', ')}`
  const detail = exclusive
    ? `is open${by}, and whoever has it open can take its pin away`
    : `is open for writing${by}`
  return verdict('DMLOOP_FILE_IN_USE', { file: file.path }, detail)
}

/**
 * Lets a file go that was mapped: once no page of it in memory is older than the disk, for until then
 * nobody may write to it (DMLOOP_STALE_CACHE).
 */
export async function letGo(file: BackingFile): Promise<void> {
  await expelStalePages(file)
  await takeHoldsOff(file)
}

/** Gives a file back what holdStill has changed. Takes nothing off a file that is not held by us. */
export async function takeHoldsOff(file: BackingFile): Promise<void> {
  const { fd, path } = file
  const mark = await markOf(file)
  if (!mark) return
  const { holds, access } = mark
  // The mark last: until all is undone, it says what is not. Nothing else can be changed while it is immutable.
  if (holds.includes('immutable')) await result(native.setImmutable(fd, false), path)
  if (holds.includes('pinned')) await result(native.setPinned(fd, false), path)
  if (access) await result(native.setAccess(fd, access.uid, access.mode), path)
  await result(native.removeMark(fd), path)
  log('%s is let go', path)
}

/** Whether all that must hold the file is still in place: root can take it away, and f2fs gives a pin up. */
export async function judgeGuard(file: BackingFile, guard: Guard): Promise<Problem[]> {
  const { path } = file
  const holds = needed(file, guard)
  const facts = await inspect(file)
  const lacking = missing(facts, holds)
  const problems: Problem[] = []
  if (lacking.includes('immutable')) {
    const detail = ownMark(facts.mark, file.identity)
      ? 'is no longer held still: its immutable flag was taken away'
      : 'is not held still: its filesystem was read-only when it was mapped, or the flag was taken away'
    problems.push(problem('DMLOOP_UNGUARDABLE', { file: path }, detail))
  }
  if (lacking.includes('private')) {
    problems.push(problem('DMLOOP_NOT_PINNED', { file: path }, NOT_PRIVATE))
  }
  if (lacking.includes('pinned')) {
    problems.push(problem('DMLOOP_NOT_PINNED', { file: path }, 'is no longer pinned'))
  } else if (holds.includes('pinned')) {
    problems.push(...(await judgePin(file)))
  }
  return problems
}

/** f2fs counts how often it had to leave a pinned file alone, and gives the pin up at a limit. */
async function judgePin({ fd, path, deviceName }: BackingFile): Promise<Problem[]> {
  const count = await result(native.getPinCount(fd), path)
  const folder = `/sys/fs/f2fs/${deviceName ?? ''}`
  const limit = Number((await readText(`${folder}/gc_pin_file_thresh`)) ?? Infinity)
  if (count <= limit / 2) return []
  const detail = `will soon be unpinned: f2fs wanted to move it ${count} times, and gives up at ${limit}`
  return [problem('DMLOOP_NOT_PINNED', { file: path }, detail)]
}
