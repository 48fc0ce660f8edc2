// A mapping through loop devices: the file's filesystem does the I/O. Several files have a loop device
// each, concatenated by a device-mapper table.
import { constants } from 'node:os'
import { findSameDevice, liveTable, loadTable, resumeDevice } from './kernel/device-mapper.js'
import { dmloopError, problem, type Problem } from './kernel/errors.js'
import { isSameFile } from './kernel/file-uses.js'
import {
  detachLoop,
  findLoop,
  findNamedLoop,
  hasDirectIo,
  isReadOnlyLoop,
  loopNumber,
  type Loop,
} from './kernel/loop.js'
import { native, result, type DmDevice } from './kernel/native.js'
import { SECTOR, SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize, kernelName } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { DEFAULT_TIMEOUT, DEFAULT_WAIT, poll } from './kernel/wait.js'
import { FileDevice, type CurrentMapping, type OwnFacts } from './file-device.js'
import type { FileLock } from './file-lock.js'
import { MappedFiles } from './mapped-files.js'
import type { UnmapRequest, VerifyRequest } from './options.js'
import {
  findLoopPartitions,
  findPartitions,
  judgePartitions,
  removeLeftNodes,
  removeWithPartitions,
  type Partition,
} from './partitions.js'
import type { BackingFiles } from './plan/backing-file.js'
import { buildLoopPlan } from './plan/build-plan.js'
import { compareContent, withoutExtents } from './plan/content.js'
import { identityOf, partIdentityOf } from './plan/names.js'
import { assertUnmapped } from './plan/overlap.js'
import { sliceFiles, type FileSlice } from './plan/range.js'
import { readRecord, type MappingRecord } from './record.js'

/** The loop devices of a mapping, and the device that concatenates them if there are several. */
export interface LoopStack {
  loops: Loop[]
  top: DmDevice | undefined
}

/** The table that concatenates loop devices. */
export function concatenationTable(parts: readonly Loop[]): SegmentTable {
  let start = 0
  const rows = parts.flatMap(({ size }, index) => {
    const row = [start, size / SECTOR, index, 0]
    start += size / SECTOR
    return row
  })
  const devices = parts.map(({ device: { major, minor } }) => deviceName(major, minor))
  return new SegmentTable(Float64Array.from(rows), devices)
}

export class LoopDevice extends FileDevice<CurrentMapping> {
  readonly backend = 'loop'
  readonly directIo: boolean
  readonly #stack: LoopStack

  constructor(
    stack: LoopStack,
    record: MappingRecord | undefined,
    size: number,
    partitions: readonly Partition[],
  ) {
    super({ ...factsOf(stack, record, size), partitions }, record)
    this.directIo = stack.loops.every(hasDirectIo)
    this.#stack = stack
  }

  /** The mapping of a loop device; it must be one of dmloop's. */
  static async of(loop: Loop): Promise<LoopDevice> {
    const record = await readRecord(identityOf(loop.name) ?? '')
    const known = record?.uuid === loop.name ? record : undefined
    const size = await deviceSize(deviceName(loop.device.major, loop.device.minor))
    const partitions = await findLoopPartitions(loop, known)
    return new LoopDevice({ loops: [loop], top: undefined }, known, size, partitions)
  }

  /** The mapping of several files that a device concatenates; undefined where it is no such device. */
  static async ofConcatenation(
    top: DmDevice,
    record: MappingRecord | undefined,
  ): Promise<LoopDevice | undefined> {
    const loops = await partsOf(await liveTable(top))
    if (loops.length === 0) return undefined
    const size = await deviceSize(deviceName(top.major, top.minor))
    return new LoopDevice({ loops, top }, record, size, await findPartitions(top, record))
  }

  get segmentCount(): number {
    return this.#stack.loops.length
  }

  get #ownLoops(): string[] {
    return this.#stack.loops.map(({ path }) => path)
  }

  protected async findProblems({ content: mode, ...request }: VerifyRequest): Promise<Problem[]> {
    const { record } = await this.currentMapping()
    await using found = await MappedFiles.find(record, DEFAULT_WAIT)
    const files = found.assertFound()
    const { problems } = buildLoopPlan(files.list, { ...record, ownLoops: this.#ownLoops })
    const { top } = this.#stack
    if (top) problems.push(...(await judgePartitions(top, record)))
    const { slices } = sliceFiles(files.list, record, record.blockSize)
    for (const [index, slice] of slices.entries()) {
      const recorded = record.loops[index]
      const loop = recorded && (await findNamedLoop(recorded))
      if (loop && isBackedBy(loop, slice)) continue
      problems.push(problem('DMLOOP_FILE_CHANGED', { file: slice.file.path }, NOT_BACKING))
    }
    if (problems.length === 0 && mode !== 'none') {
      const parts = withoutExtents(slices)
      const found = await compareContent(parts, this.path, { mode, ...request })
      if (found) problems.push(found)
    }
    return problems
  }

  protected async currentMapping(): Promise<CurrentMapping> {
    return { record: await this.currentRecord((recorded) => Promise.resolve(recorded)) }
  }

  protected async mapGrowth(files: BackingFiles, { record }: CurrentMapping): Promise<number> {
    const request = { ...record, length: undefined, ownLoops: this.#ownLoops }
    const plan = buildLoopPlan(files.list, request)
    plan.assertMappable()
    for (const file of files.list) await assertUnmapped(file)
    const { slices } = sliceFiles(files.list, request, record.blockSize)
    const { loops, top } = this.#stack
    if (slices.length !== loops.length) {
      const detail = 'grew by a file that has no loop device: unmap and map again'
      throw dmloopError('DMLOOP_FILE_CHANGED', { file: this.files[0] }, detail)
    }
    for (const [index, slice] of slices.entries()) {
      const loop = loops[index] as Loop
      if (!(await findNamedLoop(loop))) {
        throw dmloopError('DMLOOP_FILE_CHANGED', { file: slice.file.path }, NOT_BACKING)
      }
      await resize(loop, slice.length)
    }
    if (top) {
      await loadTable(top, concatenationTable(loops), record.readOnly)
      await resumeDevice(top, DEFAULT_TIMEOUT, record.udevScan)
    }
    return plan.size
  }

  protected async exists(): Promise<boolean> {
    const { loops, top } = this.#stack
    if (top) return (await findSameDevice(this)) !== undefined
    const found = await Promise.all(loops.map(findNamedLoop))
    return found.some((loop) => loop !== undefined)
  }

  protected async removeLocked(
    request: UnmapRequest,
    lock: FileLock,
    record: MappingRecord | undefined,
  ): Promise<'removed' | 'deferred'> {
    if (this.isOfAnother(record)) return 'removed'
    const { loops, top } = this.#stack
    const found = top && (await findSameDevice(this))
    const outcomes = []
    if (found) outcomes.push(await removeWithPartitions(found, request))
    for (const loop of loops) outcomes.push(await detachLoop(loop, request))
    if (outcomes.includes('deferred')) return 'deferred'
    // The filesystem kept the page cache coherent, and there was no guard: the files need nothing.
    if (record) await removeLeftNodes(record)
    if (record) await lock.clearOf(record)
    return 'removed'
  }
}

/** The loop devices that a table concatenates, in its order; none where it is another table. */
export async function partsOf({ devices }: SegmentTable): Promise<Loop[]> {
  const loops: Loop[] = []
  for (const device of devices) {
    const number = loopNumber(await kernelName(device))
    const loop = number === undefined ? undefined : await findLoop(number)
    if (loop && partIdentityOf(loop.name) !== undefined) loops.push(loop)
  }
  return loops
}

/** The node of the device that is the mapping. */
export const pathOf = ({ loops, top }: LoopStack): string =>
  top ? nodePath(top.name) : (loops[0]?.path ?? '')

const NOT_BACKING = 'no longer backs its loop device'

function factsOf(
  { loops, top }: LoopStack,
  record: MappingRecord | undefined,
  size: number,
): Omit<OwnFacts, 'partitions'> {
  const [first] = loops
  const readOnly = first !== undefined && isReadOnlyLoop(first)
  if (top) return { ...top, path: nodePath(top.name), readOnly, size }
  if (!first) throw new Error('a loop mapping has at least one loop device')
  const { path, number, name: uuid, device } = first
  return { name: record?.node.name ?? `loop${number}`, path, ...device, uuid, readOnly, size }
}

const isBackedBy = (loop: Loop, { file, offset, length }: FileSlice): boolean =>
  isSameFile(loop, file.facts) && loop.offset === offset && loop.size === length

/** The driver answers EAGAIN while pages of the device are being dirtied (loop_set_status, drivers/block/loop.c). */
async function resize(loop: Loop, size: number): Promise<void> {
  if (loop.size === size) return
  const { path, name } = loop
  const done = await poll(async () => {
    const settled = await native.loopResize(path, name, size)
    if ('failure' in settled && settled.failure.errno === -constants.errno.EAGAIN) return undefined
    await result(Promise.resolve(settled), path)
    return true
  }, DEFAULT_WAIT)
  if (!done) throw dmloopError('DMLOOP_TIMEOUT', { file: path }, 'was written to all the time')
  loop.size = size
}
