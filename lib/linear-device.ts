// A mapping of the file's own blocks: a device-mapper table of linear segments.
import { Claim, readRecord, type MappingRecord } from './file-lock.js'
import { compareContent } from './plan/content.js'
import {
  clearTable,
  findDevice,
  hasLiveTable,
  liveTable,
  removeDevice,
  removeLeftNode,
  repairNode,
  resumeDevice,
} from './kernel/device-mapper.js'
import debug from 'debug'
import { isReadOnly } from './plan/device-stack.js'
import { problem, verdict, type FileRange, type Problem } from './kernel/errors.js'
import { judgeGuard } from './guard.js'
import { isOf, MappedDevice } from './mapped-device.js'
import { MappedFiles, recordWithout } from './mapped-files.js'
import { identityOf } from './plan/names.js'
import type { DmDevice } from './kernel/native.js'
import { DEFAULT_TIMEOUT, type UnmapRequest, type VerifyRequest } from './options.js'
import { drawPlan, type DrawnPlan } from './plan/plan-file.js'
import { loadProven } from './load-table.js'
import { SECTOR } from './kernel/segments.js'
import { deviceName, deviceSize } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'

const log = debug('dmloop:linear-device')

export class LinearDevice extends MappedDevice {
  readonly backend = 'linear'
  readonly directIo = true
  #device: DmDevice

  constructor(device: DmDevice, record: MappingRecord | undefined, size: number) {
    const { name } = device
    super({ ...device, path: nodePath(name), readOnly: isReadOnly(device), size }, record)
    this.#device = device
  }

  /** The mapping that a kernel's device is; the device must be one of ours. */
  static async of(device: DmDevice): Promise<LinearDevice> {
    await repairNode(device)
    const record = await readRecord(identityOf(device.uuid) ?? '')
    const known = record?.uuid === device.uuid ? record : await recordWithout(device)
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new LinearDevice(device, known, size)
  }

  get segmentCount(): number {
    return this.#device.targetCount
  }

  protected async deviations({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const device = await this.#live()
    const record = await this.currentRecord()
    const live = await liveTable(device)
    await using found = await MappedFiles.find(record, live)
    const files = found.assertFound()
    const drawn = await drawPlan(files.list, record)
    const problems = [...drawn.plan.problems]
    for (const each of files.list) problems.push(...(await judgeGuard(each, record.guard)))
    if (drawn.plan.problems.length === 0) {
      const sector = await drawn.plan.segments.firstDifference(live)
      if (sector !== undefined) {
        problems.push(problem('DMLOOP_FILE_CHANGED', rangeAt(drawn, sector)))
      }
    }
    if (problems.length === 0 && mode !== 'none') {
      const found = await compareContent(drawn.parts, nodePath(device.name), { mode, ...request })
      if (found) problems.push(found)
    }
    return problems
  }

  /** The device as it is now: dmsetup may have renamed it. Rejects with DMLOOP_NOT_MAPPED when it is gone. */
  async #live(): Promise<DmDevice> {
    const device = await findDevice({ uuid: this.uuid })
    if (device?.minor === this.minor) return device
    throw verdict(
      'DMLOOP_NOT_MAPPED',
      { file: this.files[0] ?? this.path },
      'is not mapped any more',
    )
  }

  protected override async recall(): Promise<MappingRecord> {
    return await recordWithout(await this.#live())
  }

  protected async enlarge(): Promise<void> {
    const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
    const { identities } = await this.currentRecord()
    await using claim = await Claim.take(identities, patience)
    const record = await this.currentRecord()
    await using found = await MappedFiles.find(record)
    const files = found.assertFound()
    await files.lock(patience)
    await files.settle()
    const drawn = await drawPlan(files.list, { ...record, length: undefined })
    const { plan } = drawn
    plan.assertMappable()

    const device = await this.#live()
    const live = await liveTable(device)
    const difference = await plan.segments.firstDifference(live)
    if (difference !== undefined && difference < live.sectors) {
      throw verdict('DMLOOP_FILE_CHANGED', rangeAt(drawn, difference))
    }
    const grown = { ...record, length: plan.size }
    if (difference !== undefined) {
      try {
        await loadProven(device, drawn)
        this.#device = await resumeDevice(device, patience.timeout, record.udevScan)
      } catch (error) {
        await clearTable(device).catch((failure: unknown) => log('clearing: %o', failure))
        throw error
      }
    }
    await claim.write(grown)
    this.grown(grown)
  }

  protected async isThere(): Promise<boolean> {
    return (await findDevice({ uuid: this.uuid }))?.minor === this.minor
  }

  protected async remove(request: UnmapRequest): Promise<'removed' | 'deferred'> {
    const identity = identityOf(this.uuid) ?? ''
    await using claim = await Claim.take(this.record?.identities ?? [identity], request)
    const claimed = claim.recordOf(identity)
    // The same file may have been unmapped and mapped again meanwhile: that mapping is not this one.
    if (this.record && claimed && !isOf(claimed, this.record)) return 'removed'
    const found = await findDevice({ uuid: this.uuid })
    if (found && found.minor !== this.minor) return 'removed'
    const record = claimed ?? this.record ?? (found && (await recordWithout(found)))
    if (!record) return 'removed'
    const table = found && hasLiveTable(found) ? await liveTable(found) : undefined
    await using files = await MappedFiles.find(record, table)
    await files.lock(request)
    if (found && (await removeDevice(found, request)) === 'deferred') return 'deferred'
    if (!found) await removeLeftNode(record.node)
    try {
      await files.finish()
    } catch (error) {
      // What is left to do is kept for the next call, of whatever process.
      if (!claimed) await claim.write(record)
      throw error
    }
    await claim.clearOf(record)
    return 'removed'
  }
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
