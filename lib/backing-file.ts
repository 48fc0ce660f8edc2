// The file beneath a device: opened once, known by what it is and not by its path.
import { constants } from 'node:fs'
import { open, realpath, stat, type FileHandle } from 'node:fs/promises'
import debug from 'debug'
import { verdict } from './errors.js'
import { filesystemOf, type Filesystem } from './filesystems.js'
import { native, result, type FileFacts } from './native.js'
import { deviceName, logicalBlockSize } from './sysfs.js'

const log = debug('dmloop:backing-file')

export class BackingFile {
  /** The path without symbolic links. */
  readonly path: string
  readonly handle: FileHandle
  facts: FileFacts
  readonly filesystem: Filesystem
  /** The filesystem's device, as "major:minor". */
  readonly device: string
  /** The device's logical block size, in bytes. */
  readonly blockSize: number

  private constructor(
    path: string,
    handle: FileHandle,
    facts: FileFacts,
    filesystem: Filesystem,
    blockSize: number,
  ) {
    this.path = path
    this.handle = handle
    this.facts = facts
    this.filesystem = filesystem
    this.device = deviceName(facts.major, facts.minor)
    this.blockSize = blockSize
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
      const blockSize = await logicalBlockSize(deviceName(facts.major, facts.minor))
      const backing = new BackingFile(path, handle, facts, await filesystemOf(facts), blockSize)
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

  /** What the file is, whatever it is called: its filesystem's device and its inode. */
  get identity(): string {
    return `${this.facts.major}-${this.facts.minor}-${this.facts.inode}`
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

  /**
   * Writes dirty pages and delayed allocations to the disk, so that every block has its address, and
   * looks at the files again: until they were held still they may have changed.
   */
  async settle(): Promise<void> {
    for (const file of this.list) {
      await file.handle.sync()
      file.facts = await result(native.inspect(file.handle.fd), file.path)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.list) await file[Symbol.asyncDispose]()
  }
}
