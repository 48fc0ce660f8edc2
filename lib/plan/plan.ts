// What mapping a file would do: the outcome of planFile.
import { DmloopError, type Problem } from '../kernel/errors.js'
import { ExtentTable } from './extents.js'
import type { Backend } from '../kernel/policy.js'
import { SegmentTable } from '../kernel/segments.js'

/** A file of a plan. */
export interface PlannedFile {
  /** Without symbolic links. */
  path: string
  /** Bytes. */
  size: number
  /** The filesystem's name as /proc/filesystems has it. */
  filesystem: string
  /** The filesystem's device as "major:minor". */
  device: string
  /** The device's logical block size, in bytes. */
  blockSize: number
  /**
   * What a guard can hold the file still with: `'none'` on a filesystem that has no immutable flag, and on one
   * that is mounted read-only as a whole, where nothing moves until it is remounted; see `verify`.
   */
  guard: 'immutable' | 'none'
}

export interface PlanParts {
  problems: Problem[]
  size: number
  tailBytes: number
  readOnly: boolean
  files: PlannedFile[]
  extents: ExtentTable
  segments: SegmentTable
  backend: Backend
  fallback: Problem[]
}

export class Plan implements PlanParts {
  readonly backend: Backend
  /** Why it is a loop device although `backend: 'auto'` would rather have it linear. */
  readonly fallback: Problem[]
  /** What stands in the way; empty when the file can be mapped. */
  readonly problems: Problem[]
  /** The device's size, in bytes. */
  readonly size: number
  /**
   * Bytes at the end of the file (of the files together, for an array) that make no whole logical block,
   * and so are not mapped. 0 with an explicit `length`, which says itself where the device ends, and where
   * `size` is 0.
   */
  readonly tailBytes: number
  readonly readOnly: boolean
  readonly files: PlannedFile[]
  /** Where the bytes lie on the filesystem's device; empty for a loop device. */
  readonly extents: ExtentTable
  /**
   * The device-mapper table; empty for a loop device, and when there are problems, unless the only one is
   * that it is mapped already.
   */
  readonly segments: SegmentTable

  constructor(parts: PlanParts) {
    this.problems = parts.problems
    this.size = parts.size
    this.tailBytes = parts.tailBytes
    this.readOnly = parts.readOnly
    this.files = parts.files
    this.extents = parts.extents
    this.segments = parts.segments
    this.backend = parts.backend
    this.fallback = parts.fallback
  }

  /** The table as `dmsetup create` reads it, a line a segment; empty where `segments` is. */
  toTable(): string {
    return this.segments.toTable()
  }

  /** Throws the first problem; the error carries them all. */
  assertMappable(): void {
    const [first] = this.problems
    if (first) throw new DmloopError(first, this.problems)
  }

  toJSON(): PlanParts {
    const { backend, fallback, problems, size, tailBytes, readOnly, files, extents, segments } =
      this
    return { backend, fallback, problems, size, tailBytes, readOnly, files, extents, segments }
  }
}
