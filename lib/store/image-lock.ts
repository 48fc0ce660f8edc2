// One process at a time changes an image.
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { poll, type WaitLimit } from '../kernel/wait.js'

/** A lock that the kernel drops when the process ends, however it ends. */
export class ImageLock implements AsyncDisposable {
  readonly #path: string
  readonly #fd: number

  private constructor(path: string, fd: number) {
    this.#path = path
    this.#fd = fd
  }

  /** Rejects with DMLOOP_TIMEOUT while another process has it, and with DMLOOP_NO_SUCH_IMAGE without a store. */
  static async take(path: string, limit: WaitLimit): Promise<ImageLock> {
    const fd = await poll(() => tryLocking(path), limit)
    if (fd !== undefined) return new ImageLock(path, fd)
    const detail = `another process was busy with it for ${limit.timeout} ms`
    throw dmloopError('DMLOOP_TIMEOUT', { file: path }, detail)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await result(native.releaseRecord(this.#fd, this.#path), this.#path)
  }
}

async function tryLocking(path: string): Promise<number | undefined> {
  try {
    return (await result(native.lockRecord(path), path)).fd
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return undefined
    // Not even the directory is there.
    if (isSystemError(error, 'ENOENT')) throw dmloopError('DMLOOP_NO_SUCH_IMAGE', { file: path })
    throw error
  }
}
