// A mapping of files, with the record of how it was made: what linear and loop devices have in common.
import { dmloopError } from './kernel/errors.js'
import type { SegmentTable } from './kernel/segments.js'
import { DEFAULT_WAIT } from './kernel/wait.js'
import { FileLock } from './file-lock.js'
import { MappedDevice, type DeviceFacts } from './mapped-device.js'
import { MappedFiles } from './mapped-files.js'
import type { UnmapRequest } from './options.js'
import type { BackingFiles } from './plan/backing-file.js'
import { identityOf } from './plan/names.js'
import { readRecord, type MappingRecord } from './record.js'

/** A mapping as it is now; a linear one has the table that the kernel uses. */
export interface CurrentMapping {
  record: MappingRecord
  table?: SegmentTable
}

/** What the record does not tell. */
export type OwnFacts = Omit<DeviceFacts, 'files' | 'fallback' | 'partitionProblems'>

export abstract class FileDevice<Current extends CurrentMapping> extends MappedDevice {
  /** @internal The record when the object was made, or when it was last extended; undefined if lost. */
  protected record: MappingRecord | undefined

  /** @internal */
  constructor(facts: OwnFacts, record: MappingRecord | undefined) {
    const { files = [], fallback = [], partitionProblems = [] } = record ?? {}
    super({ ...facts, files, fallback, partitionProblems })
    this.record = record
  }

  /** Made from the UUID: the key of the record. */
  get #identity(): string {
    return identityOf(this.uuid) ?? ''
  }

  /** The mapping as it is now: another object may have extended it. @internal */
  protected abstract currentMapping(): Promise<Current>

  /**
   * The record now, of which `ofDevice` returns what applies to the device. Rejects with DMLOOP_FILE_CHANGED
   * when the file has been mapped again.
   * @internal
   */
  protected async currentRecord(
    ofDevice: (recorded: MappingRecord | undefined) => Promise<MappingRecord | undefined>,
  ): Promise<MappingRecord> {
    const own = this.record
    const record = await ofDevice((await readRecord(this.#identity)) ?? own)
    if (record && (!own || isSameMapping(record, own))) return record
    const detail = 'is not the mapping that this object was made for'
    throw dmloopError('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)
  }

  /** @internal */
  protected async extendDevice(): Promise<void> {
    const { identities } = (await this.currentMapping()).record
    await using lock = await FileLock.take(identities, DEFAULT_WAIT)
    const current = await this.currentMapping()
    await using found = await MappedFiles.find(current.record, DEFAULT_WAIT, current.table)
    const files = found.assertFound()
    await files.flock(DEFAULT_WAIT)
    await files.flushJournal()
    await files.syncAndProbe()
    const length = await this.mapGrowth(files, current)
    this.record = { ...current.record, length }
    await lock.write(this.record)
    this.setSize(length)
  }

  /** Extends the device to all of its files. Returns its size in bytes. @internal */
  protected abstract mapGrowth(files: BackingFiles, current: Current): Promise<number>

  /** @internal */
  protected async remove(request: UnmapRequest): Promise<'removed' | 'deferred'> {
    const identities = this.record?.identities ?? [this.#identity]
    await using lock = await FileLock.take(identities, request)
    return await this.removeLocked(request, lock, lock.recordOf(this.#identity))
  }

  /**
   * Whether a record is of another mapping than this object: the same file may have been unmapped and mapped
   * again. @internal
   */
  protected isOfAnother(record: MappingRecord | undefined): boolean {
    return this.record !== undefined && record !== undefined && !isSameMapping(record, this.record)
  }

  /** Removes the device; `record` is what the locked record says. @internal */
  protected abstract removeLocked(
    request: UnmapRequest,
    lock: FileLock,
    record: MappingRecord | undefined,
  ): Promise<'removed' | 'deferred'>
}

/** Whether two records are of one mapping, as far as can be told. */
const isSameMapping = (a: MappingRecord, b: MappingRecord): boolean =>
  a.id === b.id || a.id === '' || b.id === ''
