import debug from 'debug'
import { withDeadline } from './kernel/deadline.js'
import { DmloopError, isSystemError, problem, type Problem } from './kernel/errors.js'
import type { Backend } from './kernel/policy.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import {
  parseUnmapOptions,
  parseVerifyOptions,
  type UnmapOptions,
  type UnmapRequest,
  type VerifyOptions,
  type VerifyRequest,
} from './options.js'
import type { Partition } from './partitions.js'

const log = debug('dmloop:mapped-device')

/** Milliseconds between two checks whether a deferred removal has happened; longer while finishing fails. */
const SOON = 100
const LATER = 5000

export interface Verification {
  /** Whether the device still maps the file's own blocks. */
  ok: boolean
  problems: Problem[]
}

/** The properties of a device, as its backend knows them. */
export interface DeviceFacts {
  name: string
  path: string
  major: number
  minor: number
  uuid: string
  readOnly: boolean
  /** Bytes. */
  size: number
  files: readonly string[]
  fallback: readonly Problem[]
  partitions: readonly Partition[]
  partitionProblems: readonly Problem[]
}

/** A block device over a file. Any process can have an object for any mapping; see `openMapping`. */
export abstract class MappedDevice implements AsyncDisposable {
  abstract readonly backend: Backend
  /** Whether the device's I/O bypasses the page cache of the file; always for `'linear'`. */
  abstract readonly directIo: boolean
  /** The number of segments on the underlying devices; 1 for a loop device. */
  abstract readonly segmentCount: number
  /** The name that the mapping was given. */
  readonly name: string
  /** The device's node: /dev/mapper/NAME, or /dev/loopN. */
  readonly path: string
  readonly major: number
  readonly minor: number
  /** `DMLOOP-` and the identity of the file. */
  readonly uuid: string
  readonly readOnly: boolean
  /**
   * The mapped files, without symbolic links. Where the record in /run was lost, those that the UUID and the
   * marks lead to: of several files without a guard only the first; of a loop device, and of files that are
   * not mounted, none.
   */
  readonly files: readonly string[]
  /** Why `backend: 'auto'` chose a loop device. */
  readonly fallback: readonly Problem[]
  /**
   * The devices of partitions when this object was made, in their order, whoever made them: mapFile with
   * `partitions`, or kpartx.
   */
  readonly partitions: readonly Partition[]
  /**
   * What is wrong with the partition table (DMLOOP_BAD_PARTITION): partitions that reach past the end or are not
   * made of whole logical blocks, and have no device; a GPT that cannot be read. Bytes of the device.
   */
  readonly partitionProblems: readonly Problem[]

  #size: number
  #removal: Promise<unknown> = Promise.resolve()
  #removed = false
  #timer: NodeJS.Timeout | undefined

  /** @internal Use mapFile, openMapping or listMappings. */
  constructor(facts: DeviceFacts) {
    this.name = facts.name
    this.path = facts.path
    this.major = facts.major
    this.minor = facts.minor
    this.uuid = facts.uuid
    this.readOnly = facts.readOnly
    this.#size = facts.size
    this.files = facts.files
    this.fallback = facts.fallback
    this.partitions = facts.partitions
    this.partitionProblems = facts.partitionProblems
  }

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  /** @internal */
  protected setSize(size: number): void {
    this.#size = size
    log('%s: extended to %d bytes', this.name, size)
  }

  /**
   * Checks whether the device still maps the file, and changes nothing: for a linear device it reads the
   * extents again, compares them with the live table, and checks the guard; with `content`, it compares the
   * bytes as well. Each deviation is a problem.
   */
  async verify(options?: VerifyOptions): Promise<Verification> {
    const request = parseVerifyOptions(options)
    const limit = { ...DEFAULT_WAIT, signal: request.signal }
    const problems = await withDeadline(limit, (signal) =>
      this.#findProblems({ ...request, signal }),
    )
    log('%s: verified, %d problems', this.name, problems.length)
    return { ok: problems.length === 0, problems }
  }

  async #findProblems(request: VerifyRequest): Promise<Problem[]> {
    try {
      return await this.findProblems(request)
    } catch (error) {
      if (error instanceof DmloopError) return [...error.problems]
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR', 'ENXIO')) throw error
      const detail = `cannot be compared with its device: ${error.message}`
      return [problem('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)]
    }
  }

  /** @internal */
  protected abstract findProblems(request: VerifyRequest): Promise<Problem[]>

  /**
   * Maps what the file has grown by: afterwards the device reaches to the file's last whole logical block.
   * I/O continues meanwhile. A guarded file cannot grow, so a linear device needs guard 'none' for this.
   * Rejects with DMLOOP_FILE_CHANGED when the part that is mapped already has other blocks, and like mapFile
   * when the new part cannot be mapped; then the device stays as it was.
   */
  async extend(): Promise<void> {
    await withDeadline(DEFAULT_WAIT, () => this.extendDevice())
  }

  /** @internal */
  protected abstract extendDevice(): Promise<void>

  /**
   * Removes the device, its partitions first, and releases its files: afterwards they read what was written to
   * the device. Rejects with DMLOOP_STILL_OPEN when the device or a partition is open until `timeout`, and then
   * has removed none of them; with `deferred` the kernel removes it
   * when its last user closes it, and the files are released then, if this process still runs, or by the
   * next call. Rejects with DMLOOP_STALE_CACHE, DMLOOP_FILE_UNREACHABLE, DMLOOP_FILE_IN_USE (a lease), and
   * DMLOOP_READ_ONLY or DMLOOP_UNGUARDABLE for a filesystem or mount that allows no change, when the device is
   * gone but a file cannot be released yet: calling it again, or releaseFile, finishes. Removing a device
   * twice, or after another process did, is no error. When a kernel call does not return, it rejects in time
   * (DMLOOP_TIMEOUT) and finishes when the call returns.
   */
  async unmap(options?: UnmapOptions): Promise<void> {
    const request = parseUnmapOptions(options)
    // One at a time: a second call waits for the first, and continues where that one stopped.
    const attempt = this.#removal.then(() => withDeadline(request, () => this.#remove(request)))
    this.#removal = attempt.catch(() => undefined)
    await attempt
  }

  async #remove(request: UnmapRequest): Promise<void> {
    if (this.#removed) return
    if ((await this.remove(request)) === 'deferred') {
      this.#scheduleFinish(SOON)
      return
    }
    this.#removed = true
    clearTimeout(this.#timer)
  }

  /** The kernel does not report that a deferred removal has happened. The timer keeps no process alive. */
  #scheduleFinish(pause: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#finishIfGone().catch((error: unknown) => {
        log('%s: %o', this.name, error)
        this.#scheduleFinish(Math.min(pause * 2, LATER))
      })
    }, pause).unref()
  }

  async #finishIfGone(): Promise<void> {
    if (this.#removed) return
    if (await this.exists()) this.#scheduleFinish(SOON)
    else await this.unmap()
  }

  /** Removes the device and releases its files, as far as that has not been done. @internal */
  protected abstract remove(request: UnmapRequest): Promise<'removed' | 'deferred'>

  /** Whether the kernel still has the device. @internal */
  protected abstract exists(): Promise<boolean>

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmap()
  }
}
