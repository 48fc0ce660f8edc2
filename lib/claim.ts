// The claim on a file: one process at a time maps or unmaps it, and the record of its mapping.
import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { mkdir, open, readdir, readFile, rm, stat, type FileHandle } from 'node:fs/promises'
import { basename, join } from 'node:path'
import debug from 'debug'
import { isSystemError, verdict, type Problem } from './errors.js'
import { native, result } from './native.js'
import type { Backend } from './policy.js'
import type { DeviceNode } from './udev.js'
import { poll, type Patience } from './wait.js'

const log = debug('dmloop:claim')

/** Gone after a reboot, as the mappings are; there before the root filesystem is. */
const DIRECTORY = '/run/dmloop'

/** How a mapping was made, for every process that finds it later. */
export interface MappingRecord {
  /** Tells this mapping from an earlier or later one of the same file. */
  id: string
  uuid: string
  /** The device. */
  node: DeviceNode
  /** Without symbolic links, in the order of the device. */
  files: string[]
  /** What each of the files is; see `BackingFile.identity`. */
  identities: string[]
  /** Bytes. */
  offset: number
  /** The device's size, in bytes. */
  length: number
  readOnly: boolean
  holes: 'reject' | 'zero'
  guard: 'immutable' | 'none'
  backend: Backend
  /** The loop devices: /dev/loopN, and the name that each bears; several are joined by the device. */
  loops: { number: number; name: string }[]
  /** See `MappedDevice.fallback`. */
  fallback: Problem[]
}

/** A record of a new mapping of these files. */
export const newRecord = (
  files: readonly { path: string; identity: string }[],
  { offset, readOnly, holes }: Pick<MappingRecord, 'offset' | 'readOnly' | 'holes'>,
  device: Pick<
    MappingRecord,
    'uuid' | 'node' | 'length' | 'guard' | 'backend' | 'loops' | 'fallback'
  >,
): MappingRecord => ({
  id: randomUUID(),
  files: files.map(({ path }) => path),
  identities: files.map(({ identity }) => identity),
  offset,
  readOnly,
  holes,
  ...device,
})

const recordPath = (identity: string): string => join(DIRECTORY, `${identity}.json`)

/** Every file that has a record. */
export async function recordedIdentities(): Promise<string[]> {
  try {
    const names = await readdir(DIRECTORY)
    return names.filter((name) => name.endsWith('.json')).map((name) => basename(name, '.json'))
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return []
    throw error
  }
}

/** The record of a file's mapping, if there is one. */
export async function readRecord(identity: string): Promise<MappingRecord | undefined> {
  try {
    const [line = '', ...rest] = (await readFile(recordPath(identity), 'utf8')).split('\n')
    // A claim without a mapping is an empty file; a line without an end is being written.
    return rest.length === 0 ? undefined : (JSON.parse(line) as MappingRecord)
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined
    throw error
  }
}

/**
 * Exclusive claims on files, by identity. Each is a lock on the file's record, which the kernel drops
 * when the process ends, however it ends: who has the claim knows that nobody is in the middle of
 * mapping or unmapping these files, and that what is half-done was left by a crash.
 */
export class Claim implements AsyncDisposable {
  readonly #records: { path: string; identity: string; handle: FileHandle }[] = []

  static async take(identities: readonly string[], patience: Patience): Promise<Claim> {
    const claim = new Claim()
    try {
      await mkdir(DIRECTORY, { recursive: true, mode: 0o700 })
      // In one order for everyone: two processes that claim the same files cannot wait for each other.
      for (const identity of [...new Set(identities)].sort()) await claim.#take(identity, patience)
      return claim
    } catch (error) {
      await claim[Symbol.asyncDispose]()
      throw error
    }
  }

  async #take(identity: string, patience: Patience): Promise<void> {
    const path = recordPath(identity)
    const handle = await poll(() => tryLocking(path), patience)
    if (!handle) {
      const detail = `another process was busy with it for ${patience.timeout} ms`
      throw verdict('DMLOOP_TIMEOUT', { file: path }, detail)
    }
    log('claimed %s', identity)
    this.#records.push({ path, identity, handle })
  }

  /** Writes the record of a mapping that covers all the claimed files. */
  async write(record: MappingRecord): Promise<void> {
    const line = Buffer.from(`${JSON.stringify(record)}\n`)
    for (const { handle } of this.#records) {
      // Only the first line counts, so that the file is whole at every moment.
      await handle.write(line, 0, line.length, 0)
      await handle.truncate(line.length)
    }
  }

  /** Empties the records: there is no mapping any more. They go with the claim. */
  async clear(): Promise<void> {
    for (const { handle } of this.#records) await handle.truncate(0)
  }

  /** Empties those of the records that are of one mapping. */
  async clearOf({ id }: MappingRecord): Promise<void> {
    for (const { identity, handle } of this.#records) {
      if ((await readRecord(identity))?.id === id) await handle.truncate(0)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { path, handle } of this.#records.splice(0)) {
      // An empty one says nothing; if it was removed from outside, the path is the next process's.
      const { size, nlink } = await handle.stat()
      if (size === 0 && nlink > 0) await rm(path, { force: true })
      await handle.close()
      log('released %s', path)
    }
  }
}

/** Opens and locks a record; undefined when another process has it. */
async function tryLocking(path: string): Promise<FileHandle | undefined> {
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
  try {
    await result(native.tryLock(handle.fd), path)
    // Who had the lock before may have removed the file: then this is a lock on nothing.
    const [locked, named] = [await handle.stat(), await stat(path).catch(() => undefined)]
    if (locked.ino === named?.ino) return handle
  } catch (error) {
    if (!isSystemError(error, 'EAGAIN')) {
      await handle.close()
      throw error
    }
  }
  await handle.close()
  return undefined
}
