// The claim on a file: one process at a time maps or unmaps it, and the record of its mapping.
import { randomBytes } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import debug from 'debug'
import { BackingFiles } from './plan/backing-file.js'
import { DmloopError, isSystemError, verdict, type Problem } from './kernel/errors.js'
import { native, result } from './kernel/native.js'
import type { Backend } from './kernel/policy.js'
import type { DeviceNode } from './kernel/udev.js'
import { poll, type Patience } from './kernel/wait.js'

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
  /** Which of the identities are of files that bear the mark of this mapping's guard. */
  marked: string[]
  /** See `MapOptions.udevScan`; undefined where it is not known. */
  udevScan: boolean | undefined
  backend: Backend
  /** A loop device's logical block size, in bytes. */
  blockSize?: number
  /** The loop devices: /dev/loopN, and the name that each bears; several are joined by the device. */
  loops: { number: number; name: string }[]
  /** See `MappedDevice.fallback`. */
  fallback: Problem[]
}

/** Tells a mapping from every other; short, because the mark of the file has it too. */
export const newId = (): string => randomBytes(6).toString('base64url')

/** A record of a new mapping of these files. */
export const newRecord = (
  id: string,
  files: readonly { path: string; identity: string }[],
  {
    offset,
    readOnly,
    holes,
    udevScan,
  }: Pick<MappingRecord, 'offset' | 'readOnly' | 'holes' | 'udevScan'>,
  device: Pick<
    MappingRecord,
    'uuid' | 'node' | 'length' | 'guard' | 'marked' | 'backend' | 'blockSize' | 'loops' | 'fallback'
  >,
): MappingRecord => ({
  id,
  files: files.map(({ path }) => path),
  identities: files.map(({ identity }) => identity),
  offset,
  readOnly,
  holes,
  udevScan,
  ...device,
})

const SUFFIX = '.json'
const recordPath = (identity: string): string => join(DIRECTORY, identity + SUFFIX)

/** The record that a text is, if it is one: what is no record of this version says nothing. */
function parseRecord(text: string): MappingRecord | undefined {
  const [line = '', ...rest] = text.split('\n')
  // A claim without a mapping is an empty file; a line without an end is being written.
  if (rest.length === 0) return undefined
  try {
    const record: unknown = JSON.parse(line)
    return isRecord(record) ? record : undefined
  } catch (error) {
    log('not a record: %o', error)
    return undefined
  }
}

const isTexts = (value: unknown): boolean =>
  Array.isArray(value) && value.every((each) => typeof each === 'string')

function isRecord(value: unknown): value is MappingRecord {
  if (typeof value !== 'object' || value === null) return false
  const { id, uuid, node, files, identities, marked, offset, length, backend, loops, fallback } =
    value as Partial<Record<keyof MappingRecord, unknown>>
  return (
    [id, uuid, backend].every((each) => typeof each === 'string') &&
    [offset, length].every(Number.isSafeInteger) &&
    [files, identities, marked].every(isTexts) &&
    [loops, fallback].every(Array.isArray) &&
    typeof (node as Partial<DeviceNode> | null)?.name === 'string'
  )
}

/** Every record there is, by the file that it is of. */
export async function readRecords(): Promise<Map<string, MappingRecord>> {
  const records = new Map<string, MappingRecord>()
  for (const { name, text } of await result(native.readFolder(DIRECTORY, SUFFIX), DIRECTORY)) {
    const record = parseRecord(text)
    if (record) records.set(basename(name, SUFFIX), record)
  }
  return records
}

/** What is claimed, or was when a process was killed, of which the name starts so. */
export async function claimsOf(prefix: string): Promise<string[]> {
  const files = await result(native.readFolder(DIRECTORY, SUFFIX), DIRECTORY)
  return files.map(({ name }) => basename(name, SUFFIX)).filter((name) => name.startsWith(prefix))
}

/** The record of a file's mapping, if there is one. */
export async function readRecord(identity: string): Promise<MappingRecord | undefined> {
  const path = recordPath(identity)
  const text = await result(native.readFirst([path]), path)
  return text === undefined ? undefined : parseRecord(text)
}

/**
 * Exclusive claims on files, by identity. Each is a lock on the file's record, which the kernel drops
 * when the process ends, however it ends: who has the claim knows that nobody is in the middle of
 * mapping or unmapping these files, and that what is half-done was left by a crash.
 */
export class Claim implements AsyncDisposable {
  readonly #records: { path: string; identity: string; fd: number; text: string }[] = []

  static async take(identities: readonly string[], patience: Patience): Promise<Claim> {
    const claim = new Claim()
    try {
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
    const locked = await poll(() => tryLocking(path), patience)
    if (!locked) {
      const detail = `another process was busy with it for ${patience.timeout} ms`
      throw verdict('DMLOOP_TIMEOUT', { file: path }, detail)
    }
    log('claimed %s', identity)
    this.#records.push({ path, identity, ...locked })
  }

  /** What the record of a claimed file says. */
  recordOf(identity: string): MappingRecord | undefined {
    const record = this.#records.find((each) => each.identity === identity)
    return record && parseRecord(record.text)
  }

  /** Writes the record of a mapping that covers all the claimed files. */
  async write(mapping: MappingRecord): Promise<void> {
    for (const record of this.#records) await this.#set(record, `${JSON.stringify(mapping)}\n`)
  }

  /** Empties the records: there is no mapping any more. They go with the claim. */
  async clear(): Promise<void> {
    for (const record of this.#records) {
      if (record.text !== '') await this.#set(record, '')
    }
  }

  /** Empties those of the records that are of one mapping. */
  async clearOf({ id }: MappingRecord): Promise<void> {
    for (const record of this.#records) {
      if (parseRecord(record.text)?.id === id) await this.#set(record, '')
    }
  }

  async #set(record: { path: string; fd: number; text: string }, text: string): Promise<void> {
    // Also when it fails: what is there then may be anything, and is not what was there before.
    record.text = text
    await result(native.writeRecord(record.fd, text), record.path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const released = this.#records.splice(0).map(async ({ path, fd }) => {
      await result(native.releaseRecord(fd, path), path)
      log('released %s', path)
    })
    // Each is let go, whatever becomes of the others.
    await Promise.allSettled(released)
    await Promise.all(released)
  }
}

/**
 * Opens files and claims them, also against processes with another /run. While another process has them they
 * are closed again, for who maps a file of f2fs must be the only one who has it open. Rejects with
 * DMLOOP_TIMEOUT.
 */
export async function openClaimed(
  paths: readonly string[],
  patience: Patience,
): Promise<{ files: BackingFiles; claim: Claim }> {
  let busy: unknown
  const opened = await poll(async () => {
    try {
      return await tryOpenClaimed(paths)
    } catch (error) {
      if (!(error instanceof DmloopError) || error.code !== 'DMLOOP_TIMEOUT') throw error
      busy = error
      return undefined
    }
  }, patience)
  if (opened) return opened
  const detail = `was in use by another process that maps or unmaps it for ${patience.timeout} ms`
  const error = verdict('DMLOOP_TIMEOUT', { file: paths[0] }, detail)
  error.cause = busy
  throw error
}

const AT_ONCE: Patience = { timeout: 0, signal: undefined }

async function tryOpenClaimed(
  paths: readonly string[],
): Promise<{ files: BackingFiles; claim: Claim }> {
  const files = await BackingFiles.open(paths)
  let claim: Claim | undefined
  try {
    claim = await Claim.take(files.identities, AT_ONCE)
    await files.lock(AT_ONCE)
    return { files, claim }
  } catch (error) {
    await claim?.[Symbol.asyncDispose]()
    await files[Symbol.asyncDispose]()
    throw error
  }
}

/** Opens and locks a record; undefined when another process has it. */
async function tryLocking(path: string): Promise<{ fd: number; text: string } | undefined> {
  try {
    return await result(native.lockRecord(path), path)
  } catch (error) {
    if (isSystemError(error, 'EAGAIN')) return undefined
    if (!isSystemError(error, 'ENOENT')) throw error
    // The first mapping since the machine was started.
    await mkdir(DIRECTORY, { recursive: true, mode: 0o700 })
    return await tryLocking(path)
  }
}
