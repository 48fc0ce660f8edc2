// Locks on files: one process at a time maps or unmaps a file.
import { mkdir } from 'node:fs/promises'
import debug from 'debug'
import { DmloopError, dmloopError, isSystemError } from './kernel/errors.js'
import type { Inode } from './kernel/file-uses.js'
import { native, result } from './kernel/native.js'
import { identify } from './kernel/path.js'
import type { DmloopCode } from './kernel/policy.js'
import { DEFAULT_WAIT, NO_WAIT, poll, type WaitLimit } from './kernel/wait.js'
import { BackingFiles, lockedError } from './plan/backing-file.js'
import { DIRECTORY, lockNames, parseRecord, recordPath, type MappingRecord } from './record.js'

const log = debug('dmloop:file-lock')

/**
 * Exclusive locks on files, by identity. Each is a lock on the file's record, which the kernel drops when
 * the process ends, however it ends. Whoever has it knows that nobody is in the middle of mapping or
 * unmapping these files, and that whatever is half-done was left by a crash.
 */
export class FileLock implements AsyncDisposable {
  readonly #records: { path: string; identity: string; fd: number; text: string }[] = []

  static async take(identities: readonly string[], limit: WaitLimit): Promise<FileLock> {
    const lock = new FileLock()
    try {
      // All processes lock in the same order, so that no two wait for each other.
      for (const identity of [...new Set(identities)].sort()) await lock.#take(identity, limit)
      return lock
    } catch (error) {
      await lock[Symbol.asyncDispose]()
      throw error
    }
  }

  async #take(identity: string, limit: WaitLimit): Promise<void> {
    const path = recordPath(identity)
    const locked = await poll(() => tryLocking(path), limit)
    if (!locked) {
      const detail = `another process was busy with it for ${limit.timeout} ms`
      throw dmloopError('DMLOOP_TIMEOUT', { file: path }, detail)
    }
    log('locked %s', identity)
    this.#records.push({ path, identity, ...locked })
  }

  /** The record of a locked file. */
  recordOf(identity: string): MappingRecord | undefined {
    const record = this.#records.find((each) => each.identity === identity)
    return record && parseRecord(record.text)
  }

  /** Writes the record of a mapping of all the locked files. */
  async write(mapping: MappingRecord): Promise<void> {
    for (const record of this.#records) await this.#set(record, `${JSON.stringify(mapping)}\n`)
  }

  /** Empties the records: there is no mapping any more. They are removed with the lock. */
  async clear(): Promise<void> {
    for (const record of this.#records) {
      if (record.text !== '') await this.#set(record, '')
    }
  }

  /** Empties those records that belong to some mappings. */
  async clearOf(...mappings: readonly MappingRecord[]): Promise<void> {
    for (const record of this.#records) {
      const id = parseRecord(record.text)?.id
      if (mappings.some((mapping) => mapping.id === id)) await this.#set(record, '')
    }
  }

  async #set(record: { path: string; fd: number; text: string }, text: string): Promise<void> {
    // Before the write: if it fails, the file has neither the old text nor, for certain, the new one.
    record.text = text
    await result(native.writeRecord(record.fd, text), record.path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const released = this.#records.splice(0).map(async ({ path, fd }) => {
      await result(native.releaseRecord(fd, path), path)
      log('released %s', path)
    })
    // All are released, even if one fails.
    await Promise.allSettled(released)
    await Promise.all(released)
  }
}

/** One process at a time wraps a device ("8:3"), changes the table of its wrapper, or removes that. */
export const lockWrapped = (device: string): Promise<FileLock> =>
  FileLock.take([`wrap-${device.replace(':', '-')}`], DEFAULT_WAIT)

/** One process at a time has a file become swap space. */
export const lockSwapSpace = (): Promise<FileLock> => FileLock.take(['swap-space'], DEFAULT_WAIT)

/** Removes the locks on anything but files that killed processes have left. */
export async function sweepLocks(): Promise<void> {
  for (const name of await lockNames()) {
    await using _ = await FileLock.take([name], NO_WAIT).catch((error: unknown) => {
      log('%s: %o', name, error)
      return undefined
    })
  }
}

/** Opened files, and the lock on them. */
export interface LockedFiles {
  files: BackingFiles
  lock: FileLock
}

/**
 * Opens files and locks them, also against processes with another /run. While another process has a lock
 * they are closed again, for whoever maps a file on f2fs must be the only one who has it open. Rejects with
 * DMLOOP_TIMEOUT, and with DMLOOP_FILE_IN_USE for a lease (see `BackingFile.open`).
 */
export async function openLocked(paths: readonly string[], limit: WaitLimit): Promise<LockedFiles> {
  let busy: unknown
  const opened = await poll(async () => {
    try {
      return await tryOpenLocked(paths)
    } catch (error) {
      if (!(error instanceof DmloopError) || !BUSY.has(error.code)) throw error
      busy = error
      return undefined
    }
  }, limit)
  if (opened) return opened
  if (busy instanceof DmloopError && busy.code === 'DMLOOP_FILE_IN_USE') throw busy
  const error = await lockedError(paths[0], await inodesAt(paths), limit)
  error.cause = busy
  throw error
}

const BUSY = new Set<DmloopCode>(['DMLOOP_TIMEOUT', 'DMLOOP_FILE_IN_USE'])

async function tryOpenLocked(paths: readonly string[]): Promise<LockedFiles> {
  const files = await BackingFiles.open(paths, NO_WAIT)
  let lock: FileLock | undefined
  try {
    lock = await FileLock.take(files.identities, NO_WAIT)
    await files.flock(NO_WAIT)
    return { files, lock }
  } catch (error) {
    await lock?.[Symbol.asyncDispose]()
    await files[Symbol.asyncDispose]()
    throw error
  }
}

/** The files at some paths, as far as they are still there. */
async function inodesAt(paths: readonly string[]): Promise<Inode[]> {
  const found = await Promise.all(paths.map((path) => identify(path).catch(() => undefined)))
  return found
    .filter((facts) => facts !== undefined)
    .map(({ fsMajor: major, fsMinor: minor, inode }) => {
      // On btrfs that is not the number in /proc/locks: there nobody is named.
      return { major, minor, inode, filesystem: { major, minor } }
    })
}

/** Opens and locks a record; undefined when another process has it. */
async function tryLocking(path: string): Promise<{ fd: number; text: string } | undefined> {
  try {
    return await result(native.lockRecord(path), path)
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return undefined
    if (!isSystemError(error, 'ENOENT')) throw error
    // The first mapping since the machine started.
    await mkdir(DIRECTORY, { recursive: true, mode: 0o700 })
    return await tryLocking(path)
  }
}
