// The pages of a file that are in memory, when its blocks were written to beneath them.
import debug from 'debug'
import type { BackingFile } from './plan/backing-file.js'
import { isSystemError, verdict } from './kernel/errors.js'
import { native, result } from './kernel/native.js'
import { descriptorsOf, memoryOf } from './kernel/process-files.js'
import { POLICY } from './kernel/policy.js'
import { phraseOf, processIds } from './kernel/processes.js'
import { poll } from './kernel/wait.js'

const log = debug('dmloop:page-cache')

/** For a reader that comes and goes; a page that somebody keeps is kept longer than anyone would wait. */
const PATIENCE = { timeout: 1000, signal: undefined }
/** The range that an error tells of starts and ends at a multiple of this; bytes. */
const BLOCK = 4096

const FOUND = POLICY.DMLOOP_STALE_CACHE.found

/**
 * Makes sure that what is in memory of a file is what is on the disk: a page from before the device's
 * writes would be read as the file's, and one small write to the file would put it all back on the disk.
 * The device must be gone, and the file still held: nobody writes. Readers may come and go.
 *
 * A page that only one process has mapped is taken out of its memory; it reads it anew. Rejects with
 * DMLOOP_STALE_CACHE, which names the processes that may be it, when older pages stay; once these have
 * let go of the file, it can be called again.
 */
export async function expelStalePages(file: BackingFile): Promise<void> {
  const first = await findStaleByte(file)
  if (first === undefined) return
  log('%s: older than the disk at %d', file.path, first)
  let last = first
  const expelled = await poll(async () => {
    await pageOut(file)
    const stale = await findStaleByte(file)
    last = stale ?? last
    return stale === undefined ? true : undefined
  }, PATIENCE)
  if (!expelled) throw await staleCache(file, last)
}

/** Drops what is cached of a file and looks whether what is left of it is what the disk has. */
async function findStaleByte({ fd, path }: BackingFile): Promise<number | undefined> {
  try {
    const byte = await result(native.findStaleByte(fd), path)
    return byte < 0 ? undefined : byte
  } catch (error) {
    // Without direct I/O the filesystem has no blocks that anyone but itself could have written to.
    if (isSystemError(error, 'EINVAL') && error.syscall === 'open') return undefined
    throw error
  }
}

/** Has the kernel take the file's pages out of the memory of those who have it mapped. */
async function pageOut(file: BackingFile): Promise<void> {
  for (const pid of await processIds()) {
    const ranges = await memoryOf(pid, file)
    if (ranges.length === 0) continue
    const packed = Float64Array.from(ranges.flatMap(({ start, length }) => [start, length]))
    const settled = await native.pageOut(Number(pid), packed)
    // It has ended, its memory is locked, or Linux is older than 5.10: the next look tells.
    if ('failure' in settled) log('paging out process %s: %o', pid, settled.failure)
  }
}

async function staleCache(file: BackingFile, stale: number): Promise<Error> {
  const offset = Math.floor(stale / BLOCK) * BLOCK
  const range = { file: file.path, offset, length: Math.min(BLOCK, file.size - offset) }
  const holders = await holdersOf(file)
  return verdict('DMLOOP_STALE_CACHE', range, `${FOUND}: ${holders.join(', ')}`)
}

/** Who may hold pages of a file: phrases for people. */
async function holdersOf(file: BackingFile): Promise<string[]> {
  const mappers: string[] = []
  const openers: string[] = []
  for (const pid of await processIds()) {
    if ((await memoryOf(pid, file)).length > 0) {
      mappers.push(`${await phraseOf(pid)} has it mapped`)
    } else if (Number(pid) !== process.pid && (await descriptorsOf(pid, file)).length > 0) {
      openers.push(`${await phraseOf(pid)} has it open`)
    }
  }
  // splice(2) takes a page into a pipe, where nobody can see whose it is.
  const others = mappers.length === 0 ? ['a pipe or a process that cannot be seen holds them'] : []
  return [...mappers, ...openers, ...others]
}
