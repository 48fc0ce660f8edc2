// Names and UUIDs of our devices.
import { basename } from 'node:path'
import { verdict } from './errors.js'

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

/** The name asked for, if it can be one; otherwise the file's, with what udev would mangle made `_`. */
export function deviceNameFor(file: string, asked: string | undefined): string {
  const name = asked ?? basename(file).replace(UNSAFE_CHARACTER, '_').slice(0, LONGEST)
  if (!SAFE_NAME.test(name) || name.length > LONGEST || RESERVED.has(name)) {
    throw verdict('DMLOOP_NAME_INVALID', {}, `“${name}” is not a name for a device`)
  }
  return name
}
