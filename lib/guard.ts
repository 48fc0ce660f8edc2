// Holding a file still while it is mapped, and letting it go afterwards.
import debug from 'debug'
import type { BackingFile } from './backing-file.js'
import { isSystemError, verdict } from './errors.js'
import { native, result } from './native.js'
import { FILESYSTEMS } from './policy.js'
import { writersOf } from './writers.js'

const log = debug('dmloop:guard')

/** FS_IMMUTABLE_FL (linux/fs.h). */
const IMMUTABLE = 0x10

/**
 * What a guard has set, noted in an extended attribute of the file itself: it is there after a crash and
 * after a reboot, for whoever lets the file go. A file that was immutable before has none.
 */
const MARK = 'immutable'

/** Whether a guard of ours has changed the file already. */
export const isMarked = async ({ handle, path }: BackingFile): Promise<boolean> =>
  (await result(native.getMark(handle.fd), path)) !== undefined

const isImmutable = async ({ handle, path }: BackingFile): Promise<boolean> =>
  ((await result(native.inspect(handle.fd), path)).inodeFlags & IMMUTABLE) !== 0

/**
 * Makes sure that nobody writes, moves or frees the file's blocks: takes a lease, which nobody gets
 * while the file is open for writing; sets the immutable flag, so that nobody can open it so; and drops
 * the lease. A guard that a crash has left behind is taken over. Rejects with DMLOOP_FILE_IN_USE,
 * which names the writers, and with DMLOOP_UNGUARDABLE.
 */
export async function holdStill(file: BackingFile): Promise<void> {
  const { path, filesystem, handle } = file
  if (filesystem.readOnly) return
  if (!FILESYSTEMS[filesystem.name]?.immutable) {
    const detail = `lies on ${filesystem.name}, which has no immutable flag`
    throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
  }
  await takeLease(file)
  try {
    await setFlag(file)
    // Who had passed the flag's check before it was set waits for the lease now, and would get in.
    if (!(await result(native.leaseIsWhole(handle.fd), path))) throw await inUse(file)
  } finally {
    await result(native.dropLease(handle.fd), path)
  }
  log('%s is held still', path)
}

async function setFlag(file: BackingFile): Promise<void> {
  const { path, handle } = file
  if (!(await isMarked(file))) {
    // Somebody else's flag holds the file as well, and is not ours to take away.
    if (await isImmutable(file)) return
    // The mark first: an immutable file takes none, and a flag without a mark has no way back.
    await setMark(file)
  }
  await result(native.setImmutable(handle.fd, true), path)
}

async function setMark({ handle, path }: BackingFile): Promise<void> {
  try {
    await result(native.setMark(handle.fd, MARK), path)
  } catch (error) {
    if (!isSystemError(error, 'ENOTSUP', 'EOPNOTSUPP')) throw error
    const detail = 'lies on a filesystem without extended attributes to note the guard in'
    throw verdict('DMLOOP_UNGUARDABLE', { file: path }, detail)
  }
}

async function takeLease(file: BackingFile): Promise<void> {
  try {
    await result(native.takeLease(file.handle.fd), file.path)
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
  const { handle, path } = file
  if (!(await isMarked(file))) return
  await result(native.setImmutable(handle.fd, false), path)
  await result(native.removeMark(handle.fd), path)
  log('%s is let go', path)
}

/** Whether the guard is still in place: the flag can be taken away by root. */
export const isHeld = async (file: BackingFile): Promise<boolean> =>
  file.filesystem.readOnly || (await isImmutable(file))
