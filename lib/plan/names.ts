// Names and UUIDs of our devices.
import { basename } from 'node:path'
import { verdict } from '../kernel/errors.js'

/** What udev leaves as it is in a name (FACTS section 5). */
const SAFE = 'A-Za-z0-9#+\\-.:=@_'
const SAFE_NAME = new RegExp(`^[${SAFE}]+$`)
const UNSAFE_CHARACTER = new RegExp(`[^${SAFE}]`, 'g')
const RESERVED = new Set(['.', '..', 'control'])
/** DM_NAME_LEN less the NUL (linux/dm-ioctl.h). */
const LONGEST = 127

const UUID_PREFIX = 'DMLOOP-'

/** The UUID of a mapping: from what its (first) file is, so that the kernel allows only one. */
export const uuidOf = (identity: string): string => UUID_PREFIX + identity

/** How a loop device is called that is a part of a mapping: one of several files. */
const PART_PREFIX = 'DMLOOP+'
export const partOf = (identity: string): string => PART_PREFIX + identity

/** The identity of the file that such a loop device shows; undefined when it is none. */
export const partIdentityOf = (name: string): string | undefined =>
  name.startsWith(PART_PREFIX) ? name.slice(PART_PREFIX.length) : undefined

/** The identity that a UUID, or the name of a loop device, was made from; undefined when it is not ours. */
export const identityOf = (uuid: string): string | undefined =>
  uuid.startsWith(UUID_PREFIX) ? uuid.slice(UUID_PREFIX.length) : undefined

/**
 * What an identity names: a file by its handle, on the filesystem of a device. undefined where it is known by
 * something else; see `BackingFile.identity`.
 */
export function handleOf(
  identity: string,
): { major: number; minor: number; handle: string } | undefined {
  const found = /^(\d+)-(\d+)-h([0-9a-f]+)$/.exec(identity)
  if (!found) return undefined
  const [, major, minor, handle = ''] = found
  return { major: Number(major), minor: Number(minor), handle }
}

/** The UUID of a device that wraps another, which is given by its number ("8:3"). */
const WRAP_PREFIX = 'DMLOOP_WRAP-'
export const wrapUuidOf = (device: string): string => WRAP_PREFIX + device.replace(':', '-')

/** The number of the device that such a device wraps; undefined when it is none. */
export const wrappedBy = (uuid: string): string | undefined =>
  uuid.startsWith(WRAP_PREFIX) ? uuid.slice(WRAP_PREFIX.length).replace('-', ':') : undefined

const isDeviceName = (name: string): boolean =>
  SAFE_NAME.test(name) && name.length <= LONGEST && !RESERVED.has(name)

/** A name that was asked for; DMLOOP_NAME_INVALID if a device cannot have it. */
export function checkedName(name: string): string {
  if (isDeviceName(name)) return name
  throw verdict('DMLOOP_NAME_INVALID', {}, `“${name}” is not a name for a device`)
}

/**
 * Names for a device of a file: the file's own, with what udev would mangle made `_`, then the same with
 * numbers (image, image-1, ...), without end.
 */
export function* namesAfter(file: string): Generator<string, never> {
  const base = basename(file).replace(UNSAFE_CHARACTER, '_')
  const first = base.slice(0, LONGEST)
  if (isDeviceName(first)) yield first
  for (let number = 1; ; number++) {
    const suffix = `-${number}`
    yield base.slice(0, LONGEST - suffix.length) + suffix
  }
}
