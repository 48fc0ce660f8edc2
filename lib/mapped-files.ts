// The files of an existing mapping: found again, locked, and released when the device is gone.
import debug from 'debug'
import { findTable, isReadOnly } from './kernel/device-mapper.js'
import { dmloopError } from './kernel/errors.js'
import type { DmDevice } from './kernel/native.js'
import type { SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize } from './kernel/sysfs.js'
import { NO_WAIT, type WaitLimit } from './kernel/wait.js'
import { settleFences } from './fence.js'
import { isGuardedUnmarked, readMark, releaseGuard, releaseUnmapped } from './guard.js'
import { locateFile, type Located } from './locate.js'
import { dropStalePages } from './page-cache.js'
import { BackingFile, BackingFiles } from './plan/backing-file.js'
import { identityOf, parseIdentity } from './plan/names.js'
import { readRecord, type MappingRecord } from './record.js'

const log = debug('dmloop:mapped-files')

interface MappedFile {
  identity: string
  /** The path in the record, or else the identity: for messages. */
  name: string
  found: Located
}

export class MappedFiles implements AsyncDisposable {
  readonly #record: MappingRecord
  readonly #files: MappedFile[] = []

  private constructor(record: MappingRecord) {
    this.#record = record
  }

  /**
   * Finds the files of a mapping, as far as they can be found, and opens them; until the limit it waits for
   * leases of other processes. `table` is the mapping's live table.
   */
  static async find(
    record: MappingRecord,
    limit: WaitLimit,
    table?: SegmentTable,
  ): Promise<MappedFiles> {
    const files = new MappedFiles(record)
    try {
      for (const [index, identity] of record.identities.entries()) {
        const path = record.files[index]
        const filesystem = record.filesystems?.[index]
        const clues = { path, marked: record.marked.includes(identity), table, filesystem }
        const found = await locateFile(identity, clues, limit)
        files.#files.push({ identity, name: path ?? identity, found })
      }
      return files
    } catch (error) {
      await files[Symbol.asyncDispose]()
      throw error
    }
  }

  /** The files that were found, in the order of the device. */
  get found(): BackingFile[] {
    return this.#files.flatMap(({ found }) => (found instanceof BackingFile ? [found] : []))
  }

  /**
   * Returns all of the files. Throws DMLOOP_FILE_CHANGED when one no longer exists, and
   * DMLOOP_FILE_UNREACHABLE when its filesystem is mounted nowhere; and why one could not be opened.
   */
  assertFound(): BackingFiles {
    for (const { name, found } of this.#files) {
      if (found === 'gone') throw dmloopError('DMLOOP_FILE_CHANGED', { file: name }, 'is gone')
      if (found === 'unreachable') throw unreachable(name)
      if (found instanceof Error) throw found
    }
    return new BackingFiles(this.found)
  }

  /** See `BackingFiles.flock`. */
  async flock(limit: WaitLimit, options?: { orShared: boolean }): Promise<void> {
    await new BackingFiles(this.found).flock(limit, options)
  }

  /** Whether nothing says that the first file was mapped again: its mark, if it has one, is of this mapping. */
  async isCurrent(): Promise<boolean> {
    const first = this.#files[0]?.found
    const mark = first instanceof BackingFile ? await readMark(first) : undefined
    const { id } = this.#record
    return mark?.kept !== undefined || id === '' || (mark?.id ?? id) === id
  }

  /**
   * Does what remains when the device is gone: drops the cached pages of each file, which are older than
   * the device's writes, and releases its guard. A file that is gone as well, or mapped again, needs
   * neither; `removed` says that the caller has just removed the device, which had the blocks of its files.
   * If a file cannot be released, the others are, and then it rejects: with DMLOOP_FILE_UNREACHABLE,
   * DMLOOP_FILE_IN_USE, DMLOOP_STALE_CACHE, DMLOOP_ALREADY_MAPPED or the system's error.
   */
  async finish(removed: boolean): Promise<void> {
    const failures: unknown[] = []
    await this.#settleFences().catch((error: unknown) => failures.push(error))
    for (const file of this.#files) {
      await this.#finishFile(file, removed).catch((error: unknown) => {
        log('%s: %o', file.name, error)
        failures.push(error)
      })
    }
    if (failures.length > 0) throw failures[0]
  }

  /** The number of a filesystem's device is known also where the file cannot be reached. */
  async #settleFences(): Promise<void> {
    if (this.#record.backend === 'loop') return
    const devices = this.#files.flatMap(({ identity }) => {
      const parts = parseIdentity(identity)
      return parts ? [deviceName(parts.major, parts.minor)] : []
    })
    await settleFences(devices, this.found)
  }

  async #finishFile({ identity, name, found }: MappedFile, removed: boolean): Promise<void> {
    const { id, backend, guard } = this.#record
    // A loop device writes through the filesystem, which keeps its page cache coherent.
    if (found === 'gone' || backend === 'loop') return
    const record = await readRecord(identity)
    const isMappedAgain = record !== undefined && record.id !== id
    if (found === 'unreachable') {
      if (isMappedAgain && !removed) return
      throw unreachable(name)
    }
    if (found instanceof Error) throw found
    const mark = await readMark(found)
    // A guard that is kept stays, and its mark does not tell which mapping it was.
    const isKept = mark?.kept !== undefined
    if (!isKept && mark?.id === id) await releaseGuard(found)
    // The file was mapped by the device that is gone: its mark must be of that one, or of none that exists.
    else if (mark && !isKept && removed) await releaseUnmapped(found)
    else if ((!mark || isKept) && (removed || !isMappedAgain)) {
      await (guard === 'swapfile' ? releaseUnmapped(found) : dropStalePages(found))
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new BackingFiles(this.found)[Symbol.asyncDispose]()
  }
}

const unreachable = (name: string): Error =>
  dmloopError(
    'DMLOOP_FILE_UNREACHABLE',
    { file: name },
    'is on a filesystem that is mounted nowhere',
  )

/**
 * Reconstructs the record of a mapping: the kernel has the device, whose UUID identifies the first file, and
 * the marks on the files tell the rest.
 */
export async function reconstructRecord(
  device: DmDevice,
  known?: SegmentTable,
): Promise<MappingRecord> {
  const { uuid, name, major, minor } = device
  const table = known ?? (await findTable(device))
  const record: MappingRecord = {
    id: '',
    uuid,
    node: { name, major, minor },
    files: [],
    identities: [],
    offset: 0,
    length: await deviceSize(deviceName(major, minor)),
    readOnly: isReadOnly(device),
    // A writable device has no zero segments. Of a read-only one this allows them.
    holes: isReadOnly(device) ? 'zero' : 'reject',
    guard: 'none',
    marked: [],
    udevScan: undefined,
    backend: 'linear',
    loops: [],
    fallback: [],
    partitions: [],
    partitionProblems: [],
  }
  for (let next = identityOf(uuid); next !== undefined;) {
    record.identities.push(next)
    const found = await locateFile(next, { path: undefined, marked: false, table }, NO_WAIT)
    if (!(found instanceof BackingFile)) break
    await using file = found
    record.files.push(file.path)
    const mark = await readMark(file)
    if (!mark && (await isGuardedUnmarked(file))) record.guard = 'swapfile'
    if (!mark) break
    record.guard = mark.protections.includes('swap') ? 'swapfile' : 'immutable'
    record.marked.push(next)
    if (record.identities.length === 1) {
      // A mark that is kept has been there before the mapping.
      record.id = mark.kept === undefined ? mark.id : ''
      record.offset = mark.offset
    }
    next = record.identities.includes(mark.next ?? '') ? undefined : mark.next
  }
  return record
}

/**
 * The record of a mapping that exists: the recorded one, unless the mark on the file names another mapping. A
 * process with another /run may have unmapped the file and mapped it again, perhaps with the same number.
 */
export async function recordOf(
  device: DmDevice,
  recorded: MappingRecord | undefined,
  table?: SegmentTable,
): Promise<MappingRecord> {
  const known = recorded?.uuid === device.uuid ? recorded : undefined
  if (!known) return await reconstructRecord(device, table)
  const current = await reconstructRecord(device, table).catch((error: unknown) => {
    // The file cannot be read now.
    log('%s: %o', device.name, error)
    return known
  })
  return current.id === '' || current.id === known.id ? known : current
}

/** Whether a record is of the mapping that exists, as far as the file tells. */
export const isRecordOf = async (record: MappingRecord, device: DmDevice): Promise<boolean> =>
  (await recordOf(device, record)) === record
