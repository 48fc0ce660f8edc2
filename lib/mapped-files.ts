// The files of a mapping: found again, locked, and let go when the device is gone.
import debug from 'debug'
import { BackingFile, BackingFiles } from './plan/backing-file.js'
import { readRecord, type MappingRecord } from './file-lock.js'
import { verdict } from './kernel/errors.js'
import { letGo, markOf } from './guard.js'
import { locateFile, type Located } from './locate.js'
import { identityOf } from './plan/names.js'
import type { DmDevice } from './kernel/native.js'
import { isReadOnly } from './plan/device-stack.js'
import type { SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize } from './kernel/sysfs.js'
import type { Patience } from './kernel/wait.js'

const log = debug('dmloop:mapped-files')

interface MappedFile {
  identity: string
  /** As its record has it, or else its identity: for people. */
  name: string
  found: Located
}

export class MappedFiles implements AsyncDisposable {
  readonly #record: MappingRecord
  readonly #files: MappedFile[] = []

  private constructor(record: MappingRecord) {
    this.#record = record
  }

  /** Finds all files of a mapping that can be found, and opens them; `table` is its live one. */
  static async find(record: MappingRecord, table?: SegmentTable): Promise<MappedFiles> {
    const files = new MappedFiles(record)
    try {
      for (const [index, identity] of record.identities.entries()) {
        const path = record.files[index]
        const clues = { path, marked: record.marked.includes(identity), table }
        const found = await locateFile(identity, clues)
        files.#files.push({ identity, name: path ?? identity, found })
      }
      return files
    } catch (error) {
      await files[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Those that were found, in the order of the device. */
  get found(): BackingFile[] {
    return this.#files.flatMap(({ found }) => (found instanceof BackingFile ? [found] : []))
  }

  /**
   * All of them. Rejects with DMLOOP_FILE_CHANGED when a filesystem does not have one any more, and with
   * DMLOOP_FILE_UNREACHABLE when nothing leads to its filesystem.
   */
  assertFound(): BackingFiles {
    for (const { name, found } of this.#files) {
      if (found === 'gone') throw verdict('DMLOOP_FILE_CHANGED', { file: name }, 'is gone')
      if (found === 'unreachable') throw unreachable(name)
    }
    return new BackingFiles(this.found)
  }

  /** Keeps other processes, also those with another /run, from mapping the files meanwhile. */
  async lock(patience: Patience): Promise<void> {
    await new BackingFiles(this.found).lock(patience)
  }

  /**
   * What is left to do when the device is gone: what memory has of the files is from before its writes, and
   * they are let go. A file that is gone too, or has been mapped anew, needs nothing. Goes on to the
   * next file where one cannot be let go, and rejects then: with DMLOOP_FILE_UNREACHABLE or
   * DMLOOP_STALE_CACHE, or with the system's error.
   */
  async finish(): Promise<void> {
    const failures: unknown[] = []
    for (const file of this.#files) {
      await this.#finishFile(file).catch((error: unknown) => {
        log('%s: %o', file.name, error)
        failures.push(error)
      })
    }
    if (failures.length > 0) throw failures[0]
  }

  async #finishFile({ identity, name, found }: MappedFile): Promise<void> {
    const { id, backend } = this.#record
    const record = await readRecord(identity)
    if (found === 'gone' || (record && record.id !== id)) return
    // What a loop device writes, it writes through the file.
    if (backend === 'loop') return
    if (found === 'unreachable') throw unreachable(name)
    const mark = await markOf(found)
    if (!mark || mark.id === id) await letGo(found)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new BackingFiles(this.found)[Symbol.asyncDispose]()
  }
}

const unreachable = (name: string): Error =>
  verdict('DMLOOP_FILE_UNREACHABLE', { file: name }, 'is on a filesystem that no mount leads to')

/**
 * What can be told of a mapping without its record: the kernel has the device and what its first file is,
 * and the files have the marks of their guard.
 */
export async function recordWithout(device: DmDevice): Promise<MappingRecord> {
  const { uuid, name, major, minor } = device
  const record: MappingRecord = {
    id: '',
    uuid,
    node: { name, major, minor },
    files: [],
    identities: [],
    offset: 0,
    length: await deviceSize(deviceName(major, minor)),
    readOnly: isReadOnly(device),
    // On a read-only device what reads as zeros has been allowed, or is not there.
    holes: isReadOnly(device) ? 'zero' : 'reject',
    guard: 'none',
    marked: [],
    udevScan: undefined,
    backend: 'linear',
    loops: [],
    fallback: [],
  }
  for (let next = identityOf(uuid); next !== undefined;) {
    record.identities.push(next)
    const found = await locateFile(next, { path: undefined, marked: false })
    if (!(found instanceof BackingFile)) break
    await using file = found
    record.files.push(file.path)
    const mark = await markOf(file)
    if (!mark) break
    record.guard = 'immutable'
    record.marked.push(next)
    if (record.identities.length === 1) Object.assign(record, { id: mark.id, offset: mark.offset })
    next = record.identities.includes(mark.next ?? '') ? undefined : mark.next
  }
  return record
}
