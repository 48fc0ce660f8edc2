// The page cache of a file whose blocks were written through a device.
import debug from 'debug'
import type { BackingFile } from './plan/backing-file.js'
import { isSystemError, dmloopError } from './kernel/errors.js'
import { filesystemOf } from './kernel/filesystems.js'
import { native, result } from './kernel/native.js'
import { descriptorsOf, memoryOf } from './kernel/process-files.js'
import { POLICY } from './kernel/policy.js'
import { describeProcess, processIds } from './kernel/processes.js'
import { poll } from './kernel/wait.js'
import { hasDirectReads } from './plan/verdict.js'

const log = debug('dmloop:page-cache')

/** Enough for readers that come and go. Whoever keeps a page mapped keeps it for longer than this. */
const DROP_LIMIT = { timeout: 1000, signal: undefined }
/** Unit of the range in an error; bytes. */
const BLOCK = 4096

const FOUND = POLICY.DMLOOP_STALE_CACHE.found

/**
 * Makes sure that the page cache of a file has what the disk has: a page from before the device's writes
 * would be read in place of them, and a small write to the file would write the whole page back over them.
 * The device must be gone and the file still guarded, so that nobody writes. Readers may come and go.
 *
 * A page that a process has mapped is reclaimed from it (MADV_PAGEOUT), and read again when it is touched.
 * Rejects with DMLOOP_STALE_CACHE, which names the processes that may keep them, when older pages stay. It
 * can be called again once these have unmapped or closed the file.
 */
export async function dropStalePages(file: BackingFile): Promise<void> {
  const first = await findStaleByte(file)
  if (first === undefined) return
  log('%s: older than the disk at %d', file.path, first)
  let last = first
  const expelled = await poll(async () => {
    await pageOut(file)
    const stale = await findStaleByte(file)
    last = stale ?? last
    return stale === undefined ? true : undefined
  }, DROP_LIMIT)
  if (!expelled) throw await staleCacheError(file, last)
}

/**
 * Drops the cached pages of a file and compares those that stay with the disk. Where a direct read does not
 * reach the disk, it would compare them with themselves: there every page that stays counts as stale.
 */
async function findStaleByte(file: BackingFile): Promise<number | undefined> {
  const { fd, path } = file
  const cached = await result(native.findCachedByte(fd), path)
  if (cached < 0) return undefined
  if (!(await readsFromDisk(file))) return cached
  const stale = await compareWithDisk(file)
  // It may have been remounted meanwhile.
  return (await readsFromDisk(file)) ? stale : cached
}

async function readsFromDisk({ fd, path }: BackingFile): Promise<boolean> {
  const probe = await result(native.probe(fd), path)
  return hasDirectReads(probe.facts, filesystemOf(probe))
}

async function compareWithDisk({ fd, path }: BackingFile): Promise<number | undefined> {
  try {
    const byte = await result(native.findStaleByte(fd), path)
    return byte < 0 ? undefined : byte
  } catch (error) {
    // Without direct I/O there are no blocks that a device could have written to.
    if (isSystemError(error, 'EINVAL') && error.syscall === 'open') return undefined
    throw error
  }
}

/** Reclaims the file's pages from all processes that have it mapped. */
async function pageOut(file: BackingFile): Promise<void> {
  for (const pid of await processIds()) {
    const ranges = await memoryOf(pid, file)
    if (ranges.length === 0) continue
    const packed = Float64Array.from(ranges.flatMap(({ start, length }) => [start, length]))
    const settled = await native.pageOut(Number(pid), packed)
    // It has ended, its memory is locked, or Linux is older than 5.10. The next comparison tells.
    if ('failure' in settled) log('paging out process %s: %o', pid, settled.failure)
  }
}

async function staleCacheError(file: BackingFile, stale: number): Promise<Error> {
  const offset = Math.floor(stale / BLOCK) * BLOCK
  const range = { file: file.path, offset, length: Math.min(BLOCK, file.size - offset) }
  const holders = await pageHolders(file)
  return dmloopError('DMLOOP_STALE_CACHE', range, `${FOUND}: ${holders.join(', ')}`)
}

/** Describes the processes that may keep pages of a file. */
async function pageHolders(file: BackingFile): Promise<string[]> {
  const mappers: string[] = []
  const openers: string[] = []
  for (const pid of await processIds()) {
    if ((await memoryOf(pid, file)).length > 0) {
      mappers.push(`${await describeProcess(pid)} has it mapped`)
    } else if (Number(pid) !== process.pid && (await descriptorsOf(pid, file)).length > 0) {
      openers.push(`${await describeProcess(pid)} has it open`)
    }
  }
  // A page in a pipe (splice(2)) cannot be traced to its file.
  const others = mappers.length === 0 ? ['a pipe or a process that cannot be seen holds them'] : []
  return [...mappers, ...openers, ...others]
}
