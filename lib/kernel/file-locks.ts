// Locks of flock(2), and who has a lock or a lease on a file, from /proc/locks (proc_locks(5)).
import { isSystemError } from './errors.js'
import type { Inode } from './file-uses.js'
import { native, result } from './native.js'
import { describeProcess } from './processes.js'
import { hexDeviceName, readText } from './sysfs.js'

/** Locks an open file unless somebody else has it locked. Returns whether nobody has. */
export async function tryLock(fd: number, path: string, exclusive: boolean): Promise<boolean> {
  try {
    await result(native.lockFile(fd, exclusive), path)
    return true
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return false
    // A filesystem without such locks, or a network filesystem that requires a writable descriptor.
    if (isSystemError(error, 'EBADF', 'ENOLCK', 'ENOSYS', 'EOPNOTSUPP', 'ENOTSUP')) return true
    throw error
  }
}

/**
 * Describes the processes that have a lock of flock(2), or a lease, on a file, as far as the kernel tells
 * this process about them.
 */
export async function lockHolders(
  kind: 'FLOCK' | 'LEASE',
  { filesystem, inode }: Inode,
): Promise<string[]> {
  const device = hexDeviceName(filesystem.major, filesystem.minor)
  const pids = new Set<string>()
  for (const line of ((await readText('/proc/locks')) ?? '').split('\n')) {
    // "1: FLOCK  ADVISORY  READ 123 fe:00:12 0 EOF"; whoever waits has "->" or BREAKER.
    const [, type, state, , pid = '', file] = line.trim().split(/\s+/)
    if (type === kind && state !== 'BREAKER' && file === `${device}:${inode}`) pids.add(pid)
  }
  return await Promise.all([...pids].map(describeProcess))
}
