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
   * The device-mapper name; default: the file's name, with `_` in place of characters that udev would encode,
   * and with a number if that is taken (image-1).
   */
  name?: string
  /**
   * What udev does with the device. With `true` (default), all that it does with a disk: links by UUID and
   * label, and whatever else its rules do, such as activating LVM volumes. With `false` it only makes the
   * node, now and later, so that an image cannot take over links of its host. systemd may then not consider
   * the device ready, so no unit should wait for it. With `backend: 'linear'` only: nothing keeps udev from
   * scanning a loop device.
   */
  udevScan?: boolean
  /** How much of file and device is compared before the device is handed over. Default `'sample'`. */
  verify?: 'sample' | 'full' | 'none'
  /**
   * Makes a device for each partition of the image: /dev/mapper/NAME1 (NAMEp1 where the name ends with a digit), or
   * /dev/loopNp1; see `MappedDevice.partitions`. The table is read by util-linux's partx. Default false.
   */
  partitions?: boolean
  /**
   * Has the wrapper that the filesystem is mounted on (`wrapDevice`) give errors for the file's blocks while the file
   * is mapped: then not even the filesystem, or root, reads or writes them behind the device's back. With
   * `backend: 'linear'` and a guard only. Default false.
   */
  fence?: boolean
  /** Called with the progress of the comparison, in bytes. */
  onProgress?: ProgressListener
  /**
   * Milliseconds to wait for another process that maps or unmaps the file, for the node, and for any single
   * system call to return. Default 10,000; system calls have at least 500.
   */
  timeout?: number
  /**
   * Aborts the call, which then leaves nothing behind and rejects with the signal's reason; earlier only when
   * a system call does not return for half a second.
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
  /** Compares the bytes as well: a sample of blocks, or all of them. */
  content?: 'sample' | 'full'
  /** Called with the progress of the comparison, in bytes. */
  onProgress?: ProgressListener
  signal?: AbortSignal
}

export interface UnmapOptions {
  /** Has the kernel remove the device when its last user closes it, instead of failing while it is open. */
  deferred?: boolean
  /**
   * Milliseconds to wait for users of the device to close it, for its node to disappear, and for any single
   * system call to return. Default 10,000; system calls have at least 500.
   */
  timeout?: number
  signal?: AbortSignal
}

export interface MapRequest extends PlanRequest {
  name: string | undefined
  udevScan: boolean
  verify: 'sample' | 'full' | 'none'
  partitions: boolean
  fence: boolean
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
  const own = [
    ...['name', 'udevScan', 'verify', 'partitions', 'fence'],
    ...['onProgress', 'timeout', 'signal'],
  ]
  const options = object(value, [...PLAN_KEYS, ...own])
  const request = planRequest(file, options)
  const udevScan = boolean(options, 'udevScan', true)
  if (!udevScan && request.backend !== 'linear') {
    throw invalidValue('options.udevScan', `false only together with backend: 'linear'`, false)
  }
  const fence = boolean(options, 'fence')
  if (fence && (request.backend !== 'linear' || request.guard === 'none')) {
    throw invalidValue(
      'options.fence',
      `true only together with backend: 'linear' and a guard`,
      true,
    )
  }
  return {
    ...request,
    fence,
    partitions: boolean(options, 'partitions'),
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
