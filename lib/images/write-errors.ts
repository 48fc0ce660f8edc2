// What it means to the caller that a file could not be written.
import { DmloopError, isSystemError, problem } from '../kernel/errors.js'

/** Turns ENOSPC, EDQUOT and EFBIG into DMLOOP_NO_SPACE and DMLOOP_TOO_LARGE; other errors stay as they are. */
export function explainWriteError(error: unknown, file: string): unknown {
  const options = { cause: error }
  if (isSystemError(error, 'ENOSPC', 'EDQUOT')) {
    const quota = error.code === 'EDQUOT' ? 'exceeds a quota of its filesystem' : undefined
    return new DmloopError(problem('DMLOOP_NO_SPACE', { file }, quota), undefined, options)
  }
  if (!isSystemError(error, 'EFBIG')) return error
  const detail = 'is larger than a file on its filesystem, or of this process (ulimit -f), can be'
  const found = { ...problem('DMLOOP_TOO_LARGE', { file }, detail), remedy: SPLIT }
  return new DmloopError(found, undefined, options)
}

const SPLIT = 'Make several files of it, with the option `maxFileSize`.'
