// A device that shows another one as it is: a host filesystem mounted on it leaves the other to
// device-mapper, so that its files can be mapped (FACTS section 2).
import debug from 'debug'
import { Claim } from './file-lock.js'
import { withDeadline } from './kernel/deadline.js'
import {
  alreadyMapped,
  createDevice,
  findDevice,
  hasLiveTable,
  liveTable,
  loadTable,
  removeDevice,
  repairNode,
  resumeDevice,
} from './kernel/device-mapper.js'
import { isReadOnly } from './plan/device-stack.js'
import { invalidValue, isSystemError, problem, verdict, type Problem } from './kernel/errors.js'
import { holdersOf } from './kernel/holders.js'
import { MappedDevice } from './mapped-device.js'
import { checkedName, wrappedBy, wrapUuidOf } from './plan/names.js'
import type { DmDevice } from './kernel/native.js'
import {
  DEFAULT_TIMEOUT,
  parseWrapOptions,
  PATIENCE,
  UNDO,
  type UnmapRequest,
  type WrapOptions,
} from './options.js'
import { identify } from './kernel/path.js'
import { SECTOR, SegmentTable } from './kernel/segments.js'
import { deviceName, deviceSize, isReadOnlyDisk, parseDevice } from './kernel/sysfs.js'
import { nodePath } from './kernel/udev.js'
import { Undo } from './undo.js'

const log = debug('dmloop:wrap-device')

/** All of a device, as it is. */
const tableOver = (device: string, size: number): SegmentTable =>
  new SegmentTable(Float64Array.of(0, size / SECTOR, 0, 0), [device])

/** Wrapping a device, or taking it away, is one process's business at a time. */
const claimOn = (device: string): Promise<Claim> =>
  Claim.take([`wrap-${device.replace(':', '-')}`], PATIENCE)

export class WrappedDevice extends MappedDevice {
  readonly backend = 'linear'
  readonly directIo = true
  readonly segmentCount = 1
  #device: DmDevice

  constructor(device: DmDevice, size: number) {
    const { name } = device
    const facts = { ...device, path: nodePath(name), readOnly: isReadOnly(device), size }
    super(facts, undefined)
    this.#device = device
  }

  static async of(device: DmDevice): Promise<WrappedDevice> {
    await repairNode(device)
    const size = await deviceSize(deviceName(device.major, device.minor))
    return new WrappedDevice(device, size)
  }

  get #beneath(): string {
    return wrappedBy(this.uuid) ?? ''
  }

  protected async deviations(): Promise<Problem[]> {
    const live = await liveTable(this.#device)
    const table = tableOver(this.#beneath, this.size)
    if ((await table.firstDifference(live)) === undefined) return []
    return [problem('DMLOOP_FILE_CHANGED', { file: this.path }, 'has another table by now')]
  }

  protected async enlarge(): Promise<void> {
    await using _ = await claimOn(this.#beneath)
    const size = await deviceSize(this.#beneath)
    if (size === this.size) return
    if (!Number.isSafeInteger(size)) throw verdict('DMLOOP_TOO_LARGE', { file: this.#beneath })
    if (size < this.size) {
      const detail = `is ${size} bytes long by now, and the device on it ${this.size}`
      throw verdict('DMLOOP_FILE_CHANGED', { file: this.#beneath }, detail)
    }
    await loadTable(this.#device, tableOver(this.#beneath, size), this.readOnly)
    // There is no record of how it was made: udev knows.
    this.#device = await resumeDevice(this.#device, DEFAULT_TIMEOUT, undefined)
    this.resized(size)
  }

  protected async isThere(): Promise<boolean> {
    return (await findDevice({ uuid: this.uuid }))?.minor === this.minor
  }

  protected async remove(request: UnmapRequest): Promise<'removed' | 'deferred'> {
    await using _ = await claimOn(this.#beneath)
    const found = await findDevice({ uuid: this.uuid })
    return found?.minor === this.minor ? await removeDevice(found, request) : 'removed'
  }
}

/**
 * Makes a device that shows a partition, a disk or any other block device as it is, to mount a filesystem
 * on whose files can then be mapped. Whatever is mounted on the device itself must be unmounted first.
 *
 * Rejects with DMLOOP_DEVICE_CLAIMED when the device is held, with DMLOOP_ALREADY_MAPPED when it is
 * wrapped already, with DMLOOP_NAME_TAKEN and DMLOOP_NAME_INVALID, and with a TypeError when the path leads
 * to something else than a block device. Then nothing is left behind.
 */
export async function wrapDevice(blockDevice: string, options: WrapOptions): Promise<MappedDevice> {
  const { path, name: asked, udevScan } = parseWrapOptions(blockDevice, options)
  const name = checkedName(asked)
  return await withDeadline(
    PATIENCE,
    () => wrap(path, name, udevScan),
    (device) => device.unmap(),
  )
}

async function wrap(path: string, name: string, udevScan: boolean): Promise<WrappedDevice> {
  const { isBlockDevice, major, minor } = await identify(path)
  if (!isBlockDevice) throw invalidValue('blockDevice', 'the path of a block device', path)
  const beneath = deviceName(major, minor)
  const uuid = wrapUuidOf(beneath)
  await using _ = await claimOn(beneath)
  const twin = await findDevice({ uuid })
  if (twin && hasLiveTable(twin)) throw alreadyMapped(path, nodePath(twin.name))
  // The claim says that nobody is at it: a crash has left it half-made.
  if (twin) await removeDevice(twin, UNDO)

  const size = await deviceSize(beneath)
  if (!Number.isSafeInteger(size)) throw verdict('DMLOOP_TOO_LARGE', { file: path })
  const undo = new Undo()
  try {
    const device = await createDevice(name, uuid, path)
    undo.onFailure(() => removeDevice(device, UNDO))
    await loadTable(device, tableOver(beneath, size), await isReadOnlyDisk(beneath))
    const live = await resumeDevice(device, DEFAULT_TIMEOUT, udevScan)
    log('%s wraps %s', name, path)
    return new WrappedDevice(live, size)
  } catch (error) {
    await undo.after(error)
    throw isSystemError(error, 'EBUSY') ? await claimed(path, beneath, error) : error
  }
}

async function claimed(path: string, device: string, cause: Error): Promise<Error> {
  const holders = await holdersOf(parseDevice(device))
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`
  const error = verdict('DMLOOP_DEVICE_CLAIMED', { file: path }, `is held${by}`)
  error.cause = cause
  return error
}
