// Removes the files of an image, and the guard that keeps everybody else from it.
import { constants } from 'node:fs'
import { unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { dmloopError, isSystemError } from '../kernel/errors.js'
import { native, result } from '../kernel/native.js'
import { identify, OpenPath } from '../kernel/path.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { openLocked } from '../file-lock.js'
import { releaseKept } from '../guard.js'
import { BackingFile } from '../plan/backing-file.js'
import { recoverFiles } from '../recovery.js'
import { assertSameFiles } from './kept-files.js'
import { LABEL_SIZE } from './label.js'
import type { ImageMetadata } from './metadata.js'

/**
 * Rejects with DMLOOP_FILE_UNREACHABLE where the directory of the files is not there, and with DMLOOP_FILE_CHANGED
 * where another file is in the place of one.
 */
export async function assertRemovable(
  paths: readonly string[],
  { files }: Pick<ImageMetadata, 'files'>,
): Promise<void> {
  for (const [index, path] of paths.entries()) {
    if (!(await isThere(path))) continue
    await using file = await BackingFile.open(path, DEFAULT_WAIT)
    const recorded = files[index]
    // No handle is recorded of an image that was never complete.
    if (recorded && recorded.handle !== '') assertSameFiles([file], { files: [recorded] })
  }
}

/**
 * Removes files that are no longer mapped, the last one first, so that what is left is still known by its first.
 * Rejects with what says that a file is in use.
 */
export async function removeFiles(paths: readonly string[]): Promise<void> {
  const last = paths.at(-1)
  for (const path of [...paths].reverse()) {
    if (await isThere(path)) await removeFile(path, path === last)
  }
}

async function removeFile(path: string, isLabelled: boolean): Promise<void> {
  const locked = await openLocked([path], DEFAULT_WAIT)
  await using files = locked.files
  await using _ = locked.lock
  await recoverFiles(locked, DEFAULT_WAIT)
  for (const file of files.list) {
    await releaseKept(file)
    // Whoever has its table from before, as an initramfs has, must not map blocks that are free.
    if (isLabelled) await wipeLabel(path, file.size)
    await unlink(path)
  }
}

async function wipeLabel(path: string, size: number): Promise<void> {
  await using file = await OpenPath.open(path, constants.O_RDWR)
  const { buffer } = native.newWriteBuffer(LABEL_SIZE)
  const position = Math.max(0, size - LABEL_SIZE)
  await result(native.write(file.fd, buffer, Math.min(size, LABEL_SIZE), position), path)
  await result(native.sync(file.fd), path)
}

async function isThere(path: string): Promise<boolean> {
  try {
    await identify(path)
    return true
  } catch (error) {
    if (!isSystemError(error, 'ENOENT')) throw error
  }
  const directory = dirname(path)
  await identify(directory).catch((error: unknown) => {
    if (!isSystemError(error, 'ENOENT', 'ENOTDIR')) throw error
    throw dmloopError('DMLOOP_FILE_UNREACHABLE', { file: path })
  })
  return false
}
