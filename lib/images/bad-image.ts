// What is wrong with an image, and where.
import { dmloopError, type DmloopError } from '../kernel/errors.js'

/** Which bytes the positions in an error count. */
export interface Origin {
  /** The path of the input; undefined: it has none. */
  file: string | undefined
  /** What an input without a path is; left out: the stream. */
  called?: string
  /** The positions are those of the bytes that the input unpacks to. */
  unpacked: boolean
}

/** DMLOOP_BAD_IMAGE: what was found, and at which byte; undefined: at none. */
export function badImage(
  { file, unpacked, called = 'the stream' }: Origin,
  offset: number | undefined,
  found: string,
): DmloopError {
  const subject = file === undefined ? `${called} ` : ''
  const place = offset === undefined ? '' : `, at byte ${offset}`
  const count = unpacked && place ? ' of what it unpacks to' : ''
  return dmloopError('DMLOOP_BAD_IMAGE', { file, offset }, `${subject}${found}${place}${count}`)
}
