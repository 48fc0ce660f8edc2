// An image that is being made: its files under temporary names until it is complete.
import { lstat, readFile } from 'node:fs/promises'
import debug from 'debug'
import { DmloopError, dmloopError, problem } from '../kernel/errors.js'
import { headOf } from '../plan/swap-head.js'
import { ImageFile } from './image-file.js'
import type { ImageTarget } from './image-target.js'
import type { ImageFiles } from './image-writer.js'
import type { CreateRequest } from './options.js'

const log = debug('dmloop:new-image')

/** Bytes that are allocated at a time while the size of the content is not known. */
const GROWTH = 256 << 20

/** How often a filesystem may try to give a file few extents. */
const ATTEMPTS = 4

/** What open(2) gives a new file, less the umask. */
const DEFAULT_MODE = 0o666

/** proc_pid_status(5). process.umask() would change it for a moment, for all threads. */
async function currentUmask(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8')
  return parseInt(/^Umask:\s*([0-7]+)/m.exec(status)?.[1] ?? '22', 8)
}

interface NewFile {
  file: ImageFile
  /** Bytes that have space. */
  allocated: number
}

export class NewImage implements ImageFiles, AsyncDisposable {
  readonly #target: ImageTarget
  readonly #request: CreateRequest
  readonly #files: NewFile[] = []
  /** Bytes; undefined while it is not known. */
  #size: number | undefined
  #published = false

  private constructor(target: ImageTarget, request: CreateRequest) {
    this.#target = target
    this.#request = request
  }

  /**
   * Creates the first file, whose lock keeps other calls from making the same image, and removes what a
   * killed process has left. Rejects with DMLOOP_FILE_IN_USE while another call makes it.
   */
  static async begin(target: ImageTarget, request: CreateRequest): Promise<NewImage> {
    const image = new NewImage(target, request)
    for (;;) {
      request.signal?.throwIfAborted()
      if (await image.#create(0)) {
        await target.removeNote()
        return image
      }
      await using left = await ImageFile.find(image.#place(0))
      if (left) await target.removeTemporary()
    }
  }

  /** Bytes: the logical block size of the disk. */
  get blockSize(): number {
    return this.#first.blockSize
  }

  get fileSize(): number {
    return this.#first.largest(this.#request.maxFileSize)
  }

  get #first(): ImageFile {
    return (this.#files[0] as NewFile).file
  }

  /** Allocates all of an image whose size is known. */
  async allocate(size: number): Promise<void> {
    this.#size = size
    for (let index = 0; index * this.fileSize < size; index++) await this.fileFor(index, 0)
  }

  async fileFor(index: number, size: number): Promise<ImageFile> {
    while (this.#files.length <= index) {
      if (!(await this.#create(this.#files.length))) throw this.#inUse()
    }
    const entry = this.#files[index] as NewFile
    const whole = this.#sizeOf(index)
    if (whole !== undefined && entry.allocated < whole) await this.#allocate(index, whole)
    else if (entry.allocated < size) await this.#grow(entry, size)
    return entry.file
  }

  /** Bytes of a file, where the size of the image is known. */
  #sizeOf(index: number): number | undefined {
    return this.#size && Math.min(this.fileSize, this.#size - index * this.fileSize)
  }

  async #grow(entry: NewFile, size: number): Promise<void> {
    const ahead = Math.min(this.fileSize, Math.max(size, entry.allocated + GROWTH))
    try {
      await entry.file.allocate(entry.allocated, ahead)
      entry.allocated = ahead
    } catch (error) {
      if (ahead === size || !isNoSpace(error)) throw error
      await entry.file.allocate(entry.allocated, size)
      entry.allocated = size
    }
  }

  /**
   * Allocates a file in one go. Where it has too many extents, another one is made while this one keeps its
   * space, so that the filesystem looks elsewhere.
   */
  async #allocate(index: number, size: number): Promise<void> {
    const rejected: ImageFile[] = []
    try {
      for (;;) {
        const entry = this.#files[index] as NewFile
        const isAllocated = await entry.file.allocate(0, size)
        entry.allocated = size
        // Where nothing can be allocated in advance, `finish` counts.
        if (!isAllocated || (await this.#hasFewExtents(entry.file, size))) return
        if (rejected.length + 1 === ATTEMPTS) throw await this.#tooManyExtents(entry.file, size)
        await entry.file.remove()
        rejected.push(entry.file)
        if (!(await this.#create(index))) throw this.#inUse()
      }
    } catch (error) {
      const [first] = rejected
      throw first && isNoSpace(error) ? await this.#tooManyExtents(first, size) : error
    } finally {
      for (const file of rejected) await file[Symbol.asyncDispose]()
    }
  }

  async #hasFewExtents(file: ImageFile, size: number): Promise<boolean> {
    const { maxExtents } = this.#request
    return maxExtents === undefined || (await file.countExtents(size)) <= maxExtents
  }

  async #tooManyExtents(file: ImageFile, size: number): Promise<DmloopError> {
    const count = await file.countExtents(size)
    const detail = `is in ${count} extents, and maxExtents allows ${this.#request.maxExtents ?? count}`
    return new DmloopError({
      ...problem('DMLOOP_TOO_MANY_SEGMENTS', { file: this.#target.path }, detail),
      remedy: 'Free more space in one piece there, or allow more extents.',
    })
  }

  /** Gives the image its size; then all of it is on the disk. */
  async finish(size: number): Promise<void> {
    this.#size = size
    for (const [index, { file }] of this.#files.entries()) {
      const length = this.#sizeOf(index) ?? 0
      await file.finish(length)
      if (!(await this.#hasFewExtents(file, length))) throw await this.#tooManyExtents(file, length)
    }
  }

  /** Gives the files their names, in place of those of an image that is there. Returns their paths. */
  async publish(old: readonly string[]): Promise<string[]> {
    const like = old[0] === undefined ? undefined : await lstat(old[0])
    for (const { file } of this.#files) {
      await (like ? file.adopt(like) : file.setMode(DEFAULT_MODE & ~(await currentUmask())))
    }
    const paths = await this.#target.publish(this.#files.length, old)
    this.#published = true
    log('%o', paths)
    return paths
  }

  /** Whether there was none with this name. */
  async #create(index: number): Promise<boolean> {
    const file = await ImageFile.create(this.#place(index))
    if (file) this.#files[index] = { file, allocated: 0 }
    return file !== undefined
  }

  #place(index: number): { path: string; image: string; head: number } {
    const head = headOf(this.#request.guard)
    return { path: this.#target.temporaryPath(index), image: this.#target.path, head }
  }

  #inUse(): DmloopError {
    const detail = 'is being made by another process'
    return dmloopError('DMLOOP_FILE_IN_USE', { file: this.#target.path }, detail)
  }

  /** Removes the files of an image that is not complete; the first, which is locked, at last. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      // Else it is another call's.
      const isOwn = !this.#published && (await this.#files[0]?.file.isNamed())
      if (isOwn === true) await this.#target.removeTemporary()
    } finally {
      for (const { file } of this.#files) await file[Symbol.asyncDispose]()
    }
  }
}

const isNoSpace = (error: unknown): boolean =>
  error instanceof DmloopError && error.code === 'DMLOOP_NO_SPACE'
