// Who has a lock or a lease on a file, from /proc/locks (proc_locks(5)).
import type { Inode } from './file-uses.js'
import { describeProcess } from './processes.js'
import { hexDeviceName, readText } from './sysfs.js'

/**
 * Describes the processes that have a lock of flock(2), or a lease, on a file, as far as the kernel tells
 * this process about them.
 */
export async function lockHolders(
  kind: 'FLOCK' | 'LEASE',
  { major, minor, inode }: Inode,
): Promise<string[]> {
  const device = hexDeviceName(major, minor)
  const pids = new Set<string>()
  for (const line of ((await readText('/proc/locks')) ?? '').split('\n')) {
    // "1: FLOCK  ADVISORY  READ 123 fe:00:12 0 EOF"; whoever waits has "->" or BREAKER.
    const [, type, state, , pid = '', file] = line.trim().split(/\s+/)
    if (type === kind && state !== 'BREAKER' && file === `${device}:${inode}`) pids.add(pid)
  }
  return await Promise.all([...pids].map(describeProcess))
}
