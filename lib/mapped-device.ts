import debug from 'debug'
import { readRecord, type MappingRecord } from './file-lock.js'
import { withDeadline } from './kernel/deadline.js'
import { DmloopError, isSystemError, problem, verdict, type Problem } from './kernel/errors.js'
import { identityOf } from './plan/names.js'
import {
  parseUnmapOptions,
  parseVerifyOptions,
  PATIENCE,
  type UnmapOptions,
  type UnmapRequest,
  type VerifyOptions,
  type VerifyRequest,
} from './options.js'
import type { Backend } from './kernel/policy.js'

const log = debug('dmloop:mapped-device')

/** Milliseconds between two looks whether a deferred removal has happened; longer where finishing fails. */
const SOON = 100
const LATER = 5000

export interface Verification {
  /** Whether the device still shows the file's own blocks. */
  ok: boolean
  problems: Problem[]
}

/** What a backend knows of a device. */
export interface DeviceFacts {
  name: string
  path: string
  major: number
  minor: number
  uuid: string
  readOnly: boolean
  /** Bytes. */
  size: number
}

/** A block device over a file. Any process can hold one for any mapping. */
export abstract class MappedDevice implements AsyncDisposable {
  abstract readonly backend: Backend
  /** Whether the device's I/O passes the page cache by; always so for `'linear'`. */
  abstract readonly directIo: boolean
  /** How many pieces the file is in on the disks beneath; 1 for a loop device. */
  abstract readonly segmentCount: number
  /** The name that the mapping was given. */
  readonly name: string
  /** The device's node: /dev/mapper/NAME, or /dev/loopN. */
  readonly path: string
  readonly major: number
  readonly minor: number
  /** `DMLOOP-` and what the file is. */
  readonly uuid: string
  readonly readOnly: boolean
  /** The files beneath, without symbolic links; empty if their record in /run was lost. */
  readonly files: readonly string[]
  /** Why the device is a loop device although `backend: 'auto'` would rather have had it linear. */
  readonly fallback: readonly Problem[]

  /** @internal */
  protected record: MappingRecord | undefined
  #size: number
  #removal: Promise<unknown> = Promise.resolve()
  #removed = false
  #timer: NodeJS.Timeout | undefined

  /** @internal Use mapFile, openMapping or listMappings. */
  constructor(facts: DeviceFacts, record: MappingRecord | undefined) {
    this.name = facts.name
    this.path = facts.path
    this.major = facts.major
    this.minor = facts.minor
    this.uuid = facts.uuid
    this.readOnly = facts.readOnly
    this.#size = facts.size
    this.record = record
    this.files = record?.files ?? []
    this.fallback = record?.fallback ?? []
  }

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  /** @internal The device has grown to what this record says. */
  protected grown(record: MappingRecord): void {
    this.record = record
    this.resized(record.length)
  }

  /** @internal The device has this many bytes now. */
  protected resized(size: number): void {
    this.#size = size
    log('%s: extended to %d bytes', this.name, size)
  }

  /**
   * Looks whether the device still shows the file: for a linear one, reads the extents again, compares
   * them with the live table and looks whether the file is still held still; with `content`, compares the
   * bytes too. Each deviation is a problem; nothing is changed.
   */
  async verify(options?: VerifyOptions): Promise<Verification> {
    const request = parseVerifyOptions(options)
    const patience = { ...PATIENCE, signal: request.signal }
    const problems = await withDeadline(patience, (signal) =>
      this.#problems({ ...request, signal }),
    )
    log('%s: verified, %d problems', this.name, problems.length)
    return { ok: problems.length === 0, problems }
  }

  async #problems(request: VerifyRequest): Promise<Problem[]> {
    try {
      return await this.deviations(request)
    } catch (error) {
      if (error instanceof DmloopError) return [...error.problems]
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR', 'ENXIO')) throw error
      const detail = `cannot be compared with its device: ${error.message}`
      return [problem('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)]
    }
  }

  /** @internal */
  protected abstract deviations(request: VerifyRequest): Promise<Problem[]>

  /**
   * The record of this mapping as it is now: another object may have extended it. Rejects with
   * DMLOOP_FILE_CHANGED when the file has been mapped anew.
   * @internal
   */
  protected async currentRecord(): Promise<MappingRecord> {
    const own = this.record
    const record = (await readRecord(identityOf(this.uuid) ?? '')) ?? own ?? (await this.recall())
    if (record && (!own || isOf(record, own))) return record
    const detail = 'is not the mapping that this object was made for'
    throw verdict('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)
  }

  /** What can be told of the mapping without its record. @internal */
  protected recall(): Promise<MappingRecord | undefined> {
    return Promise.resolve(undefined)
  }

  /**
   * Maps what the file has grown by: afterwards the device reaches to the file's last whole logical
   * block. I/O goes on meanwhile. A file that is held still cannot grow: a linear device needs guard:
   * 'none' for that. Rejects with DMLOOP_FILE_CHANGED when the part that is mapped already lies elsewhere
   * by now, and like mapFile when the new part cannot be mapped; then the device stays as it was.
   */
  async extend(): Promise<void> {
    await withDeadline(PATIENCE, () => this.enlarge())
  }

  /** @internal */
  protected abstract enlarge(): Promise<void>

  /**
   * Removes the device, and lets its files go: afterwards they read what was written to the device. Rejects
   * with DMLOOP_STILL_OPEN when it is open until `timeout`; with `deferred` the kernel removes it as
   * soon as nobody has it open, and the files are let go then, as long as this process lives, or by the next
   * call. Rejects with DMLOOP_STALE_CACHE and DMLOOP_FILE_UNREACHABLE when the device is gone but a file
   * cannot be let go yet: calling it again, or releaseFile, finishes. Removing a device twice, or after
   * another process did, is no error. Where the kernel keeps a call, it rejects in time (DMLOOP_TIMEOUT) and
   * is finished when the call returns.
   */
  async unmap(options?: UnmapOptions): Promise<void> {
    const request = parseUnmapOptions(options)
    // One at a time: a second call waits for the first, and goes on where that one has stopped.
    const attempt = this.#removal.then(() => withDeadline(request, () => this.#remove(request)))
    this.#removal = attempt.catch(() => undefined)
    await attempt
  }

  async #remove(request: UnmapRequest): Promise<void> {
    if (this.#removed) return
    if ((await this.remove(request)) === 'deferred') {
      this.#finishLater(SOON)
      return
    }
    this.#removed = true
    clearTimeout(this.#timer)
  }

  /** The kernel tells nobody that a deferred removal has happened. The timer keeps no process alive. */
  #finishLater(pause: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#finishIfGone().catch((error: unknown) => {
        log('%s: %o', this.name, error)
        this.#finishLater(Math.min(pause * 2, LATER))
      })
    }, pause).unref()
  }

  async #finishIfGone(): Promise<void> {
    if (this.#removed) return
    if (await this.isThere()) this.#finishLater(SOON)
    else await this.unmap()
  }

  /** Removes the device and finishes with its files, as far as it has not been done. @internal */
  protected abstract remove(request: UnmapRequest): Promise<'removed' | 'deferred'>

  /** Whether the kernel still has the device. @internal */
  protected abstract isThere(): Promise<boolean>

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmap()
  }
}

/** Whether two records are of one mapping, as far as that can be told. */
export const isOf = (a: MappingRecord, b: MappingRecord): boolean =>
  a.id === b.id || a.id === '' || b.id === ''
