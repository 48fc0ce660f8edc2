// A file as swap space, for its protection alone. The kernel lets nobody write a swap file, give it other blocks or
// move these (S_SWAPFILE, linux/fs.h), whatever its header says of its length: this one describes two pages, in the
// head of the file, which no device has. So that the memory of others is not written there, two pages of shared memory
// fill it, which need no process and stay until they are removed. A full area is also one that the kernel does not
// look at again.
import debug from 'debug'
import { dmloopError, isSystemError } from './errors.js'
import { findSwapArea, parseSwaps } from './file-uses.js'
import { native, result, type FileFacts } from './native.js'
import { readText } from './sysfs.js'
import { poll } from './wait.js'

const log = debug('dmloop:swap-space')

/** Bytes at the start of such a file that are not part of the image: 1 MiB, as partitions start there as well. */
export const SWAP_HEAD = 1 << 20

/** Milliseconds that the kernel may take to write the pages. */
const FILL_LIMIT = { timeout: 200, signal: undefined }

/**
 * How often it may leave a page where it is. On a disk that does not rotate, each processor looks for a free page from
 * a place of its own on, chosen at random, and never finds that place itself (scan_swap_map_slots, mm/swapfile.c,
 * before Linux 6.12). Or another page may come first.
 */
const ATTEMPTS = 20

/** An open file. */
interface SwapFile {
  path: string
  fd: number
  facts: FileFacts
}

/** The UUID in the header that createImage has written; undefined for any other file. */
export const readSwapHeader = ({ fd, path }: SwapFile): Promise<string | undefined> =>
  result(native.readSwapHeader(fd), path)

/**
 * Makes a file swap space, and fills that. Rejects with DMLOOP_UNGUARDABLE, and with DMLOOP_SWAPFILE where it is in
 * use already; then it is not swap space.
 */
export async function enableSwap(file: SwapFile): Promise<void> {
  const uuid = await readSwapHeader(file)
  if (uuid === undefined) throw unguardable(file, NO_HEADER)
  for (let left = ATTEMPTS; left > 0; left--) {
    await swapOn(file)
    try {
      if (await fill(file, uuid)) return
    } catch (error) {
      await disableSwap(file)
      throw error
    }
    await disableSwap(file)
  }
  const detail =
    'is swap space that the kernel does not fill: the cgroup of this process may not swap'
  throw unguardable(file, detail)
}

export const NO_HEADER = 'has no head that could be swap space'

const unguardable = ({ path }: SwapFile, detail: string): Error =>
  dmloopError('DMLOOP_UNGUARDABLE', { file: path }, detail)

async function swapOn(file: SwapFile): Promise<void> {
  const { fd, path } = file
  try {
    await result(native.swapOn(fd), path)
    log('%s is swap space', path)
  } catch (error) {
    if (isSystemError(error, 'EBUSY')) throw dmloopError('DMLOOP_SWAPFILE', { file: path })
    throw await explain(file, error)
  }
}

/** Why the kernel does not take a file as swap space (swapon(2)). */
async function explain(file: SwapFile, error: unknown): Promise<unknown> {
  // A process that is not root has failed before, and the file is not immutable: the kernel has no area left.
  if (isSystemError(error, 'EPERM')) {
    const { length } = await readAreas()
    return unguardable(file, `cannot be swap space: the kernel has ${length} areas, and no more`)
  }
  if (isSystemError(error, 'ENOSYS')) {
    return unguardable(file, 'cannot be swap space: this kernel has none (CONFIG_SWAP)')
  }
  if (!isSystemError(error, 'EINVAL', 'EOPNOTSUPP')) return error
  return unguardable(file, `is not taken as swap space by its filesystem: ${error.message}`)
}

const readAreas = async () => parseSwaps((await readText('/proc/swaps')) ?? '')

/** Fills the space. Whether it is full then; rejects where the pages might have been written to another area. */
async function fill(file: SwapFile, uuid: string): Promise<boolean> {
  const areas = await readAreas()
  const own = await findSwapArea(file.facts, areas)
  if (!own) throw unguardable(file, 'is swap space that /proc/swaps does not list')
  // The header was changed since it was read: whoever can write to the file may have done that.
  if (own.size * 1024 >= SWAP_HEAD) throw unguardable(file, NO_HEADER)
  if (own.used > 0) return false
  const others = areas.filter((area) => area !== own && area.used < area.size)
  if (others.some((area) => area.priority >= own.priority)) {
    throw unguardable(file, 'is not the only swap space of the highest priority')
  }
  const isOut = async (): Promise<true | undefined> =>
    (await result(native.swapOutPages(uuid), file.path)) || undefined
  if (!(await poll(isOut, FILL_LIMIT))) return false
  const full = await findSwapArea(file.facts, await readAreas())
  return full !== undefined && full.used === full.size
}

/**
 * Ends it, whoever has made the file swap space, if it has the header of createImage. A file that is none stays as it
 * is. It must not be immutable.
 */
export async function disableSwap(file: SwapFile): Promise<void> {
  const uuid = await readSwapHeader(file)
  if (uuid === undefined) return
  await result(native.swapOff(file.fd), file.path).catch((error: unknown) => {
    // It is none.
    if (!isSystemError(error, 'EINVAL')) throw error
  })
  await result(native.removeSwappedPages(uuid))
}
