// The file behind a device: opened once, and identified by its file handle, not by its path.
import debug from 'debug'
import { DmloopError, dmloopError, isSystemError, problem } from '../kernel/errors.js'
import { lockHolders, tryLock } from '../kernel/file-locks.js'
import { usesOf, type Inode, type Uses } from '../kernel/file-uses.js'
import { filesystemOf, type Filesystem } from '../kernel/filesystems.js'
import {
  native,
  result,
  type FileFacts,
  type FileProbe,
  type OpenedFile,
} from '../kernel/native.js'
import { FILESYSTEMS, type AddressCall } from '../kernel/policy.js'
import { deviceName, parseMountinfo } from '../kernel/sysfs.js'
import { poll, type WaitLimit } from '../kernel/wait.js'

const log = debug('dmloop:backing-file')

/** What was last read of an open file. */
interface FileState {
  probe: FileProbe
  filesystem: Filesystem
  uses: Uses
  identity: string
}

export class BackingFile implements AsyncDisposable {
  /** The path without symbolic links. */
  readonly path: string
  readonly fd: number
  #state: FileState

  private constructor(path: string, fd: number, state: FileState) {
    this.path = path
    this.fd = fd
    this.#state = state
  }

  /**
   * Opens a regular file for reading, or for writing as well. Rejects with DMLOOP_NOT_REGULAR_FILE for anything
   * else, with DMLOOP_FILE_IN_USE when another process keeps a write lease on it until the limit, and with the
   * system's error where there is no file or no permission.
   */
  static async open(
    file: string,
    limit: WaitLimit,
    { writable = false } = {},
  ): Promise<BackingFile> {
    const open = (): Promise<OpenedFile> => result(native.openFile(file, writable), file)
    return await BackingFile.#of(await unleased(open, limit))
  }

  /**
   * Opens a file by its handle, on the filesystem of a device, through any mount of it. Rejects with ESTALE
   * when the filesystem has no such file, with ENODEV when it is mounted nowhere, with EPERM without
   * CAP_DAC_READ_SEARCH, and with DMLOOP_FILE_IN_USE like `open`.
   */
  static async openHandle(
    { major, minor }: { major: number; minor: number },
    handle: string,
    limit: WaitLimit,
  ): Promise<BackingFile> {
    const open = (): Promise<OpenedFile> => result(native.openFileByHandle(major, minor, handle))
    return await BackingFile.#of(await unleased(open, limit))
  }

  static async #of({ fd, path, probe }: OpenedFile): Promise<BackingFile> {
    if (fd < 0) throw dmloopError('DMLOOP_NOT_REGULAR_FILE', { file: path })
    try {
      const file = new BackingFile(path, fd, await examine(fd, path, probe))
      log('%s: %s on %s, inode %s', path, file.filesystem.name, file.device, file.facts.inode)
      return file
    } catch (error) {
      await result(native.close(fd), path)
      throw error
    }
  }

  /**
   * Identifies the file whatever its name is: the number of its filesystem's device, and the file's handle
   * there. The handle includes the inode's generation, so that a later file in the same inode differs. On a
   * filesystem without lasting handles it is something else; see `localIdentity`.
   */
  get identity(): string {
    return this.#state.identity
  }

  get facts(): FileFacts {
    return this.#state.probe.facts
  }

  get filesystem(): Filesystem {
    return this.#state.filesystem
  }

  get uses(): Uses {
    return this.#state.uses
  }

  /** Whether the mount that it was opened through is idmapped; undefined where that cannot be told. */
  get mountIdmapped(): boolean | undefined {
    return this.#state.probe.mountIdmapped
  }

  /** Where its filesystem is mounted, as this process sees it. */
  get mountPoints(): string[] {
    const { mounts } = this.#state.probe
    return parseMountinfo(mounts).map(({ mountPoint }) => mountPoint)
  }

  /** The filesystem's device, as "major:minor". */
  get device(): string {
    const { major, minor } = this.facts.device
    return deviceName(major, minor)
  }

  /** The kernel's name of that device, if it has one. */
  get deviceName(): string | undefined {
    return this.#state.probe.kernelName
  }

  /** Whether that device is one of device-mapper, which names them all so (alloc_dev, drivers/md/dm.c). */
  get isOnMapper(): boolean {
    return /^dm-\d+$/.test(this.deviceName ?? '')
  }

  /** The device's logical block size, in bytes. */
  get blockSize(): number {
    return this.#state.probe.blockSize
  }

  /** Bytes; 0 when the filesystem has no device. */
  get deviceSize(): number | bigint {
    return this.#state.probe.deviceSize
  }

  /** Bytes. Throws DMLOOP_TOO_LARGE above Number.MAX_SAFE_INTEGER. */
  get size(): number {
    const { size } = this.facts
    if (typeof size === 'number') return size
    const detail = `is ${size} bytes long, more than ${Number.MAX_SAFE_INTEGER}`
    throw dmloopError('DMLOOP_TOO_LARGE', { file: this.path }, detail)
  }

  get addressCall(): AddressCall {
    return addressCallOf(this.filesystem)
  }

  /**
   * Locks the file against every other process that maps or unmaps it, whatever /run that process has, until
   * it is closed. Rejects with DMLOOP_TIMEOUT when another process keeps its lock.
   *
   * Whoever can read the file can lock it. With `orShared`, a shared lock will do when only shared locks are in
   * the way at the end: it keeps out everybody who wants an exclusive one, and can be had only while nobody has
   * one. That leaves those who ask for a shared lock likewise.
   */
  async flock(limit: WaitLimit, { orShared = false } = {}): Promise<void> {
    const { path, facts } = this
    if (await poll(() => this.#tryFlock(true), limit)) return
    if (orShared && (await this.#tryFlock(false))) {
      log('%s: readers keep it locked', path)
      return
    }
    throw await lockedError(path, [facts], limit)
  }

  /** Whether the file is locked now; undefined when it is not. */
  async #tryFlock(exclusive: boolean): Promise<true | undefined> {
    return (await tryLock(this.fd, this.path, exclusive)) || undefined
  }

  /** Reads the facts of the file again. Rejects with DMLOOP_FILE_CHANGED when its identity has changed. */
  async probe(): Promise<void> {
    const { identity, path, fd } = this
    this.#state = await examine(fd, path, await result(native.probe(fd), path))
    if (this.identity === identity) return
    throw dmloopError('DMLOOP_FILE_CHANGED', { file: path }, 'changed while it was being mapped')
  }

  /**
   * Writes dirty pages and delayed allocations to the disk, so that every block has its address, and probes
   * the file again: it may have changed until the guard was acquired.
   */
  async syncAndProbe(): Promise<void> {
    await result(native.sync(this.fd), this.path)
    await this.probe()
  }

  /**
   * Makes sure that the filesystem's journal writes nothing more to the file's blocks. ext4 moves data out of
   * an inode by way of the journal, as if it were metadata (ext4_convert_inline_data_nolock, fs/ext4/inline.c):
   * until that is written to its place, the disk has something else there, and afterwards it has overwritten
   * what was written since.
   */
  async flushJournal(): Promise<void> {
    if (this.filesystem.name !== 'ext4' || !(await this.#mayHaveHadInlineData())) return
    await result(native.flushJournal(this.fd), this.path)
    log('%s: journal flushed', this.path)
  }

  async #mayHaveHadInlineData(): Promise<boolean> {
    const { deviceName } = this
    if (deviceName === undefined) return true
    const node = `/dev/${deviceName}`
    return await result(native.hasInlineData(node), node).catch((error: unknown) => {
      log('%s: %o', node, error)
      return true
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await result(native.close(this.fd), this.path)
  }
}

/**
 * Repeats opening a file while another process has a write lease on it: each attempt makes the kernel ask for
 * the lease, and end it after /proc/sys/fs/lease-break-time seconds. Rejects with DMLOOP_FILE_IN_USE.
 */
async function unleased(open: () => Promise<OpenedFile>, limit: WaitLimit): Promise<OpenedFile> {
  let last: OpenedFile | undefined
  const opened = await poll(async () => {
    last = await open()
    return last.leased ? undefined : last
  }, limit)
  if (opened) return opened
  const holders = last ? await lockHolders('LEASE', last.probe.facts) : []
  const detail = `has a lease of ${holders.join(', ') || 'another process'}`
  throw new DmloopError({
    ...problem('DMLOOP_FILE_IN_USE', { file: last?.path }, detail),
    remedy:
      'Have the processes that are named close it, or try again later: Linux ends the lease after the seconds in /proc/sys/fs/lease-break-time.',
    blocks: 'all',
  })
}

/** The error for files that other processes keep locked, with who they are. */
export async function lockedError(
  path: string | undefined,
  files: readonly Inode[],
  { timeout }: WaitLimit,
): Promise<DmloopError> {
  const found = await Promise.all(files.map((file) => lockHolders('FLOCK', file)))
  const holders = found.flat().join(', ')
  const detail = `was locked (flock) by ${holders || 'another process'} for ${timeout} ms`
  const timedOut = problem('DMLOOP_TIMEOUT', { file: path }, detail)
  if (holders === '') return new DmloopError(timedOut)
  const remedy = 'Have the processes that are named unlock or close the file, then try again.'
  return new DmloopError({ ...timedOut, remedy })
}

const addressCallOf = ({ name }: Filesystem): AddressCall =>
  FILESYSTEMS[name]?.addresses ?? 'FIEMAP'

async function examine(fd: number, path: string, probe: FileProbe): Promise<FileState> {
  const filesystem = filesystemOf(probe)
  const { major, minor } = probe.facts.device
  const identity = `${major}-${minor}-${await localIdentity(fd, path, probe, filesystem)}`
  return { probe, filesystem, identity, uses: await usesOf(probe) }
}

/** Whether the files of a known filesystem have handles that last. */
export const hasHandles = (name: string): boolean => {
  const known = FILESYSTEMS[name]
  return known !== undefined && known.addresses !== 'FIBMAP'
}

/**
 * What identifies a file within its filesystem: its handle. But vfat has no inodes on the disk and invents
 * numbers whenever it reads a directory entry again (iunique() in fs/fat/inode.c): there a file is identified
 * by the address of its first byte. Filesystems that are only good for loop devices, which keep the file
 * open, need no more than the inode number.
 */
async function localIdentity(
  fd: number,
  path: string,
  { facts: { inode, size, handle } }: FileProbe,
  filesystem: Filesystem,
): Promise<string> {
  const known = FILESYSTEMS[filesystem.name]?.addresses
  if (hasHandles(filesystem.name) && handle !== undefined) return `h${handle}`
  if (known !== 'FIBMAP' || size === 0) return `i${inode}`
  try {
    const walk = native.walkExtents(fd, addressCallOf(filesystem), 0, 1, 1)
    const { extents } = await result(walk, path)
    return `at${native.extentRows(extents, 0, 1)[1] ?? 0}`
  } catch (error) {
    // FIBMAP requires CAP_SYS_RAWIO. Without it nothing can be mapped, but a loop device can be planned.
    if (!isSystemError(error, 'EPERM')) throw error
    return `i${inode}`
  }
}

/** Several files, in the order of the device. */
export class BackingFiles implements AsyncDisposable {
  readonly list: readonly BackingFile[]

  constructor(list: readonly BackingFile[]) {
    this.list = list
  }

  get identities(): string[] {
    return this.list.map(({ identity }) => identity)
  }

  /** Those of their filesystems, as "major:minor". */
  get devices(): string[] {
    return this.list.map(({ device }) => device)
  }

  static async open(files: readonly string[], limit: WaitLimit): Promise<BackingFiles> {
    const opened: BackingFile[] = []
    try {
      for (const file of files) opened.push(await BackingFile.open(file, limit))
      return new BackingFiles(opened)
    } catch (error) {
      await new BackingFiles(opened)[Symbol.asyncDispose]()
      throw error
    }
  }

  /** See `BackingFile.flock`. All processes lock in the same order, so that no two wait for each other. */
  async flock(limit: WaitLimit, options?: { orShared: boolean }): Promise<void> {
    // A file that is named twice is locked once: two descriptors of one process exclude each other as well.
    const files = new Map(this.list.map((file) => [file.identity, file]))
    for (const identity of [...files.keys()].sort())
      await files.get(identity)?.flock(limit, options)
  }

  async probe(): Promise<void> {
    for (const file of this.list) await file.probe()
  }

  async syncAndProbe(): Promise<void> {
    for (const file of this.list) await file.syncAndProbe()
  }

  /** See `BackingFile.flushJournal`. */
  async flushJournal(): Promise<void> {
    for (const file of this.list) await file.flushJournal()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.list.map((file) => file[Symbol.asyncDispose]())
    // All are closed, and so unlocked, even if one fails.
    await Promise.allSettled(closed)
    await Promise.all(closed)
  }
}
