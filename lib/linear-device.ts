// A mapping of the file's own blocks: a device-mapper table of linear segments.
import debug from 'debug'
import {
  clearTable,
  findDevice,
  findSameDevice,
  findTable,
  isReadOnly,
  liveTable,
  repairNode,
  resumeDevice,
} from './kernel/device-mapper.js'
import { dmloopError, problem, type FileRange, type Problem } from './kernel/errors.js'
import type { DmDevice } from './kernel/native.js'
import { SECTOR, type SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { DEFAULT_TIMEOUT, DEFAULT_WAIT } from './kernel/wait.js'
import { judgeFence, raiseFences, settleFences, whileReadable } from './fence.js'
import { FileDevice, type CurrentMapping } from './file-device.js'
import type { FileLock } from './file-lock.js'
import { judgeGuard } from './guard.js'
import { loadProven } from './load-table.js'
import { MappedFiles, recordOf } from './mapped-files.js'
import type { UnmapRequest, VerifyRequest } from './options.js'
import {
  findPartitions,
  judgePartitions,
  removeLeftNodes,
  removeWithPartitions,
  type Partition,
} from './partitions.js'
import type { BackingFiles } from './plan/backing-file.js'
import { buildPlan, type BuiltPlan } from './plan/build-plan.js'
import { compareContent } from './plan/content.js'
import { identityOf } from './plan/names.js'
import { readRecord, type MappingRecord } from './record.js'

const log = debug('dmloop:linear-device')

interface LinearMapping extends CurrentMapping {
  device: DmDevice
  table: SegmentTable
}

export class LinearDevice extends FileDevice<LinearMapping> {
  readonly backend = 'linear'
  readonly directIo = true
  #device: DmDevice

  constructor(
    device: DmDevice,
    record: MappingRecord | undefined,
    size: number,
    partitions: readonly Partition[],
  ) {
    const { name } = device
    super(
      { ...device, path: nodePath(name), readOnly: isReadOnly(device), size, partitions },
      record,
    )
    this.#device = device
  }

  /** The mapping of a kernel device; it must be one of dmloop's. */
  static async of(device: DmDevice): Promise<LinearDevice> {
    await repairNode(device)
    const record = await readRecord(identityOf(device.uuid) ?? '')
    const known = await recordOf(device, record)
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new LinearDevice(device, known, size, await findPartitions(device, known))
  }

  get segmentCount(): number {
    return this.#device.targetCount
  }

  protected async findProblems({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const { device, record, table } = await this.currentMapping()
    await using found = await MappedFiles.find(record, DEFAULT_WAIT, table)
    const files = found.assertFound()
    const built = await buildPlan(files.list, record)
    const problems = [...built.plan.problems]
    for (const each of files.list) problems.push(...(await judgeGuard(each, record.guard)))
    problems.push(...(await judgePartitions(device, record)))
    if (record.fence === true) problems.push(...(await judgeFence(built)))
    if (built.plan.problems.length === 0) {
      const sector = await built.plan.segments.firstDifference(table)
      if (sector !== undefined) {
        problems.push(problem('DMLOOP_FILE_CHANGED', blockAt(built, sector)))
      }
    }
    if (problems.length === 0 && mode !== 'none') {
      const found = await whileReadable(built, record.fence, () =>
        compareContent(built.parts, nodePath(device.name), { mode, ...request }),
      )
      if (found) problems.push(found)
    }
    return problems
  }

  /** The device now: dmsetup may have renamed it. Rejects with DMLOOP_NOT_MAPPED when it is gone. */
  async #currentDevice(): Promise<DmDevice> {
    const device = await findSameDevice(this)
    if (device) return device
    const file = this.files[0] ?? this.path
    throw dmloopError('DMLOOP_NOT_MAPPED', { file }, 'is no longer mapped')
  }

  protected async currentMapping(): Promise<LinearMapping> {
    const device = await this.#currentDevice()
    const table = await liveTable(device)
    const record = await this.currentRecord((recorded) => recordOf(device, recorded, table))
    return { device, record, table }
  }

  protected async mapGrowth(
    files: BackingFiles,
    { device, record, table }: LinearMapping,
  ): Promise<number> {
    const built = await buildPlan(files.list, { ...record, length: undefined })
    const { plan } = built
    plan.assertMappable()
    const difference = await plan.segments.firstDifference(table)
    if (difference === undefined) return plan.size
    if (difference < table.sectors) {
      throw dmloopError('DMLOOP_FILE_CHANGED', blockAt(built, difference))
    }
    try {
      await loadProven(device, built)
      if (record.fence === true) await raiseFences(built)
      this.#device = await resumeDevice(device, DEFAULT_TIMEOUT, record.udevScan)
    } catch (error) {
      await clearTable(device).catch((failure: unknown) => log('clearing: %o', failure))
      await settleFences(files.devices, []).catch((failure: unknown) => log('%o', failure))
      throw error
    }
    return plan.size
  }

  protected async exists(): Promise<boolean> {
    return (await findSameDevice(this)) !== undefined
  }

  protected async removeLocked(
    request: UnmapRequest,
    lock: FileLock,
    locked: MappingRecord | undefined,
  ): Promise<'removed' | 'deferred'> {
    const device = await findDevice({ uuid: this.uuid })
    // The UUID belongs to a new mapping of the same file.
    if (device && device.minor !== this.minor) return 'removed'
    const table = device && (await findTable(device))
    const record = device
      ? await recordOf(device, locked ?? this.record, table)
      : this.#recordOfRemoved(locked)
    if (!record || (device && this.isOfAnother(record))) return 'removed'
    // Not all of the files may be found: the device is removed in any case, and the rest is reported at the end.
    // A file that cannot be opened because of a lease is open in no other process, so none maps or unmaps it.
    await using files = await MappedFiles.find(record, request, table)
    // A lock that any reader can take must not keep the device. A process that unmaps it at the same time under a
    // shared lock takes the same steps, each of which can be repeated; no process maps the file meanwhile.
    await files.flock(request, { orShared: true })
    // Until then a process with another /run may have unmapped the file and mapped it again.
    if (device && !(await files.isCurrent())) return 'removed'
    if (device && (await removeWithPartitions(device, request)) === 'deferred') return 'deferred'
    await removeLeftNodes(record)
    try {
      await files.finish(device !== undefined)
    } catch (error) {
      // The next call, of whatever process, needs the record to finish.
      if (locked?.id !== record.id) await lock.write(record)
      throw error
    }
    // What is recorded of the device is of an earlier mapping, where it is not of this one.
    await lock.clearOf(record, ...(device && locked ? [locked] : []))
    return 'removed'
  }

  /** The record of this mapping when its device is gone: what is recorded may be of a later one. */
  #recordOfRemoved(locked: MappingRecord | undefined): MappingRecord | undefined {
    return this.isOfAnother(locked) ? this.record : (locked ?? this.record)
  }
}

/** The block of a file that a sector of the device is mapped to. */
function blockAt({ parts }: BuiltPlan, sector: number): FileRange {
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
