// The file beneath a device: opened once, known by what it is and not by its path.
import { constants } from 'node:fs'
import { open, realpath, stat, type FileHandle } from 'node:fs/promises'
import debug from 'debug'
import { isSystemError, verdict } from './errors.js'
import { filesystemOf, type Filesystem } from './filesystems.js'
import { native, result, type FileFacts } from './native.js'
import { FILESYSTEMS, type AddressCall } from './policy.js'
import { deviceName, deviceSize, logicalBlockSize } from './sysfs.js'
import { usesOf, type Uses } from './uses.js'

const log = debug('dmloop:backing-file')

export class BackingFile {
  /** The path without symbolic links. */
  readonly path: string
  readonly handle: FileHandle
  readonly filesystem: Filesystem
  facts: FileFacts
  /** What the file is, whatever it is called: its filesystem's device, and its place there. */
  identity = ''
  uses: Uses = { swap: false, loops: [] }
  /** The filesystem's device, as "major:minor". */
  readonly device: string
  /** The device's logical block size, in bytes. */
  readonly blockSize: number
  /** Bytes; 0 when the filesystem has no device. */
  readonly deviceSize: number

  private constructor(
    path: string,
    handle: FileHandle,
    facts: FileFacts,
    filesystem: Filesystem,
    sizes: { blockSize: number; deviceSize: number },
  ) {
    this.path = path
    this.handle = handle
    this.facts = facts
    this.filesystem = filesystem
    this.device = deviceName(facts.major, facts.minor)
    this.blockSize = sizes.blockSize
    this.deviceSize = sizes.deviceSize
  }

  /**
   * Opens a regular file for reading. Rejects with DMLOOP_NOT_REGULAR_FILE for anything else, and
   * with the system's error where there is no file or no permission.
   */
  static async open(file: string): Promise<BackingFile> {
    const path = await realpath(file)
    // To open a device or a pipe can do something; it is asked what it is first.
    if (!(await stat(path)).isFile()) throw verdict('DMLOOP_NOT_REGULAR_FILE', { file: path })
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const facts = await result(native.inspect(handle.fd), path)
      if ((facts.mode & constants.S_IFMT) !== constants.S_IFREG) {
        throw verdict('DMLOOP_NOT_REGULAR_FILE', { file: path })
      }
      const device = deviceName(facts.major, facts.minor)
      const sizes = {
        blockSize: await logicalBlockSize(device),
        deviceSize: await deviceSize(device),
      }
      const backing = new BackingFile(path, handle, facts, await filesystemOf(facts), sizes)
      await backing.#identify()
      log('%s: %s on %s, inode %s', path, backing.filesystem.name, backing.device, facts.inode)
      return backing
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  get size(): number {
    return this.facts.size
  }

  get addressCall(): AddressCall {
    return FILESYSTEMS[this.filesystem.name]?.addresses ?? 'FIEMAP'
  }

  async #identify(): Promise<void> {
    const { major, minor } = this.facts
    this.identity = `${major}-${minor}-${await this.#place()}`
    this.uses = await usesOf(this.facts)
  }

  /**
   * The inode number; but vfat has no inodes and makes numbers up whenever it reads a file's entry anew
   * (iunique() in fs/fat/inode.c): there a file is known by where its first byte lies.
   */
  async #place(): Promise<string> {
    const { inode, size } = this.facts
    if (this.addressCall !== 'FIBMAP' || size === 0) return inode
    try {
      const start = await result(
        native.walkExtents(this.handle.fd, this.addressCall, 0, 1),
        this.path,
      )
      return `at${start.rows[1] ?? 0}`
    } catch (error) {
      // FIBMAP is for root (CAP_SYS_RAWIO). Who may not ask may not map either, but may plan a loop device.
      if (!isSystemError(error, 'EPERM')) throw error
      return inode
    }
  }

  /**
   * Writes dirty pages and delayed allocations to the disk, so that every block has its address, and
   * looks at the file again: until it was held still it may have changed.
   */
  async settle(): Promise<void> {
    await this.handle.sync()
    await this.look()
  }

  /** Looks at the file again. Rejects with DMLOOP_FILE_CHANGED when it is another by now. */
  async look(): Promise<void> {
    const { identity, path, handle } = this
    this.facts = await result(native.inspect(handle.fd), path)
    await this.#identify()
    if (this.identity === identity) return
    throw verdict('DMLOOP_FILE_CHANGED', { file: path }, 'changed while it was being mapped')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close()
  }
}

/** Several files, opened all or none. */
export class BackingFiles implements AsyncDisposable {
  readonly list: readonly BackingFile[]

  private constructor(list: readonly BackingFile[]) {
    this.list = list
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
