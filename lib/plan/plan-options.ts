// What a caller of planFile may ask for.
import { invalidValue } from '../kernel/errors.js'
import type { Backend, Guard } from '../kernel/policy.js'
import { boolean, filesOf, integer, object, oneOf, type Options } from './arguments.js'

export interface PlanOptions {
  /** The first byte of the file to map; a multiple of the logical block size. Default 0. */
  offset?: number
  /** Bytes to map; default: to the last whole logical block. */
  length?: number
  /** A read-only device. Default false. */
  readOnly?: boolean
  /**
   * `'reject'` (default), or `'zero'`: holes and unwritten ranges read as zeros, on a read-only
   * device.
   */
  holes?: 'reject' | 'zero'
  /**
   * `'linear'` (default): the file's own blocks, through device-mapper; `'loop'`: a loop device, with
   * direct I/O where the filesystem has it; `'auto'`: linear where it is possible, else loop.
   */
  backend?: Backend | 'auto'
  /**
   * The logical block size of a loop device, in bytes: 512, 1024, 2048 or 4096; default: that of the
   * device that stores the file. With a smaller one there is no direct I/O. A linear device always has
   * its disk's.
   */
  blockSize?: number
  /**
   * What keeps everybody from moving, freeing or writing the file's blocks while it is mapped: `'immutable'`
   * (default), the file's immutable flag; `'swapfile'`, the kernel itself, for an image that createImage has made
   * with the same option; with `'none'` the caller guarantees it.
   */
  guard?: Guard
}

/** `PlanOptions` with every default filled in. */
export interface PlanRequest {
  files: string[]
  offset: number
  /** undefined: to the last whole logical block. */
  length: number | undefined
  readOnly: boolean
  holes: 'reject' | 'zero'
  backend: Backend | 'auto'
  /** Of a loop device; undefined: the backing device's. */
  blockSize: number | undefined
  guard: Guard
}

/** What the loop driver takes is a power of two up to a page, and no page is smaller than 4096 bytes. */
const BLOCK_SIZES = [512, 1024, 2048, 4096]

function blockSizeOf(options: Options): number | undefined {
  const size = integer(options, 'blockSize', 0)
  if (size === undefined || BLOCK_SIZES.includes(size)) return size
  throw invalidValue('options.blockSize', `one of ${BLOCK_SIZES.join(', ')}`, size)
}

export const PLAN_KEYS = [
  'offset',
  'length',
  'readOnly',
  'holes',
  'backend',
  'blockSize',
  'guard',
] as const

export function planRequest(file: unknown, options: Options): PlanRequest {
  const request: PlanRequest = {
    files: filesOf(file),
    offset: integer(options, 'offset', 0) ?? 0,
    length: integer(options, 'length', 1),
    readOnly: boolean(options, 'readOnly'),
    holes: oneOf(options, 'holes', 'reject', 'zero'),
    backend: oneOf(options, 'backend', 'linear', 'loop', 'auto'),
    blockSize: blockSizeOf(options),
    guard: oneOf(options, 'guard', 'immutable', 'swapfile', 'none'),
  }
  if (request.blockSize !== undefined && request.backend === 'linear') {
    const expected = `given only together with backend: 'loop' or 'auto'`
    throw invalidValue('options.blockSize', expected, request.blockSize)
  }
  if (request.holes === 'zero' && !request.readOnly) {
    throw invalidValue('options.holes', `'zero' only together with readOnly: true`, 'zero')
  }
  return request
}

export function parsePlanOptions(file: unknown, value: unknown): PlanRequest {
  return planRequest(file, object(value, PLAN_KEYS))
}
