// The numbers that the tables of logical partition metadata have for words.
import type { LpAttribute, LpMinorVersion } from './lp-model.js'

export const LINEAR = 0
export const ZERO = 1

/** The flag of a group and of a block device. */
export const SLOT_SUFFIXED = 1

const ATTRIBUTES: readonly { name: LpAttribute; bit: number; since: LpMinorVersion }[] = [
  { name: 'read-only', bit: 1, since: 0 },
  { name: 'slot-suffixed', bit: 2, since: 0 },
  { name: 'updated', bit: 4, since: 1 },
  { name: 'disabled', bit: 8, since: 1 },
]

export const attributesOf = (bits: number): LpAttribute[] =>
  ATTRIBUTES.filter(({ bit }) => (bits & bit) !== 0).map(({ name }) => name)

export const attributeBits = (attributes: readonly LpAttribute[]): number =>
  ATTRIBUTES.filter(({ name }) => attributes.includes(name)).reduce(
    (bits, { bit }) => bits | bit,
    0,
  )

/** The bits that a version knows. */
export const knownAttributes = (version: LpMinorVersion): number =>
  ATTRIBUTES.filter(({ since }) => since <= version).reduce((bits, { bit }) => bits | bit, 0)

/** The lowest version that has what is needed. */
export function neededVersion(
  attributes: readonly LpAttribute[],
  headerFlags: number,
): LpMinorVersion {
  if (headerFlags !== 0) return 2
  return ATTRIBUTES.some(({ name, since }) => since > 0 && attributes.includes(name)) ? 1 : 0
}
