// Holding a file still while it is mapped, and letting it go afterwards.
import debug from 'debug'
import type { BackingFile } from './backing-file.js'
import { isSystemError, problem, verdict, type Problem } from './errors.js'
import { native, result, type FileFacts } from './native.js'
import { FILESYSTEMS, type Hold } from './policy.js'
import { readText } from './sysfs.js'
import { writersOf } from './writers.js'

const log = debug('dmloop:guard')

/** FS_IMMUTABLE_FL, and FS_NOCOW_FL, which f2fs gives for a pinned file (linux/fs.h). */
const FLAGS: Record<Hold, number> = { immutable: 0x10, pinned: 0x800000 }

/** Who keeps the file still: a guard of ours, or the caller. */
export type Guard = 'immutable' | 'none'

/** What must hold a file; a pin not even a caller can do without, for it is f2fs itself that moves blocks. */
function needed({ filesystem }: BackingFile, guard: Guard): readonly Hold[] {
  // Where nobody can write, nothing moves.
  if (filesystem.readOnly) return []
  const holds = FILESYSTEMS[filesystem.name]?.holds ?? []
  return guard === 'immutable' ? holds : holds.filter((hold) => hold === 'pinned')
}

/** What the file's attributes are just now. */
const inspect = ({ fd, path }: BackingFile): Promise<FileFacts> => result(native.inspect(fd), path)

/** Which of these holds a file does not have. */
const missing = ({ inodeFlags }: FileFacts, holds: readonly Hold[]): Hold[] =>
  holds.filter((hold) => (inodeFlags & FLAGS[hold]) === 0)

/**
 * What a guard has set, noted in an extended attribute of the file itself: it is there after a crash and
 * after a reboot, for whoever lets the file go. What held the file before is not in it, and stays.
 */
const markedHolds = ({ mark }: FileFacts): Hold[] | undefined =>
  mark?.split(' ') as Hold[] | undefined

/** Whether a guard of ours has changed the file. */
export const isMarked = async (file: BackingFile): Promise<boolean> =>
  (await inspect(file)).mark !== undefined

/**
 * Makes sure that nobody writes, moves or frees the file's blocks: takes a lease, which nobody gets
 * while the file is open for writing; sets the immutable flag, so that nobody can open it so, and f2fs's
 * pin; and drops the lease. A guard that a crash has left behind is taken over. Rejects with
 * DMLOOP_FILE_IN_USE, which names the writers, with DMLOOP_UNGUARDABLE and with DMLOOP_NOT_PINNED.
 */
export async function holdStill(file: BackingFile, guard: Guard): Promise<void> {
  const { path, filesystem } = file
  if (filesystem.readOnly) return
  if (guard === 'none') {
    const [lacking] = missing(await inspect(file), needed(file, guard))
    if (lacking) throw verdict('DMLOOP_NOT_PINNED', { file: path })
    return
  }
  if (needed(file, guard).length === 0) {
    const detail = `lies on ${filesystem.name}, which has no immutable flag`
    throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
  }
  await takeLease(file)
  try {
    await setHolds(file)
  } catch (error) {
    await endLease(file)
    throw error
  }
  // Who had passed the flag's check before it was set waits for the lease, and would get in now.
  if (!(await endLease(file))) throw await inUse(file)
  log('%s is held still', path)
}

const endLease = ({ fd, path }: BackingFile): Promise<boolean> => result(native.endLease(fd), path)

async function setHolds(file: BackingFile): Promise<void> {
  const wanted = needed(file, 'immutable')
  const facts = await inspect(file)
  const lacking = missing(facts, wanted)
  let holds = markedHolds(facts)
  if (!holds) {
    if (lacking.length === 0) return
    // The mark first: an immutable file takes none, and what is set without a mark has no way back.
    await setMark(file, lacking)
    holds = lacking
  }
  for (const hold of holds) await setHold(file, hold)
  // A mark from before, or one that was copied with the file, may not name all that is needed now.
  const [left] = missing(await inspect(file), wanted)
  if (left === undefined) return
  const detail = `bears the mark of another guard, and is not ${left}: releaseFile() takes it off`
  const code = left === 'pinned' ? 'DMLOOP_NOT_PINNED' : 'DMLOOP_UNGUARDABLE'
  throw verdict(code, { file: file.path }, detail)
}

async function setHold({ fd, path }: BackingFile, hold: Hold): Promise<void> {
  if (hold === 'immutable') {
    await result(native.setImmutable(fd, true), path)
    return
  }
  try {
    await result(native.setPinned(fd, true), path)
  } catch (error) {
    // mode=lfs; moved too often; compressed; on a zoned device (f2fs_ioc_set_pin_file, fs/f2fs/file.c).
    if (!isSystemError(error, 'EINVAL', 'EAGAIN', 'EOPNOTSUPP', 'EFBIG')) throw error
    throw verdict('DMLOOP_NOT_PINNED', { file: path }, `cannot be pinned: ${error.message}`)
  }
}

async function setMark(file: BackingFile, holds: readonly Hold[]): Promise<void> {
  const { fd, path } = file
  try {
    await result(native.setMark(fd, holds.join(' ')), path)
  } catch (error) {
    if (isSystemError(error, 'ENOTSUP', 'EOPNOTSUPP')) {
      const detail = 'lies on a filesystem without extended attributes to note the guard in'
      throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
    }
    if (isSystemError(error, 'EPERM') && holds.includes('immutable')) {
      const detail = 'is append-only, so the guard cannot be noted: chattr -a FILE first'
      throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
    }
    if (isSystemError(error, 'EPERM')) {
      const detail = 'is immutable already and not pinned: pin it, or take the flag away first'
      throw verdict('DMLOOP_NOT_PINNED', { file: path }, detail)
    }
    throw error
  }
}

async function takeLease(file: BackingFile): Promise<void> {
  try {
    await result(native.takeLease(file.fd), file.path)
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) throw await inUse(file)
    throw error
  }
}

async function inUse(file: BackingFile): Promise<Error> {
  const writers = await writersOf(file)
  const by = writers.length === 0 ? '' : ` by ${writers.join(', ')}`
  return verdict('DMLOOP_FILE_IN_USE', { file: file.path }, `is open for writing${by}`)
}

/** Gives a file back what holdStill has changed. Does nothing to a file that is not held by us. */
export async function letGo(file: BackingFile): Promise<void> {
  const { fd, path } = file
  const holds = markedHolds(await inspect(file))
  if (!holds) return
  // The mark last: until all is undone, it says what is not.
  if (holds.includes('immutable')) await result(native.setImmutable(fd, false), path)
  if (holds.includes('pinned')) await result(native.setPinned(fd, false), path)
  await result(native.removeMark(fd), path)
  log('%s is let go', path)
}

/** Whether all that must hold the file is still in place: root can take it away, and f2fs gives a pin up. */
export async function judgeGuard(file: BackingFile, guard: Guard): Promise<Problem[]> {
  const { path } = file
  const holds = needed(file, guard)
  const lacking = missing(await inspect(file), holds)
  const problems: Problem[] = []
  if (lacking.includes('immutable')) {
    const detail = 'is no longer held still: its immutable flag was taken away'
    problems.push(problem('DMLOOP_UNGUARDABLE', { file: path }, detail))
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
