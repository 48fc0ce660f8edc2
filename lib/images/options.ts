// What a caller may ask for when an image is made; checked before anything is touched.
import { Readable } from 'node:stream'
import { invalidType, invalidValue } from '../kernel/errors.js'
import type { Guard } from '../kernel/policy.js'
import { DEFAULT_TIMEOUT } from '../kernel/wait.js'
import {
  boolean,
  integer,
  listener,
  object,
  oneOf,
  parsePath,
  signalOf,
  text,
} from '../plan/arguments.js'
import type { ProgressListener } from '../plan/progress.js'
import { headOf } from '../plan/swap-head.js'

export interface CreateOptions {
  /**
   * The image's size in bytes, a multiple of 512. Default: that of its content, up to a whole logical block
   * of the disk. What the content does not fill is zeros; more content than that is DMLOOP_BAD_IMAGE.
   */
  size?: number
  /**
   * The content: the path of a file or device, or a stream. Raw, in Android's sparse format, or compressed by
   * gzip, zstd or xz (raw or sparse again): recognised by what it starts with. Default: zeros.
   */
  from?: string | Readable
  /** The SHA-256 of the content when it is unpacked, in 64 hexadecimal digits; of `size` bytes without `from`. */
  sha256?: string
  /** The most extents that each file may have on the disk; at least 1. Default: no limit. */
  maxExtents?: number
  /**
   * The most bytes of one file, a multiple of 1 MiB: a larger image becomes NAME.0000, NAME.0001 ... Default:
   * the filesystem's own limit, where it is known (vfat: 4095 MiB).
   */
  maxFileSize?: number
  /**
   * The guard that the image is made for: with `'swapfile'` each file starts with 1 MiB that is not part of the image,
   * and on btrfs is written in place (NOCOW). Map it with the same guard. The others ask for nothing.
   */
  guard?: Guard
  /** Replaces an image that exists. Default false. */
  overwrite?: boolean
  /** Called with the progress in bytes of the image. */
  onProgress?: ProgressListener
  /** Aborts the call, which then leaves nothing behind and rejects with the signal's reason. */
  signal?: AbortSignal
}

export interface ProvisionOptions {
  /** Called with the progress in bytes of the file. */
  onProgress?: ProgressListener
  /** Milliseconds to wait for other dmloop processes, and for any single system call to return. Default 10,000. */
  timeout?: number
  /** Aborts the call: what the file reads is as before, and another call continues. */
  signal?: AbortSignal
}

export interface CreateRequest {
  file: string
  size: number | undefined
  from: string | Readable | undefined
  /** In lower case. */
  sha256: string | undefined
  maxExtents: number | undefined
  maxFileSize: number | undefined
  guard: Guard
  overwrite: boolean
  onProgress: ProgressListener | undefined
  signal: AbortSignal | undefined
}

export interface ProvisionRequest {
  file: string
  onProgress: ProgressListener | undefined
  timeout: number
  signal: AbortSignal | undefined
}

const SECTOR = 512
const MIB = 1 << 20

export function parseCreateOptions(file: unknown, value: unknown): CreateRequest {
  const options = object(value, [
    ...['size', 'from', 'sha256', 'maxExtents', 'maxFileSize', 'guard', 'overwrite'],
    ...['onProgress', 'signal'],
  ])
  const request: CreateRequest = {
    file: parsePath(file, 'file'),
    size: multiple(options, 'size', SECTOR),
    from: sourceOf(options.from),
    sha256: text(options, 'sha256')?.toLowerCase(),
    maxExtents: integer(options, 'maxExtents', 1),
    maxFileSize: multiple(options, 'maxFileSize', MIB),
    guard: oneOf(options, 'guard', 'immutable', 'swapfile', 'none'),
    overwrite: boolean(options, 'overwrite'),
    onProgress: listener(options, 'onProgress'),
    signal: signalOf(options),
  }
  const { size, from, sha256, maxFileSize, guard } = request
  if (maxFileSize !== undefined && maxFileSize <= headOf(guard)) {
    throw invalidValue(
      'options.maxFileSize',
      'more than the 1 MiB that guard ‘swapfile’ needs',
      maxFileSize,
    )
  }
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) {
    throw invalidValue('options.sha256', '64 hexadecimal digits', sha256)
  }
  if (size === undefined && from === undefined) {
    throw invalidValue('options', 'given with a size, or what the image is made from', value)
  }
  return request
}

function multiple(options: Record<string, unknown>, key: string, unit: number): number | undefined {
  const value = integer(options, key, unit)
  if (value === undefined || value % unit === 0) return value
  throw invalidValue(`options.${key}`, `a multiple of ${unit}`, value)
}

function sourceOf(value: unknown): string | Readable | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'string') return parsePath(value, 'options.from')
  if (value instanceof Readable) return value
  throw invalidType('options.from', 'a path or a Readable', value)
}

export function parseProvisionOptions(file: unknown, value: unknown): ProvisionRequest {
  const options = object(value, ['onProgress', 'timeout', 'signal'])
  return {
    file: parsePath(file, 'file'),
    onProgress: listener(options, 'onProgress'),
    timeout: integer(options, 'timeout', 0) ?? DEFAULT_TIMEOUT,
    signal: signalOf(options),
  }
}
