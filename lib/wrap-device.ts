// A device that maps another one as a whole. A filesystem that is mounted on it leaves the other device to
// device-mapper, so that its files can be mapped.
import debug from 'debug'
import { withDeadline } from './kernel/deadline.js'
import {
  alreadyMapped,
  createDevice,
  findDevice,
  findSameDevice,
  hasLiveTable,
  isReadOnly,
  loadTable,
  readTable,
  removeDevice,
  repairNode,
  resumeDevice,
} from './kernel/device-mapper.js'
import { dmloopError, invalidValue, isSystemError, problem, type Problem } from './kernel/errors.js'
import { holdersOf } from './kernel/holders.js'
import type { DmDevice } from './kernel/native.js'
import { identify } from './kernel/path.js'
import { SECTOR } from './kernel/segments.js'
import { deviceName, deviceSize, isReadOnlyDisk, parseDevice } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { DEFAULT_TIMEOUT, DEFAULT_WAIT } from './kernel/wait.js'
import { lockWrapped } from './file-lock.js'
import { MappedDevice } from './mapped-device.js'
import { parseWrapOptions, type UnmapRequest, type WrapOptions } from './options.js'
import { checkedName, wrappedBy, wrapUuidOf } from './plan/names.js'
import { fenceOf, sectorsOf, wrapperTable } from './plan/wrapper-table.js'
import { Undo } from './undo.js'

const log = debug('dmloop:wrap-device')

export class WrappedDevice extends MappedDevice {
  readonly backend = 'linear'
  readonly directIo = true
  readonly segmentCount = 1
  #device: DmDevice

  constructor(device: DmDevice, size: number) {
    const { name } = device
    super({
      ...device,
      path: nodePath(name),
      readOnly: isReadOnly(device),
      size,
      files: [],
      fallback: [],
      partitions: [],
      partitionProblems: [],
    })
    this.#device = device
  }

  static async of(device: DmDevice): Promise<WrappedDevice> {
    await repairNode(device)
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new WrappedDevice(device, size)
  }

  get #underlying(): string {
    return wrappedBy(this.uuid) ?? ''
  }

  protected async findProblems(): Promise<Problem[]> {
    const table = await readTable(this.#device)
    if (fenceOf(table) && sectorsOf(table) * SECTOR === this.size) return []
    return [problem('DMLOOP_FILE_CHANGED', { file: this.path }, 'has another table now')]
  }

  protected async extendDevice(): Promise<void> {
    await using _ = await lockWrapped(this.#underlying)
    const size = await deviceSize(this.#underlying)
    if (size === this.size) return
    if (!Number.isSafeInteger(size))
      throw dmloopError('DMLOOP_TOO_LARGE', { file: this.#underlying })
    if (size < this.size) {
      const detail = `is ${size} bytes long now, and its wrapper ${this.size}`
      throw dmloopError('DMLOOP_FILE_CHANGED', { file: this.#underlying }, detail)
    }
    const fence = fenceOf(await readTable(this.#device))
    const table = wrapperTable(this.#underlying, size / SECTOR, fence)
    await loadTable(this.#device, table, this.readOnly)
    // No record says how it was made; udev's database does.
    this.#device = await resumeDevice(this.#device, DEFAULT_TIMEOUT, undefined)
    this.setSize(size)
  }

  protected async exists(): Promise<boolean> {
    return (await findSameDevice(this)) !== undefined
  }

  protected async remove(request: UnmapRequest): Promise<'removed' | 'deferred'> {
    await using _ = await lockWrapped(this.#underlying)
    const found = await findSameDevice(this)
    return found ? await removeDevice(found, request) : 'removed'
  }
}

/**
 * Makes a device that maps a partition, a disk or any other block device as a whole. The files of a filesystem
 * that is mounted on it can be mapped. A filesystem that is mounted on the device itself must be unmounted
 * first.
 *
 * Rejects with DMLOOP_DEVICE_CLAIMED when the device is in use, with DMLOOP_ALREADY_MAPPED when it is
 * wrapped already, with DMLOOP_NAME_TAKEN and DMLOOP_NAME_INVALID, and with a TypeError when the path is
 * not that of a block device. Then nothing is left behind.
 */
export async function wrapDevice(blockDevice: string, options: WrapOptions): Promise<MappedDevice> {
  const { path, name: asked, udevScan } = parseWrapOptions(blockDevice, options)
  const name = checkedName(asked)
  return await withDeadline(
    DEFAULT_WAIT,
    () => wrap(path, name, udevScan),
    (device) => device.unmap(),
  )
}

async function wrap(path: string, name: string, udevScan: boolean): Promise<WrappedDevice> {
  const { isBlockDevice, major, minor } = await identify(path)
  if (!isBlockDevice) throw invalidValue('blockDevice', 'the path of a block device', path)
  const underlying = deviceName(major, minor)
  const uuid = wrapUuidOf(underlying)
  await using _ = await lockWrapped(underlying)
  const duplicate = await findDevice({ uuid })
  if (duplicate && hasLiveTable(duplicate)) throw alreadyMapped(path, nodePath(duplicate.name))
  // Because of the lock no process is working on it: a crash has left it half-made.
  if (duplicate) await removeDevice(duplicate, DEFAULT_WAIT)

  const size = await deviceSize(underlying)
  if (!Number.isSafeInteger(size)) throw dmloopError('DMLOOP_TOO_LARGE', { file: path })
  const undo = new Undo()
  try {
    const device = await createDevice(name, uuid, path)
    undo.onFailure(() => removeDevice(device, DEFAULT_WAIT))
    const table = wrapperTable(underlying, size / SECTOR)
    await loadTable(device, table, await isReadOnlyDisk(underlying))
    const live = await resumeDevice(device, DEFAULT_TIMEOUT, udevScan)
    log('%s wraps %s', name, path)
    return new WrappedDevice(live, size)
  } catch (error) {
    await undo.rollBack(error)
    throw isSystemError(error, 'EBUSY') ? await deviceClaimedError(path, underlying, error) : error
  }
}

async function deviceClaimedError(path: string, device: string, cause: Error): Promise<Error> {
  const holders = await holdersOf(parseDevice(device))
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`
  const error = dmloopError('DMLOOP_DEVICE_CLAIMED', { file: path }, `is held${by}`)
  error.cause = cause
  return error
}
