// What it means to the caller that a file could not be written.
import { DmloopError, isSystemError, problem } from '../kernel/errors.js'

/** Turns ENOSPC, EDQUOT and EFBIG into DMLOOP_NO_SPACE and DMLOOP_TOO_LARGE; other errors stay as they are. */
export function explainWriteError(error: unknown, file: string): unknown {
  const options = { cause: error }
  if (isSystemError(error, 'ENOSPC', 'EDQUOT', 'EAGAIN')) {
    const found = problem('DMLOOP_NO_SPACE', { file }, NO_SPACE[error.code])
    return new DmloopError(found, undefined, options)
  }
  if (!isSystemError(error, 'EFBIG')) return error
  const detail = 'is larger than a file on its filesystem, or of this process (ulimit -f), can be'
  const found = { ...problem('DMLOOP_TOO_LARGE', { file }, detail), remedy: SPLIT }
  return new DmloopError(found, undefined, options)
}

/** Waits for a change of a file, and explains what it fails with; see `explainWriteError`. */
export async function explainingErrors<T>(file: string, change: Promise<T>): Promise<T> {
  try {
    return await change
  } catch (error) {
    throw explainWriteError(error, file)
  }
}

const NO_SPACE: Record<string, string | undefined> = {
  EDQUOT: 'exceeds a quota of its filesystem',
  // f2fs_expand_inode_data (fs/f2fs/file.c), of a pinned file.
  EAGAIN: 'does not fit: f2fs has too few free sections for a pinned file',
}

const SPLIT = 'Make several files of it, with the option `maxFileSize`.'
