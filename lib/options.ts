// What a caller may ask for, besides planFile's options; checked before anything is touched.
import { DEFAULT_TIMEOUT } from './kernel/wait.js'
import { invalidValue } from './kernel/errors.js'
import {
  boolean,
  integer,
  listener,
  object,
  oneOf,
  parsePath,
  signalOf,
  text,
} from './plan/arguments.js'
import type { ProgressListener } from './plan/progress.js'
import { PLAN_KEYS, planRequest, type PlanOptions, type PlanRequest } from './plan/plan-options.js'

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
  onProgress?: ProgressListener
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
  onProgress?: ProgressListener
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

export interface MapRequest extends PlanRequest {
  name: string | undefined
  udevScan: boolean
  verify: 'sample' | 'full' | 'none'
  partitionScan: boolean
  onProgress: ProgressListener | undefined
  timeout: number
  signal: AbortSignal | undefined
}

export interface UnmapRequest {
  deferred: boolean
  timeout: number
  signal: AbortSignal | undefined
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
    path: parsePath(device, 'blockDevice'),
    name: parsePath(options.name, 'options.name'),
    udevScan: boolean(options, 'udevScan', true),
  }
}

export interface VerifyRequest {
  content: 'sample' | 'full' | 'none'
  onProgress: ProgressListener | undefined
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
