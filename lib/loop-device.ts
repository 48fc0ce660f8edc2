// A mapping through loop devices: the file's filesystem does the I/O. Several files are a loop device
// each, joined by a device-mapper table.
import { assertUnmapped } from './plan/overlap.js'
import type { BackingFiles } from './plan/backing-file.js'
import { Claim, readRecord, type MappingRecord } from './file-lock.js'
import { compareContent, wholly } from './plan/content.js'
import {
  findDevice,
  liveTable,
  loadTable,
  removeDevice,
  resumeDevice,
} from './kernel/device-mapper.js'
import { problem, verdict, type Problem } from './kernel/errors.js'
import {
  findLoop,
  findNamedLoop,
  hasDirectIo,
  isReadOnlyLoop,
  loopNumber,
  removeLoop,
  type Loop,
} from './kernel/loop.js'
import { isOf, MappedDevice, type DeviceFacts } from './mapped-device.js'
import { MappedFiles } from './mapped-files.js'
import { identityOf, partIdentityOf } from './plan/names.js'
import { native, result, type DmDevice } from './kernel/native.js'
import { DEFAULT_TIMEOUT, type UnmapRequest, type VerifyRequest } from './options.js'
import { planLoop } from './plan/plan-file.js'
import { sliceFiles, type FileSlice } from './plan/range.js'
import { SECTOR, SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize, kernelName } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { isSame } from './kernel/file-uses.js'
import { poll } from './kernel/wait.js'

/** The loop devices of a mapping, and what joins them if there are several. */
export interface LoopStack {
  loops: Loop[]
  top: DmDevice | undefined
}

/** The table that lays loop devices of these sizes (bytes) end to end. */
export function joiningTable(parts: readonly Loop[]): SegmentTable {
  let start = 0
  const rows = parts.flatMap(({ size }, index) => {
    const row = [start, size / SECTOR, index, 0]
    start += size / SECTOR
    return row
  })
  const devices = parts.map(({ device: { major, minor } }) => deviceName(major, minor))
  return new SegmentTable(Float64Array.from(rows), devices)
}

export class LoopDevice extends MappedDevice {
  readonly backend = 'loop'
  readonly directIo: boolean
  readonly #stack: LoopStack

  constructor(stack: LoopStack, record: MappingRecord | undefined, size: number) {
    super(factsOf(stack, record, size), record)
    this.directIo = stack.loops.every(hasDirectIo)
    this.#stack = stack
  }

  /** The mapping that a loop device of ours is by itself. */
  static async of(loop: Loop): Promise<LoopDevice> {
    const record = await readRecord(identityOf(loop.name) ?? '')
    const known = record?.uuid === loop.name ? record : undefined
    const size = await deviceSize(deviceName(loop.device.major, loop.device.minor))
    return new LoopDevice({ loops: [loop], top: undefined }, known, size)
  }

  /**
   * The mapping of several files that a device of ours joins, if it is one: it is made of loop devices that
   * bear the names of parts.
   */
  static async joined(
    top: DmDevice,
    record: MappingRecord | undefined,
  ): Promise<LoopDevice | undefined> {
    const loops = await partsOf(top)
    if (loops.length === 0) return undefined
    const size = await deviceSize(deviceName(top.major, top.minor))
    return new LoopDevice({ loops, top }, record, size)
  }

  get segmentCount(): number {
    return this.#stack.loops.length
  }

  protected async deviations({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const record = await this.currentRecord()
    await using found = await MappedFiles.find(record)
    const files = found.assertFound()
    this.#forgetOwn(files)
    const { problems } = planLoop(files.list, record)
    const { slices } = sliceFiles(files.list, record, record.blockSize)
    for (const [index, slice] of slices.entries()) {
      const recorded = record.loops[index]
      const loop = recorded && (await findNamedLoop(recorded))
      if (loop && shows(loop, slice)) continue
      problems.push(problem('DMLOOP_FILE_CHANGED', { file: slice.file.path }, NOT_SHOWN))
    }
    if (problems.length === 0 && mode !== 'none') {
      const found = await compareContent(wholly(slices), this.path, { mode, ...request })
      if (found) problems.push(found)
    }
    return problems
  }

  /** That a loop device shows these files is no problem when it is this one. */
  #forgetOwn(files: BackingFiles): void {
    const own = this.#stack.loops.map(({ path }) => path)
    for (const file of files.list) {
      file.uses.loops = file.uses.loops.filter((path) => !own.includes(path))
    }
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
    this.#forgetOwn(files)
    const request = { ...record, length: undefined }
    const plan = planLoop(files.list, request)
    plan.assertMappable()
    for (const file of files.list) await assertUnmapped(file)
    const { slices } = sliceFiles(files.list, request, record.blockSize)
    const { loops, top } = this.#stack
    if (slices.length !== loops.length) {
      const detail = 'grew by a file that has no loop device: unmap and map again'
      throw verdict('DMLOOP_FILE_CHANGED', { file: this.files[0] }, detail)
    }
    for (const [index, slice] of slices.entries()) {
      const loop = loops[index] as Loop
      if (!(await findNamedLoop(loop))) {
        throw verdict('DMLOOP_FILE_CHANGED', { file: slice.file.path }, NOT_SHOWN)
      }
      await resize(loop, slice.length)
    }
    if (top) {
      await loadTable(top, joiningTable(loops), record.readOnly)
      await resumeDevice(top, patience.timeout, record.udevScan)
    }
    const grown = { ...record, length: plan.size }
    await claim.write(grown)
    this.grown(grown)
  }

  protected async isThere(): Promise<boolean> {
    const { loops, top } = this.#stack
    if (top) return (await findDevice({ uuid: this.uuid }))?.minor === this.minor
    const found = await Promise.all(loops.map(findNamedLoop))
    return found.some((loop) => loop !== undefined)
  }

  protected async remove(request: UnmapRequest): Promise<'removed' | 'deferred'> {
    const identity = identityOf(this.uuid) ?? ''
    const { loops, top } = this.#stack
    await using claim = await Claim.take(this.record?.identities ?? [identity], request)
    const record = claim.recordOf(identity)
    // The same file may have been unmapped and mapped again meanwhile: that mapping is not this one.
    if (this.record && record && !isOf(record, this.record)) return 'removed'
    const found = top && (await findDevice({ uuid: this.uuid }))
    const outcomes = []
    if (found && found.minor === this.minor) outcomes.push(await removeDevice(found, request))
    for (const loop of loops) outcomes.push(await removeLoop(loop, request))
    if (outcomes.includes('deferred')) return 'deferred'
    if (!record) return 'removed'
    await using files = await MappedFiles.find(record)
    await files.finish()
    await claim.clearOf(record)
    return 'removed'
  }
}

/** The loop devices that a device of ours joins, in its order. */
async function partsOf(top: DmDevice): Promise<Loop[]> {
  const { devices } = await liveTable(top)
  const loops: Loop[] = []
  for (const device of devices) {
    const number = loopNumber(await kernelName(device))
    const loop = number === undefined ? undefined : await findLoop(number)
    if (loop && partIdentityOf(loop.name) !== undefined) loops.push(loop)
  }
  return loops
}

const EAGAIN = 11

const NOT_SHOWN = 'is not what its loop device shows any more'

function factsOf(
  { loops, top }: LoopStack,
  record: MappingRecord | undefined,
  size: number,
): DeviceFacts {
  const [first] = loops
  const readOnly = first !== undefined && isReadOnlyLoop(first)
  if (top) return { ...top, path: nodePath(top.name), readOnly, size }
  if (!first) throw new Error('a loop mapping has at least one loop device')
  const { path, number, name: uuid, device } = first
  return { name: record?.node.name ?? `loop${number}`, path, ...device, uuid, readOnly, size }
}

const shows = (loop: Loop, { file, offset, length }: FileSlice): boolean =>
  isSame(loop, file.facts) && loop.offset === offset && loop.size === length

/** While pages of the device are being dirtied the driver asks to try again. */
async function resize(loop: Loop, size: number): Promise<void> {
  if (loop.size === size) return
  const patience = { timeout: DEFAULT_TIMEOUT, signal: undefined }
  const { path, name } = loop
  const done = await poll(async () => {
    const settled = await native.loopResize(path, name, size)
    if ('failure' in settled && settled.failure.errno === -EAGAIN) return undefined
    await result(Promise.resolve(settled), path)
    return true
  }, patience)
  if (!done) throw verdict('DMLOOP_TIMEOUT', { file: path }, 'was written to all the time')
  loop.size = size
}
