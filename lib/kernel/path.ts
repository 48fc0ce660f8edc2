// Paths. Node's own functions would occupy a thread of libuv's pool for as long as a path hangs.
import { open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { native, result, type PathFacts } from './native.js'

/** What is at a path, without asking the server of a network filesystem (AT_STATX_DONT_SYNC). */
export const identify = (path: string): Promise<PathFacts> => result(native.identify(path), path)

/** A file or device that is open, and closed with `await using`. */
export class OpenPath implements AsyncDisposable {
  readonly fd: number
  readonly #path: string

  private constructor(fd: number, path: string) {
    this.fd = fd
    this.#path = path
  }

  /** `flags` are those of open(2). */
  static async open(path: string, flags: number): Promise<OpenPath> {
    return new OpenPath(await result(native.open(path, flags), path), path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await result(native.close(this.fd), this.#path)
  }
}

/** Makes sure that the names in a folder are on the disk as well. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path)
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Writes a file in one step: after a crash there is the old or the new one. One process at a time may do it. */
export async function replaceFile(
  path: string,
  content: string | Uint8Array,
  mode: number,
): Promise<void> {
  const temporary = `${path}.new`
  const file = await open(temporary, 'w', mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, path)
  await syncFolder(dirname(path))
}
