// Logical partition metadata that is wrong, or cannot be written.
import { badImage } from '../images/bad-image.js'
import { DmloopError, problem } from '../kernel/errors.js'

/** What is wrong with bytes, and at which. */
export interface Damage {
  position: number
  /** As a sentence about the file goes on after its name. */
  found: string
}

export const isDamage = (value: object): value is Damage => 'position' in value && 'found' in value

/** `found` goes on after "logical partition metadata". */
export const damage = (position: number, found: string): Damage => ({
  position,
  found: `has logical partition metadata ${found}`,
})

/** DMLOOP_BAD_IMAGE for damage in a file. */
export const badMetadata = (file: string | undefined, { position, found }: Damage): DmloopError =>
  badImage({ file, unpacked: false, called: 'the input' }, position, found)

/** DMLOOP_NOT_REPRESENTABLE: what is asked for, and what can be done instead. */
export const notRepresentable = (found: string, remedy: string): DmloopError =>
  new DmloopError({
    ...problem(
      'DMLOOP_NOT_REPRESENTABLE',
      {},
      `logical partition metadata cannot be made: ${found}`,
    ),
    remedy,
  })
