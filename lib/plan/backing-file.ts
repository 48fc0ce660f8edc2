// The file beneath a device: opened once, known by what it is and not by its path.
import debug from 'debug'
import { isSystemError, verdict } from '../kernel/errors.js'
import { filesystemOf, type Filesystem } from '../kernel/filesystems.js'
import { native, result, type FileFacts, type Look, type OpenedFile } from '../kernel/native.js'
import { FILESYSTEMS, type AddressCall } from '../kernel/policy.js'
import { deviceName } from '../kernel/sysfs.js'
import { usesOf, type Uses } from '../kernel/file-uses.js'
import { poll, type Patience } from '../kernel/wait.js'

const log = debug('dmloop:backing-file')

export class BackingFile {
  /** The path without symbolic links. */
  readonly path: string
  readonly fd: number
  /** What the file is, whatever it is called: its filesystem's device, and what it is known by there. */
  identity = ''
  uses: Uses = { swap: false, loops: [] }
  #look: Look
  #filesystem: Filesystem

  private constructor(path: string, fd: number, look: Look) {
    this.path = path
    this.fd = fd
    this.#look = look
    this.#filesystem = filesystemOf(look)
  }

  /**
   * Opens a regular file for reading. Rejects with DMLOOP_NOT_REGULAR_FILE for anything else, and
   * with the system's error where there is no file or no permission.
   */
  static async open(file: string): Promise<BackingFile> {
    const opened = await result(native.openFile(file), file)
    if (opened.fd < 0) throw verdict('DMLOOP_NOT_REGULAR_FILE', { file: opened.path })
    return await BackingFile.#of(opened)
  }

  /**
   * Opens a file by its handle, on the filesystem of a device, through any mount that there is. Rejects
   * with ESTALE when the filesystem has no such file, and with ENODEV when it is mounted nowhere.
   */
  static async openHandle(major: number, minor: number, handle: string): Promise<BackingFile> {
    return await BackingFile.#of(await result(native.openFileByHandle(major, minor, handle)))
  }

  static async #of({ fd, path, look }: OpenedFile): Promise<BackingFile> {
    const backing = new BackingFile(path, fd, look)
    try {
      await backing.#identify()
    } catch (error) {
      await backing[Symbol.asyncDispose]()
      throw error
    }
    log('%s: %s on %s, inode %s', path, backing.filesystem.name, backing.device, look.facts.inode)
    return backing
  }

  get facts(): FileFacts {
    return this.#look.facts
  }

  get filesystem(): Filesystem {
    return this.#filesystem
  }

  /** The filesystem's device, as "major:minor". */
  get device(): string {
    return deviceName(this.facts.major, this.facts.minor)
  }

  /** The kernel's name of that device, if it has one. */
  get deviceName(): string | undefined {
    return this.#look.kernelName
  }

  /** The device's logical block size, in bytes. */
  get blockSize(): number {
    return this.#look.blockSize
  }

  /** Bytes; 0 when the filesystem has no device. */
  get deviceSize(): number | bigint {
    return this.#look.deviceSize
  }

  /** Bytes. Throws DMLOOP_TOO_LARGE where they are too many to be told exactly. */
  get size(): number {
    const { size } = this.facts
    if (typeof size === 'number') return size
    const detail = `is ${size} bytes long, more than ${Number.MAX_SAFE_INTEGER}`
    throw verdict('DMLOOP_TOO_LARGE', { file: this.path }, detail)
  }

  get addressCall(): AddressCall {
    return FILESYSTEMS[this.filesystem.name]?.addresses ?? 'FIEMAP'
  }

  async #identify(): Promise<void> {
    const { major, minor } = this.facts
    this.identity = `${major}-${minor}-${await this.#place()}`
    this.uses = await usesOf(this.#look)
  }

  /**
   * What its filesystem knows the file by: its handle, which has a number for each file that ever had the
   * inode. But vfat has no inodes and makes numbers up whenever it reads a file's entry anew (iunique() in
   * fs/fat/inode.c): there a file is known by where its first byte is stored. On a filesystem that
   * is known for nothing but loop devices, which hold the file themselves, the inode number will do.
   */
  async #place(): Promise<string> {
    const { inode, size, handle } = this.facts
    const known = FILESYSTEMS[this.filesystem.name]?.addresses
    if (known === 'FIEMAP' && handle !== undefined) return `h${handle}`
    if (known !== 'FIBMAP' || size === 0) return `i${inode}`
    try {
      const { extents } = await result(
        native.walkExtents(this.fd, this.addressCall, 0, 1, 1),
        this.path,
      )
      return `at${native.extentRows(extents, 0, 1)[1] ?? 0}`
    } catch (error) {
      // FIBMAP is for root (CAP_SYS_RAWIO). Who may not ask may not map either, but may plan a loop device.
      if (!isSystemError(error, 'EPERM')) throw error
      return `i${inode}`
    }
  }

  /**
   * Writes dirty pages and delayed allocations to the disk, so that every block has its address, and
   * looks at the file again: until it was held still it may have changed.
   */
  async settle(): Promise<void> {
    await result(native.sync(this.fd), this.path)
    await this.look()
  }

  /**
   * Keeps every other process from mapping or unmapping the file, until it is closed, wherever that process
   * has its /run. Rejects with DMLOOP_TIMEOUT when another one has it locked for so long.
   */
  async lock(patience: Patience): Promise<void> {
    const { fd, path } = this
    const locked = await poll(async () => {
      try {
        await result(native.lockFile(fd), path)
        return true
      } catch (error) {
        if (isSystemError(error, 'EAGAIN')) return undefined
        // A filesystem without such locks, or over a network, whose server wants a writer.
        if (isSystemError(error, 'EBADF', 'ENOLCK', 'ENOSYS', 'EOPNOTSUPP', 'ENOTSUP')) return true
        throw error
      }
    }, patience)
    if (locked) return
    const detail = `was locked (flock) by another process for ${patience.timeout} ms`
    throw verdict('DMLOOP_TIMEOUT', { file: path }, detail)
  }

  /** Looks at the file again. Rejects with DMLOOP_FILE_CHANGED when it is another by now. */
  async look(): Promise<void> {
    const { identity, path, fd } = this
    this.#look = await result(native.lookAt(fd), path)
    this.#filesystem = filesystemOf(this.#look)
    await this.#identify()
    if (this.identity === identity) return
    throw verdict('DMLOOP_FILE_CHANGED', { file: path }, 'changed while it was being mapped')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await result(native.close(this.fd), this.path)
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

  static async open(files: readonly string[]): Promise<BackingFiles> {
    const opened: BackingFile[] = []
    try {
      for (const file of files) opened.push(await BackingFile.open(file))
      return new BackingFiles(opened)
    } catch (error) {
      await new BackingFiles(opened)[Symbol.asyncDispose]()
      throw error
    }
  }

  /** See `BackingFile.lock`; in one order for everyone, so that two processes cannot wait for each other. */
  async lock(patience: Patience): Promise<void> {
    // A file that is named twice is locked once: two descriptors of one process exclude each other, too.
    const files = new Map(this.list.map((file) => [file.identity, file]))
    for (const identity of [...files.keys()].sort()) await files.get(identity)?.lock(patience)
  }

  async settle(): Promise<void> {
    for (const file of this.list) await file.settle()
  }

  async look(): Promise<void> {
    for (const file of this.list) await file.look()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.list) await file[Symbol.asyncDispose]()
  }
}
