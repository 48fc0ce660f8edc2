import debug from 'debug'
import { BackingFiles } from './backing-file.js'
import { Claim, readRecord, type MappingRecord } from './claim.js'
import {
  clearTable,
  findDevice,
  liveTable,
  loadTable,
  removeDevice,
  resumeDevice,
} from './device-mapper.js'
import { isSystemError, problem, systemError, verdict, type Problem } from './errors.js'
import { native, result, type DmDevice } from './native.js'
import { identityOf } from './names.js'
import { DEFAULT_TIMEOUT, parseUnmapOptions, type UnmapOptions } from './options.js'
import { drawPlan, proveUnchanged } from './plan-file.js'
import type { Plan } from './plan.js'
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
    // DM_READONLY_FLAG (linux/dm-ioctl.h)
    this.readOnly = (device.flags & 1) !== 0
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
    const record = await readRecord(identityOf(device.uuid) ?? '')
    const known = record?.uuid === device.uuid ? record : undefined
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new MappedDevice(device, known, size)
  }

  /**
   * Reads the file's extents again and compares them with the live table. Each deviation is a
   * problem; nothing is changed.
   */
  async verify(): Promise<Verification> {
    const [file] = this.files
    try {
      const plan = await this.#planAgain()
      const problems = [...plan.problems]
      const live = await liveTable(this.#device)
      if (problems.length === 0 && !plan.segments.equals(live)) {
        const sector = plan.segments.firstDifference(live) ?? 0
        const offset = (this.#record?.offset ?? 0) + sector * SECTOR
        problems.push(problem('DMLOOP_FILE_CHANGED', { file, offset, length: SECTOR }))
      }
      log('%s: verified, %d problems', this.name, problems.length)
      return { ok: problems.length === 0, problems }
    } catch (error) {
      if (!isSystemError(error, 'ENOENT', 'ENXIO')) throw error
      const gone = `cannot be compared with ${this.path}: ${error.message}`
      return { ok: false, problems: [problem('DMLOOP_FILE_CHANGED', { file }, gone)] }
    }
  }

  /** The plan by which this mapping was made, made again of the files as they are now. */
  async #planAgain(): Promise<Plan> {
    const record = this.#known()
    await using files = await this.#openFiles(record)
    return (await drawPlan(files.list, record)).plan
  }

  #known(): MappingRecord {
    if (this.#record) return this.#record
    throw systemError({ errno: -2, syscall: 'open' }, `the record of ${this.name}`)
  }

  /** The files of the record, if they are still those that were mapped. */
  async #openFiles(record: MappingRecord): Promise<BackingFiles> {
    const files = await BackingFiles.open(record.files)
    const other = files.list.find((file, index) => file.identity !== record.identities[index])
    if (!other) return files
    await files[Symbol.asyncDispose]()
    throw verdict('DMLOOP_FILE_CHANGED', { file: other.path }, 'is another file by now')
  }

  /**
   * Maps what the file has grown by: afterwards the device reaches to the file's last whole logical
   * block. I/O goes on meanwhile. Rejects with DMLOOP_FILE_CHANGED when the part that is mapped already
   * lies elsewhere by now, and like mapFile when the new part cannot be mapped; then the device stays
   * as it was.
   */
  async extend(): Promise<void> {
    const record = this.#known()
    const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
    await using claim = await Claim.take(record.identities, patience)
    await using files = await this.#openFiles(record)
    await files.sync()
    const drawn = await drawPlan(files.list, { ...record, length: undefined })
    const { plan } = drawn
    plan.assertMappable()

    const live = await liveTable(this.#device)
    const difference = plan.segments.firstDifference(live)
    if (difference === undefined) return
    if (difference < live.sectors) {
      const range = { offset: record.offset + difference * SECTOR, length: SECTOR }
      throw verdict('DMLOOP_FILE_CHANGED', { file: record.files[0], ...range })
    }
    const grown = { ...record, length: plan.size }
    try {
      await loadTable(this.#device, plan.segments, this.readOnly)
      await proveUnchanged(drawn)
      await claim.write(grown)
      this.#device = await resumeDevice(this.#device, patience)
    } catch (error) {
      await clearTable(this.#device).catch((failure: unknown) => log('clearing: %o', failure))
      await claim.write(record)
      throw error
    }
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

  async #remove(request: ReturnType<typeof parseUnmapOptions>): Promise<void> {
    const identity = identityOf(this.uuid) ?? ''
    await using claim = await Claim.take(this.#record?.identities ?? [identity], request)
    const record = await readRecord(identity)
    const found = await findDevice({ uuid: this.uuid })
    // The same file may have been unmapped and mapped again meanwhile: that mapping is not this one.
    const ours = found?.minor === this.minor && record?.id === this.#record?.id
    if (!ours) return
    const outcome = await removeDevice(found, request)
    await this.#forgetPages()
    if (outcome === 'removed') await claim.clear()
  }

  /** Cached pages of the file are from before the device's writes. */
  async #forgetPages(): Promise<void> {
    const files = await BackingFiles.open(this.files).catch(() => undefined)
    if (!files) return
    await using opened = files
    for (const { handle, path } of opened.list) await result(native.dropCache(handle.fd), path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmap()
  }
}
