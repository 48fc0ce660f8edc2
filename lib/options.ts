// What a caller may ask for, checked before anything is touched.
import { toUSVString } from 'node:util'
import type { Progress } from './plan/content.js'
import type { Backend } from './kernel/policy.js'
import { invalidType, invalidValue, outOfRange } from './kernel/errors.js'

export interface PlanOptions {
  /** The first byte of the file to map; a multiple of the logical block size. Default 0. */
  offset?: number
  /** How many bytes to map; default: to the last whole logical block. */
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
   * The logical block size of a loop device, in bytes: 512, 1024, 2048 or 4096; default: that of the device
   * beneath the file. Direct I/O ends where it is smaller than that. A linear device always has its disk's.
   */
  blockSize?: number
  /**
   * `'immutable'` (default) holds the file still while it is mapped; with `'none'` the caller promises
   * that it stays still.
   */
  guard?: 'immutable' | 'none'
}

export interface MapOptions extends PlanOptions {
  /**
   * The device-mapper name; default: the file's name, other characters than udev's made `_`, and with a number
   * behind where that is taken (image-1).
   */
  name?: string
  /**
   * What udev does with the device. With `true` (default), all that it does with a disk: links by UUID
   * and label, and whatever else its rules bring, such as the activation of LVM volumes. With `false` it
   * makes the node and looks no further, now and later: an image cannot take its host's links over.
   * systemd may then not take the device for ready, so let no unit wait for it. With `backend: 'linear'`
   * only: nothing keeps udev from looking into a loop device.
   */
  udevScan?: boolean
  /** How much of file and device is compared before the device is handed over. Default `'sample'`. */
  verify?: 'sample' | 'full' | 'none'
  /** Has the kernel look for partitions; with `backend: 'loop'` only. Default false. */
  partitionScan?: boolean
  /** Is told how far the comparison has come, in bytes. */
  onProgress?: (progress: Progress) => void
  /**
   * Milliseconds to wait for another process at the same file, for the node, and for any single call into the
   * kernel to come back. Default 10,000; calls into the kernel have at least 500.
   */
  timeout?: number
  /**
   * Aborts the call, which then leaves nothing behind and rejects with the signal's reason; before that is done
   * only where the kernel holds it up for more than half a second.
   */
  signal?: AbortSignal
}

export interface WrapOptions {
  /** The device-mapper name. */
  name: string
  /** As for `mapFile`. Default true. */
  udevScan?: boolean
}

export interface VerifyOptions {
  /** Compares the bytes too: of a sample of blocks, or all of them. */
  content?: 'sample' | 'full'
  /** Is told how far the comparison has come, in bytes. */
  onProgress?: (progress: Progress) => void
  signal?: AbortSignal
}

export interface UnmapOptions {
  /** Removes the device when its last holder leaves, instead of failing while it is open. */
  deferred?: boolean
  /**
   * Milliseconds to wait for holders to leave, for the node to go, and for any single call into the kernel to
   * come back. Default 10,000; calls into the kernel have at least 500.
   */
  timeout?: number
  signal?: AbortSignal
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
  guard: 'immutable' | 'none'
}

export interface MapRequest extends PlanRequest {
  name: string | undefined
  udevScan: boolean
  verify: 'sample' | 'full' | 'none'
  partitionScan: boolean
  onProgress: ((progress: Progress) => void) | undefined
  timeout: number
  signal: AbortSignal | undefined
}

export interface UnmapRequest {
  deferred: boolean
  timeout: number
  signal: AbortSignal | undefined
}

export const DEFAULT_TIMEOUT = 10_000

/** Of calls that have no options. */
export const PATIENCE = { timeout: DEFAULT_TIMEOUT, signal: undefined }

/** However little time the caller has: udev and blkid have a new device open for a moment. */
export const UNDO = { deferred: false, timeout: DEFAULT_TIMEOUT, signal: undefined }

type Options = Record<string, unknown>

function object(value: unknown, known: readonly string[]): Options {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null) throw invalidType('options', 'an object', value)
  // A misspelt option would be a silent default, which for readOnly means a writable disk.
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw invalidValue('options', `made of ${known.join(', ')}`, key)
  }
  return value as Options
}

function integer(options: Options, key: string, minimum: number): number | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'number') throw invalidType(`options.${key}`, 'a number', value)
  if (!Number.isSafeInteger(value) || value < minimum) {
    throw outOfRange(`options.${key}`, `a safe integer of at least ${minimum}`, value)
  }
  return value
}

function boolean(options: Options, key: string, preset = false): boolean {
  const value = options[key]
  if (value === undefined) return preset
  if (typeof value !== 'boolean') throw invalidType(`options.${key}`, 'a boolean', value)
  return value
}

function text(options: Options, key: string): string | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw invalidType(`options.${key}`, 'a string', value)
  return value
}

function oneOf<T extends string>(options: Options, key: string, first: T, ...rest: T[]): T {
  const value = options[key]
  if (value === undefined) return first
  const choices: readonly unknown[] = [first, ...rest]
  if (!choices.includes(value)) {
    throw invalidValue(`options.${key}`, `one of ${choices.map(String).join(', ')}`, value)
  }
  return value as T
}

function listener(options: Options, key: string): ((progress: Progress) => void) | undefined {
  const value = options[key]
  if (value === undefined) return undefined
  if (typeof value !== 'function') throw invalidType(`options.${key}`, 'a function', value)
  return value as (progress: Progress) => void
}

function signalOf(options: Options): AbortSignal | undefined {
  const value = options.signal
  if (value === undefined) return undefined
  if (!(value instanceof AbortSignal)) throw invalidType('options.signal', 'an AbortSignal', value)
  return value
}

export function pathOf(value: unknown, name: string): string {
  if (typeof value !== 'string') throw invalidType(name, 'a string', value)
  // A lone surrogate has no bytes: the path would become that of another file.
  if (value === '' || value.includes('\0') || toUSVString(value) !== value) {
    throw invalidValue(name, 'a path', value)
  }
  return value
}

function filesOf(file: unknown): string[] {
  if (!Array.isArray(file)) return [pathOf(file, 'file')]
  if (file.length === 0) throw invalidValue('file', 'a path or an array of at least one', file)
  // A gap in the array is an item as well, and no path.
  return Array.from(file, (path: unknown, index) => pathOf(path, `file[${index}]`))
}

/** What the loop driver takes is a power of two up to a page, and no page is smaller than 4096 bytes. */
const BLOCK_SIZES = [512, 1024, 2048, 4096]

function blockSizeOf(options: Options): number | undefined {
  const size = integer(options, 'blockSize', 0)
  if (size === undefined || BLOCK_SIZES.includes(size)) return size
  throw invalidValue('options.blockSize', `one of ${BLOCK_SIZES.join(', ')}`, size)
}

const PLAN_KEYS = [
  'offset',
  'length',
  'readOnly',
  'holes',
  'backend',
  'blockSize',
  'guard',
] as const

function planRequest(file: unknown, options: Options): PlanRequest {
  const request: PlanRequest = {
    files: filesOf(file),
    offset: integer(options, 'offset', 0) ?? 0,
    length: integer(options, 'length', 1),
    readOnly: boolean(options, 'readOnly'),
    holes: oneOf(options, 'holes', 'reject', 'zero'),
    backend: oneOf(options, 'backend', 'linear', 'loop', 'auto'),
    blockSize: blockSizeOf(options),
    guard: oneOf(options, 'guard', 'immutable', 'none'),
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

export function parseMapOptions(file: unknown, value: unknown): MapRequest {
  const own = ['name', 'udevScan', 'verify', 'partitionScan', 'onProgress', 'timeout', 'signal']
  const options = object(value, [...PLAN_KEYS, ...own])
  const request = planRequest(file, options)
  const partitionScan = boolean(options, 'partitionScan')
  if (partitionScan && request.backend !== 'loop') {
    throw invalidValue('options.partitionScan', `true only together with backend: 'loop'`, true)
  }
  const udevScan = boolean(options, 'udevScan', true)
  if (!udevScan && request.backend !== 'linear') {
    throw invalidValue('options.udevScan', `false only together with backend: 'linear'`, false)
  }
  return {
    ...request,
    partitionScan,
    udevScan,
    name: text(options, 'name'),
    verify: oneOf(options, 'verify', 'sample', 'full', 'none'),
    onProgress: listener(options, 'onProgress'),
    timeout: integer(options, 'timeout', 0) ?? DEFAULT_TIMEOUT,
    signal: signalOf(options),
  }
}

export function parseWrapOptions(
  device: unknown,
  value: unknown,
): Required<WrapOptions> & { path: string } {
  const options = object(value, ['name', 'udevScan'])
  return {
    path: pathOf(device, 'blockDevice'),
    name: pathOf(options.name, 'options.name'),
    udevScan: boolean(options, 'udevScan', true),
  }
}

export interface VerifyRequest {
  content: 'sample' | 'full' | 'none'
  onProgress: ((progress: Progress) => void) | undefined
  signal: AbortSignal | undefined
}

export function parseVerifyOptions(value: unknown): VerifyRequest {
  const options = object(value, ['content', 'onProgress', 'signal'])
  return {
    content: oneOf(options, 'content', 'none', 'sample', 'full'),
    onProgress: listener(options, 'onProgress'),
    signal: signalOf(options),
  }
}

export function parseUnmapOptions(value: unknown): UnmapRequest {
  const options = object(value, ['deferred', 'timeout', 'signal'])
  return {
    deferred: boolean(options, 'deferred'),
    timeout: integer(options, 'timeout', 0) ?? DEFAULT_TIMEOUT,
    signal: signalOf(options),
  }
}
