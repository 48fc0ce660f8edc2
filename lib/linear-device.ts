// A mapping of the file's own blocks: a device-mapper table of linear segments.
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
import debug from 'debug'
import { isReadOnly } from './device-stack.js'
import { problem, verdict, type FileRange, type Problem } from './errors.js'
import { judgeGuard } from './guard.js'
import { MappedDevice, openRecorded } from './mapped-device.js'
import { identityOf } from './names.js'
import type { DmDevice } from './native.js'
import { DEFAULT_TIMEOUT, type UnmapRequest, type VerifyRequest } from './options.js'
import { drawPlan, type DrawnPlan } from './plan-file.js'
import { loadProven } from './proof.js'
import { finish } from './remains.js'
import { SECTOR } from './segments.js'
import { deviceName, deviceSize } from './sysfs.js'
import { nodePath } from './udev.js'

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
    const known = record?.uuid === device.uuid ? record : undefined
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new LinearDevice(device, known, size)
  }

  get segmentCount(): number {
    return this.#device.targetCount
  }

  protected async deviations({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const record = await this.currentRecord()
    await using files = await openRecorded(record)
    const drawn = await drawPlan(files.list, record)
    const problems = [...drawn.plan.problems]
    for (const each of files.list) problems.push(...(await judgeGuard(each, record.guard)))
    const live = await liveTable(this.#device)
    if (drawn.plan.problems.length === 0) {
      const sector = await drawn.plan.segments.firstDifference(live)
      if (sector !== undefined) {
        problems.push(problem('DMLOOP_FILE_CHANGED', rangeAt(drawn, sector)))
      }
    }
    if (problems.length === 0 && mode !== 'none') {
      const found = await compareContent(drawn.parts, this.path, { mode, ...request })
      if (found) problems.push(found)
    }
    return problems
  }

  async extend(): Promise<void> {
    const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
    const { identities } = await this.currentRecord()
    await using claim = await Claim.take(identities, patience)
    const record = await this.currentRecord()
    await using files = await openRecorded(record)
    await files.settle()
    const drawn = await drawPlan(files.list, { ...record, length: undefined })
    const { plan } = drawn
    plan.assertMappable()

    const live = await liveTable(this.#device)
    const difference = await plan.segments.firstDifference(live)
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
    this.grown(grown)
  }

  protected async remove(request: UnmapRequest): Promise<void> {
    const identity = identityOf(this.uuid) ?? ''
    await using claim = await Claim.take(this.record?.identities ?? [identity], request)
    const record = claim.recordOf(identity)
    // The same file may have been unmapped and mapped again meanwhile: that mapping is not this one.
    if (this.record && record && record.id !== this.record.id) return
    const found = await findDevice({ uuid: this.uuid })
    if (found && found.minor !== this.minor) return
    // What is deferred is finished by whoever looks next; see `sweep`.
    if (found && (await removeDevice(found, request)) === 'deferred') return
    if (!found && record) await removeLeftNode(record.node)
    if (!record) return
    await finish(record)
    await claim.clearOf(record)
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
