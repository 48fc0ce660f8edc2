// The outcome of planFile: what mapping a file would do.
import { DmloopError, type Problem } from '../kernel/errors.js'
import { ExtentTable } from './extents.js'
import type { Backend, Guard } from '../kernel/policy.js'
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
   * The guard that the file can have: `'swapfile'` on a filesystem where the immutable flag is missing or does not
   * suffice, and `'none'` on one that is mounted read-only as a whole, where nothing moves until it is remounted;
   * see `verify`.
   */
  guard: Guard
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
  /** Why `backend: 'auto'` chose a loop device. */
  readonly fallback: Problem[]
  /** What prevents the mapping; empty when the file can be mapped. */
  readonly problems: Problem[]
  /** The device's size, in bytes. */
  readonly size: number
  /**
   * Bytes at the end of the file (of the last of several files) that are less than a logical block, and
   * therefore not mapped. 0 with an explicit `length`, and where `size` is 0.
   */
  readonly tailBytes: number
  readonly readOnly: boolean
  readonly files: PlannedFile[]
  /** Where the bytes are stored on the filesystem's device; empty for a loop device. */
  readonly extents: ExtentTable
  /**
   * The device-mapper table; empty for a loop device, and when there are problems, unless the only one is
   * that the file is mapped already.
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
