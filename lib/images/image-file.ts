// A file of an image that is being made: all of its space allocated before anything is written.
import { constants } from 'node:fs'
import { chmod, chown, unlink } from 'node:fs/promises'
import debug from 'debug'
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { lockHolders, tryLock } from '../kernel/file-locks.js'
import { filesystemOf, type Filesystem } from '../kernel/filesystems.js'
import { FALLOCATE, native, result, type FileProbe, type WriteBuffer } from '../kernel/native.js'
import { identify } from '../kernel/path.js'
import { FILESYSTEMS } from '../kernel/policy.js'
import { needsPin } from '../plan/protections.js'
import { tryDirectIo } from './direct-io.js'
import { explainingErrors, explainWriteError } from './write-errors.js'

const log = debug('dmloop:image-file')

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR } = constants

/** The file's own path, and the image's. */
interface Place {
  path: string
  image: string
  /** Bytes at the start of the file that are not the image's: 0 or SWAP_HEAD. Positions do not count them. */
  head: number
}

/** How often f2fs may clean up to make room for a pinned file. */
const CLEANINGS = 5

/** Repeats an allocation that is to be tried again: a pinned file gets whole sections (f2fs_expand_inode_data). */
async function persistently(allocate: () => Promise<void>): Promise<void> {
  for (let left = CLEANINGS; ; left--) {
    try {
      await allocate()
      return
    } catch (error) {
      if (left === 0 || !isSystemError(error, 'EAGAIN')) throw error
    }
  }
}

export class ImageFile implements AsyncDisposable {
  /** Of the image: for messages. */
  readonly #image: string
  readonly #path: string
  readonly #head: number
  readonly fd: number
  readonly #probe: FileProbe
  readonly #filesystem: Filesystem

  private constructor({ path, image, head }: Place, fd: number, probe: FileProbe) {
    this.#path = path
    this.#image = image
    this.#head = head
    this.fd = fd
    this.#probe = probe
    this.#filesystem = filesystemOf(probe)
  }

  /** Creates a file, and locks it; undefined when there is one already. */
  static async create(place: Place): Promise<ImageFile | undefined> {
    const file = await ImageFile.#open(place, O_CREAT | O_EXCL, 'EEXIST')
    if (!file) return undefined
    await file.#prepare()
    return file
  }

  /** Opens and locks a file that another call has created; undefined when there is none. */
  static find(place: Place): Promise<ImageFile | undefined> {
    return ImageFile.#open(place, 0, 'ENOENT')
  }

  /**
   * Rejects with DMLOOP_FILE_IN_USE while another process has it locked; `none` is the error that is no
   * error. Undefined also where the process that had it locked has removed or renamed it.
   */
  static async #open(place: Place, flags: number, none: string): Promise<ImageFile | undefined> {
    const { path, image } = place
    let fd: number
    try {
      fd = await result(native.open(path, O_RDWR | O_NOFOLLOW | flags), path)
    } catch (error) {
      if (isSystemError(error, none)) return undefined
      throw explainWriteError(error, image)
    }
    try {
      const file = new ImageFile(place, fd, await result(native.probe(fd), path))
      await file.#lock()
      if (await file.isNamed()) return file
    } catch (error) {
      await result(native.close(fd), path)
      throw error
    }
    await result(native.close(fd), path)
    return undefined
  }

  async #lock(): Promise<void> {
    if (await tryLock(this.fd, this.#path, true)) return
    const holders = await lockHolders('FLOCK', this.#probe.facts)
    const detail = `is being made by ${holders.join(', ') || 'another process'}`
    throw dmloopError('DMLOOP_FILE_IN_USE', { file: this.#image }, detail)
  }

  /** Whether its path still leads to it. */
  async isNamed(): Promise<boolean> {
    const { inode, major, minor } = this.#probe.facts
    try {
      const found = await identify(this.#path)
      return found.inode === inode && found.fsMajor === major && found.fsMinor === minor
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return false
      throw error
    }
  }

  /**
   * While it is empty: only then newer kernels pin a file on f2fs (f2fs_ioc_set_pin_file, fs/f2fs/file.c), and btrfs
   * agrees to write it in place.
   */
  async #prepare(): Promise<void> {
    const { fd } = this
    const path = this.#path
    const { inPlace } = FILESYSTEMS[this.#filesystem.name] ?? {}
    if (needsPin({ filesystem: this.#filesystem })) {
      await result(native.setPinned(fd, true), path).catch((error: unknown) => {
        log('%s: not pinned: %o', path, error)
      })
    }
    if (inPlace !== undefined && this.#head > 0) await result(native.setInPlace(fd, true), path)
    await tryDirectIo(fd, path, this.#filesystem)
  }

  /** The logical block size of the filesystem's device, in bytes. */
  get blockSize(): number {
    return this.#probe.blockSize
  }

  /** The most bytes of an image that one file can have, of which the filesystem or the caller allows so many. */
  largest(allowed = Number.MAX_SAFE_INTEGER): number {
    const { largestFile = Number.MAX_SAFE_INTEGER } = FILESYSTEMS[this.#filesystem.name] ?? {}
    return Math.min(allowed, largestFile) - this.#head
  }

  /**
   * Allocates space up to a size, of which `from` bytes have it already. Returns whether the filesystem can do
   * that before anything is written.
   */
  async allocate(from: number, size: number): Promise<boolean> {
    const { fd } = this
    const image = this.#image
    // vfat writes zeros, through the page cache, into what becomes part of a file (fat_fallocate, fs/fat/file.c).
    const mode = this.#filesystem.name === 'vfat' ? FALLOCATE.keepSize : 0
    const start = from === 0 ? 0 : this.#head + from
    const length = this.#head + size - start
    try {
      await persistently(() => result(native.allocate(fd, mode, start, length), image))
      return true
    } catch (error) {
      if (!isSystemError(error, 'EOPNOTSUPP', 'ENOTSUP', 'ENOSYS'))
        throw explainWriteError(error, image)
      log('%s: cannot be allocated in advance', image)
      return false
    }
  }

  /** How many extents its first bytes are in. Throws DMLOOP_UNSUPPORTED_FILESYSTEM where nobody knows. */
  async countExtents(size: number): Promise<number> {
    const image = this.#image
    const known = FILESYSTEMS[this.#filesystem.name]
    if (!known) throw dmloopError('DMLOOP_UNSUPPORTED_FILESYSTEM', { file: image })
    const walk = native.walkExtents(this.fd, known.addresses, this.#head, size, this.blockSize)
    return (await result(walk, image)).count
  }

  async write(buffer: WriteBuffer, length: number, offset: number): Promise<void> {
    await this.#change(native.write(this.fd, buffer, length, this.#head + offset))
  }

  async writeZeros(offset: number, length: number): Promise<void> {
    await this.#change(native.writeZeros(this.fd, this.#head + offset, length))
  }

  /** Gives the file its size, and makes sure that all of it is on the disk. */
  async finish(size: number): Promise<void> {
    if (this.#head > 0) await this.#writeHead()
    await this.#truncate(this.#head + size)
    await this.#change(native.sync(this.fd))
  }

  /**
   * Newer kernels truncate a pinned file on f2fs at whole sections only, and not even to the size that it has
   * (f2fs_setattr, fs/f2fs/file.c).
   */
  async #truncate(size: number): Promise<void> {
    try {
      await this.#change(native.truncate(this.fd, size))
    } catch (error) {
      const facts = await result(native.inspect(this.fd), this.#image)
      if (!isSystemError(error, 'EINVAL') || facts.size !== size) throw error
      log('%s: %o', this.#image, error)
    }
  }

  /** All of it: swap space has no holes. */
  async #writeHead(): Promise<void> {
    await this.#change(native.writeZeros(this.fd, 0, this.#head))
    await this.#change(native.writeSwapHeader(this.fd))
  }

  async #change(pending: Parameters<typeof result<void>>[0]): Promise<void> {
    await explainingErrors(this.#image, result(pending, this.#image))
  }

  /** Gives it the owner and the mode of another file, as far as this process and the filesystem may. */
  async adopt({ uid, gid, mode }: { uid: number; gid: number; mode: number }): Promise<void> {
    await this.#permit(() => chown(this.#self, uid, gid))
    await this.setMode(mode & 0o7777)
  }

  /** Until it is complete, only its owner can open it. vfat has no modes but those of its mount. */
  async setMode(mode: number): Promise<void> {
    await this.#permit(() => chmod(this.#self, mode))
  }

  /** This very file, whatever is at its path now. */
  get #self(): string {
    return `/proc/self/fd/${this.fd}`
  }

  async #permit(change: () => Promise<void>): Promise<void> {
    await change().catch((error: unknown) => {
      if (!isSystemError(error, 'EPERM')) throw error
      log('%s: %o', this.#image, error)
    })
  }

  async remove(): Promise<void> {
    await unlink(this.#path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await result(native.close(this.fd), this.#path)
  }
}
