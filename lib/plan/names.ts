// Names and UUIDs of our devices.
import { basename } from 'node:path'
import { dmloopError } from '../kernel/errors.js'

/** What libdevmapper leaves as it is in the name of a node; other characters become \\xNN there. */
const SAFE = 'A-Za-z0-9#+\\-.:=@_'
const SAFE_NAME = new RegExp(`^[${SAFE}]+$`)
const UNSAFE_CHARACTER = new RegExp(`[^${SAFE}]`, 'g')
const RESERVED = new Set(['.', '..', 'control'])
/** DM_NAME_LEN less the NUL (linux/dm-ioctl.h). */
const LONGEST = 127

/** What follows a prefix; undefined where a text does not start with it. */
const afterPrefix = (prefix: string, text: string): string | undefined =>
  text.startsWith(prefix) ? text.slice(prefix.length) : undefined

/** Of UUIDs, and of the names that the loop driver keeps for us. */
const PREFIXES = { mapping: 'DMLOOP-', part: 'DMLOOP+', wrapped: 'DMLOOP_WRAP-' } as const

/** The UUID of a mapping, made from the identity of its (first) file: the kernel allows one device with it. */
export const uuidOf = (identity: string): string => PREFIXES.mapping + identity

/** The identity that a mapping's UUID, or the name of its loop device, was made from; undefined for others. */
export const identityOf = (uuid: string): string | undefined => afterPrefix(PREFIXES.mapping, uuid)

/** The name of a loop device that is part of a mapping of several files. */
export const partName = (identity: string): string => PREFIXES.part + identity

/** The identity of the file behind such a loop device; undefined for others. */
export const partIdentityOf = (name: string): string | undefined => afterPrefix(PREFIXES.part, name)

/** The UUID of a device that wraps the device with this number ("8:3"). */
export const wrapUuidOf = (device: string): string => PREFIXES.wrapped + device.replace(':', '-')

/** The number of the device that such a device wraps; undefined for others. */
export const wrappedBy = (uuid: string): string | undefined =>
  afterPrefix(PREFIXES.wrapped, uuid)?.replace('-', ':')

/** The parts of an identity; see `BackingFile.identity`. */
export interface IdentityParts {
  /** The filesystem's device. */
  major: number
  minor: number
  /** The file handle; undefined for a file without one. */
  handle: string | undefined
}

/** A type and at least one byte; see native/file_handle.h. What is longer no local filesystem has. */
const IDENTITY = /^(\d{1,9})-(\d{1,9})-(?:h([0-9a-f]{2}(?:[0-9a-f]{2}){1,20})|at\d+|i\d+)$/

/** Undefined where a text is the identity of no file: anybody can give a device any UUID. */
export function parseIdentity(identity: string): IdentityParts | undefined {
  const found = IDENTITY.exec(identity)
  return found ? { major: Number(found[1]), minor: Number(found[2]), handle: found[3] } : undefined
}

const isDeviceName = (name: string): boolean =>
  SAFE_NAME.test(name) && name.length <= LONGEST && !RESERVED.has(name)

/** Returns the name that was asked for. Throws DMLOOP_NAME_INVALID where no device can have it. */
export function checkedName(name: string): string {
  if (isDeviceName(name)) return name
  throw dmloopError('DMLOOP_NAME_INVALID', {}, `“${name}” is not a name for a device`)
}

/**
 * Default names for the device of a file, without end: the file's own, with `_` in place of the characters
 * that are not safe, then the same with numbers (image, image-1, ...).
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
