// A file as swap space, for its protection alone. The kernel lets nobody write a swap file, give it other blocks or
// move these (S_SWAPFILE, linux/fs.h), whatever its header says of its length: this one describes two pages, in the
// head of the file, which no device has. So that the memory of others is not written there, two pages of shared memory
// fill it, which need no process and stay until they are removed. A full area is also one that the kernel does not
// look at again.
import { readlink } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import debug from 'debug'
import { DmloopError, dmloopError, isSystemError, problem, type Problem } from './errors.js'
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
 * The name of the memory that fills a file. A copy has the same header, and may neither fill nor empty the space of
 * another file: its inode tells them apart.
 */
const memoryOf = ({ facts: { major, minor, inode } }: SwapFile, uuid: string): string =>
  `${uuid} ${major}:${minor} ${inode}`

/**
 * Makes a file swap space, and fills that. One process at a time should, for of two areas that are both empty the
 * kernel chooses one. Rejects with DMLOOP_UNGUARDABLE, and with DMLOOP_SWAPFILE where it is in use already; then it is
 * not swap space.
 */
export async function enableSwap(file: SwapFile): Promise<void> {
  const uuid = await readSwapHeader(file)
  if (uuid === undefined) throw unguardable(file, NO_HEADER)
  await assertMemoryStays(file)
  let found: Filled = 'not filled'
  for (let left = ATTEMPTS; left > 0; left--) {
    await swapOn(file)
    try {
      found = await fill(file, memoryOf(file, uuid))
      if (found === 'full') return
    } catch (error) {
      await disableSwap(file)
      throw error
    }
    await disableSwap(file)
    // Whoever does the same in another mount namespace tries again at another moment.
    if (found === 'rival') await sleep(Math.random() * MAX_PAUSE)
  }
  throw unguardable(file, found === 'rival' ? RIVAL : NOT_FILLED)
}

export const NO_HEADER = 'has no head that could be swap space'
const RIVAL = 'is not the only swap space of the highest priority'
const NOT_FILLED =
  'is swap space that the kernel does not fill: the cgroup of this process may not swap'

/** What an attempt to fill the space comes to; `rival`, that another small area may be filled instead. */
type Filled = 'full' | 'rival' | 'not filled'

/** Milliseconds. */
const MAX_PAUSE = 50

const unguardable = ({ path }: SwapFile, detail: string): Error =>
  dmloopError('DMLOOP_UNGUARDABLE', { file: path }, detail)

/** PROC_IPC_INIT_INO (linux/proc_ns.h): the namespace that is there as long as the machine runs. */
const FIRST_NAMESPACE = 'ipc:[4026531839]'

/** Rejects where the shared memory would be gone before the mapping is, and the space be empty. */
async function assertMemoryStays(file: SwapFile): Promise<void> {
  if ((await readlink('/proc/self/ns/ipc')) !== FIRST_NAMESPACE) {
    const detail =
      'is filled with shared memory, which would end with the IPC namespace of this process'
    throw unguardable(file, detail)
  }
  // proc_sys_kernel(5): segments that no process has attached are removed.
  if ((await readText('/proc/sys/kernel/shm_rmid_forced'))?.trim() === '1') {
    const detail = 'is filled with shared memory, which does not stay: kernel.shm_rmid_forced is 1'
    throw unguardable(file, detail)
  }
}

async function swapOn(file: SwapFile): Promise<void> {
  const { fd, path } = file
  try {
    await result(native.swapOn(fd), path)
    log('%s is swap space', path)
  } catch (error) {
    throw await explain(file, error)
  }
}

/** Why the kernel does not take a file as swap space (swapon(2)). */
async function explain(file: SwapFile, error: unknown): Promise<unknown> {
  if (isSystemError(error, 'EBUSY')) {
    if (await isOpenForWriting(file)) return dmloopError('DMLOOP_SWAPFILE', { file: file.path })
    return new DmloopError(changing(file))
  }
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

/** What btrfs_swap_activate (fs/btrfs/inode.c) says by EBUSY. */
const changing = ({ path }: SwapFile): Problem => ({
  ...problem(
    'DMLOOP_UNGUARDABLE',
    { file: path },
    'cannot be swap space while its btrfs is balanced or resized, or its devices change',
  ),
  remedy: 'Wait until that is done, or end it (btrfs balance cancel).',
})

const readAreas = async () => parseSwaps((await readText('/proc/swaps')) ?? '')

/** Fills the space with memory; rejects where that might have been written to another area. */
async function fill(file: SwapFile, memory: string): Promise<Filled> {
  const areas = await readAreas()
  const own = await findSwapArea(file.facts, areas)
  if (!own) throw unguardable(file, 'is swap space that /proc/swaps does not list')
  // The header was changed since it was read: whoever can write to the file may have done that.
  if (own.size * 1024 >= SWAP_HEAD) throw unguardable(file, NO_HEADER)
  if (own.used > 0) return 'not filled'
  const others = areas.filter((area) => area !== own && area.used < area.size)
  const rivals = others.filter((area) => area.priority >= own.priority)
  if (rivals.some((area) => area.size * 1024 >= SWAP_HEAD)) throw unguardable(file, RIVAL)
  if (rivals.length > 0) return 'rival'
  const isOut = async (): Promise<true | undefined> =>
    (await result(native.swapOutPages(memory), file.path)) || undefined
  if (!(await poll(isOut, FILL_LIMIT))) return 'not filled'
  return (await isFilled(file)) ? 'full' : 'not filled'
}

/** Whether the space is full, so that the kernel writes nothing else there; undefined where /proc/swaps does not tell. */
export async function isFilled({ facts }: SwapFile): Promise<boolean | undefined> {
  const area = await findSwapArea(facts, await readAreas())
  return area && area.used === area.size
}

/**
 * Ends it, whoever has made the file swap space, if it has the header of createImage. A file that is none stays as it
 * is. It must not be immutable.
 */
export async function disableSwap(file: SwapFile): Promise<void> {
  const uuid = await readSwapHeader(file)
  if (uuid === undefined) return
  try {
    await result(native.swapOff(file.fd), file.path)
  } catch (error) {
    // It is none; or this kernel has none; or it cannot be opened for writing, as swapon(2) would have.
    const isNone =
      isSystemError(error, 'EINVAL', 'ENOSYS') ||
      (isSystemError(error, 'EROFS') && !(await isOpenForWriting(file)))
    if (!isNone) throw error
  }
  await result(native.removeSwappedPages(memoryOf(file, uuid)))
}

/** Whether the kernel, which opens swap space for writing, may have the file: it grants no lease then. */
export async function isOpenForWriting({ fd, path }: SwapFile): Promise<boolean> {
  try {
    await result(native.takeLease(fd, false), path)
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return true
    throw error
  }
  await result(native.endLease(fd, false), path)
  return false
}
