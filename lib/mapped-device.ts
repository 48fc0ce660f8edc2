import debug from 'debug'
import { BackingFiles } from './backing-file.js'
import { Claim, readRecord, type MappingRecord } from './claim.js'
import { compareContent } from './content.js'
import {
  clearTable,
  findDevice,
  liveTable,
  removeDevice,
  removeLeftNode,
  repairNode,
  resumeDevice,
} from './device-mapper.js'
import { isReadOnly } from './device-stack.js'
import {
  DmloopError,
  isSystemError,
  problem,
  verdict,
  type FileRange,
  type Problem,
} from './errors.js'
import { judgeGuard } from './guard.js'
import { identityOf } from './names.js'
import type { DmDevice } from './native.js'
import {
  DEFAULT_TIMEOUT,
  parseUnmapOptions,
  parseVerifyOptions,
  type UnmapOptions,
  type UnmapRequest,
  type VerifyOptions,
  type VerifyRequest,
} from './options.js'
import { drawPlan, type DrawnPlan } from './plan-file.js'
import { loadProven } from './proof.js'
import { finish } from './remains.js'
import { SECTOR } from './segments.js'
import { deviceName, deviceSize } from './sysfs.js'
import { nodePath } from './udev.js'

const log = debug('dmloop:mapped-device')

export interface Verification {
  /** Whether the device still shows the file's own blocks. */
  ok: boolean
  problems: Problem[]
}

/** A block device over the blocks of a file. Any process can hold one for any mapping. */
export class MappedDevice implements AsyncDisposable {
  readonly backend = 'linear'
  /** The device-mapper name. */
  readonly name: string
  /** The device's node, /dev/mapper/NAME. */
  readonly path: string
  readonly major: number
  readonly minor: number
  /** `DMLOOP-` and what the file is. */
  readonly uuid: string
  readonly readOnly: boolean
  /** The files beneath, without symbolic links; empty if their record in /run was lost. */
  readonly files: readonly string[]

  #device: DmDevice
  #record: MappingRecord | undefined
  #size: number
  #unmapped: Promise<void> | undefined

  /** @internal Use mapFile, openMapping or listMappings. */
  constructor(device: DmDevice, record: MappingRecord | undefined, size: number) {
    this.#device = device
    this.#record = record
    this.name = device.name
    this.path = nodePath(device.name)
    this.major = device.major
    this.minor = device.minor
    this.uuid = device.uuid
    this.readOnly = isReadOnly(device)
    this.files = record?.files ?? []
    this.#size = size
  }

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  get segmentCount(): number {
    return this.#device.targetCount
  }

  /** @internal The mapping that a kernel's device is; the device must be one of ours. */
  static async of(device: DmDevice): Promise<MappedDevice> {
    await repairNode(device)
    const record = await readRecord(identityOf(device.uuid) ?? '')
    const known = record?.uuid === device.uuid ? record : undefined
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new MappedDevice(device, known, size)
  }

  /**
   * Reads the file's extents again and compares them with the live table, and looks whether the file
   * is still held still; with `content`, compares the bytes too. Each deviation is a problem; nothing is
   * changed.
   */
  async verify(options?: VerifyOptions): Promise<Verification> {
    const request = parseVerifyOptions(options)
    const problems = await this.#deviations(request).catch((error: unknown) => {
      if (error instanceof DmloopError) return [...error.problems]
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR', 'ENXIO')) throw error
      const detail = `cannot be compared with its device: ${error.message}`
      return [problem('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)]
    })
    log('%s: verified, %d problems', this.name, problems.length)
    return { ok: problems.length === 0, problems }
  }

  async #deviations({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const record = await this.#currentRecord()
    await using files = await openRecorded(record)
    const drawn = await drawPlan(files.list, record)
    const problems = [...drawn.plan.problems]
    for (const each of files.list) problems.push(...(await judgeGuard(each, record.guard)))
    const live = await liveTable(this.#device)
    if (drawn.plan.problems.length === 0 && !drawn.plan.segments.equals(live)) {
      const sector = drawn.plan.segments.firstDifference(live) ?? 0
      problems.push(problem('DMLOOP_FILE_CHANGED', rangeAt(drawn, sector)))
    }
    if (problems.length === 0 && mode !== 'none') {
      const found = await compareContent(drawn.parts, this.path, { mode, ...request })
      if (found) problems.push(found)
    }
    return problems
  }

  /**
   * The record of this mapping as it is now: another object may have extended it. Rejects with
   * DMLOOP_FILE_CHANGED when there is none, or when the file has been mapped anew.
   */
  async #currentRecord(): Promise<MappingRecord> {
    const record = await readRecord(identityOf(this.uuid) ?? '')
    if (record && record.id === (this.#record?.id ?? record.id)) return record
    const detail = 'is not the mapping that this object was made for, or its record is lost'
    throw verdict('DMLOOP_FILE_CHANGED', { file: this.files[0] ?? this.path }, detail)
  }

  /**
   * Maps what the file has grown by, which a file that is held still cannot do (map it with guard:
   * 'none' for that): afterwards the device reaches to the file's last whole logical block. I/O goes on
   * meanwhile. Rejects with DMLOOP_FILE_CHANGED when the part that is mapped already lies elsewhere by
   * now, and like mapFile when the new part cannot be mapped; then the device stays as it was.
   */
  async extend(): Promise<void> {
    const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
    const { identities } = await this.#currentRecord()
    await using claim = await Claim.take(identities, patience)
    const record = await this.#currentRecord()
    await using files = await openRecorded(record)
    await files.settle()
    const drawn = await drawPlan(files.list, { ...record, length: undefined })
    const { plan } = drawn
    plan.assertMappable()

    const live = await liveTable(this.#device)
    const difference = plan.segments.firstDifference(live)
    if (difference !== undefined && difference < live.sectors) {
      throw verdict('DMLOOP_FILE_CHANGED', rangeAt(drawn, difference))
    }
    const grown = { ...record, length: plan.size }
    if (difference !== undefined) {
      try {
        await loadProven(this.#device, drawn)
        this.#device = await resumeDevice(this.#device, patience.timeout)
      } catch (error) {
        await clearTable(this.#device).catch((failure: unknown) => log('clearing: %o', failure))
        throw error
      }
    }
    await claim.write(grown)
    this.#record = grown
    this.#size = plan.size
    log('%s: extended to %d bytes', this.name, plan.size)
  }

  /**
   * Removes the device. Rejects with DMLOOP_STILL_OPEN when it is open until `timeout`; with
   * `deferred` the kernel removes it as soon as nobody has it open. Removing it twice, or after
   * another process did, is no error. Afterwards the file reads what was written to the device.
   */
  async unmap(options?: UnmapOptions): Promise<void> {
    const request = parseUnmapOptions(options)
    // A second call waits for the first, and tries again if that one failed.
    await this.#unmapped?.catch(() => undefined)
    this.#unmapped ??= this.#remove(request).catch((error: unknown) => {
      this.#unmapped = undefined
      throw error
    })
    await this.#unmapped
  }

  async #remove(request: UnmapRequest): Promise<void> {
    const identity = identityOf(this.uuid) ?? ''
    await using claim = await Claim.take(this.#record?.identities ?? [identity], request)
    const record = await readRecord(identity)
    // The same file may have been unmapped and mapped again meanwhile: that mapping is not this one.
    if (this.#record && record && record.id !== this.#record.id) return
    const found = await findDevice({ uuid: this.uuid })
    if (found && found.minor !== this.minor) return
    // What is deferred is finished by whoever looks next; see `sweep`.
    if (found && (await removeDevice(found, request)) === 'deferred') return
    if (!found && record) await removeLeftNode(record.node)
    if (record) await finish(record)
    await claim.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmap()
  }
}

/** The files of a record, if they are still those that were mapped. */
async function openRecorded(record: MappingRecord): Promise<BackingFiles> {
  const files = await BackingFiles.open(record.files)
  const other = files.list.find((file, index) => file.identity !== record.identities[index])
  if (!other) return files
  await files[Symbol.asyncDispose]()
  throw verdict('DMLOOP_FILE_CHANGED', { file: other.path }, 'is another file by now')
}

/** The block of a file that a sector of the device shows. */
function rangeAt({ parts }: DrawnPlan, sector: number): FileRange {
  let start = 0
  for (const { slice } of parts) {
    const offset = slice.offset + sector * SECTOR - start
    if (offset < slice.offset + slice.length) {
      return { file: slice.file.path, offset, length: SECTOR }
    }
    start += slice.length
  }
  return { file: parts[0]?.slice.file.path }
}
