// Maps images from their metadata alone, before the filesystem with their files is mounted.
import { constants } from 'node:fs'
import debug from 'debug'
import {
  findDevice,
  findTable,
  hasLiveTable,
  makeDevice,
  removeDevice,
  repairNode,
} from '../kernel/device-mapper.js'
import { dmloopError } from '../kernel/errors.js'
import { native, result, type DmDevice } from '../kernel/native.js'
import { OpenPath } from '../kernel/path.js'
import { SECTOR, type SegmentTable } from '../kernel/segments.js'
import { deviceName, mapperUuid, parseDevice } from '../kernel/sysfs.js'
import { nodePath } from '../kernel/udev.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import { raiseFence, settleFences } from '../fence.js'
import { FileLock } from '../file-lock.js'
import { makePartitions } from '../make-partitions.js'
import { uuidOf, wrappedBy } from '../plan/names.js'
import { mergeRuns } from '../plan/wrapper-table.js'
import { newRecord } from '../record.js'
import { Undo } from '../undo.js'
import { wrapDevice } from '../wrap-device.js'
import { diskNode, DiskFinder } from './disk-name.js'
import { hasLabel } from './label.js'
import type { HostName, ImageMetadata } from './metadata.js'
import { changed, findHost, mappingsByHandle, storedTable } from './stored-table.js'

const log = debug('dmloop:map-stored')

/** What is read once for many images. */
export class StoredMapper implements AsyncDisposable {
  readonly #finder = new DiskFinder(DEFAULT_WAIT)
  readonly #disks = new Map<string, Promise<OpenPath>>()
  readonly #hosts = new Map<string, Promise<string>>()
  readonly #mapped: Map<string, DmDevice[]>
  readonly #mounted = new Map<string, Promise<boolean>>()

  private constructor(mapped: Map<string, DmDevice[]>) {
    this.#mapped = mapped
  }

  static async open(): Promise<StoredMapper> {
    return new StoredMapper(await mappingsByHandle())
  }

  /** The device that maps an image now. Rejects with DMLOOP_DISK_MISSING. */
  async findDevice(metadata: ImageMetadata): Promise<DmDevice | undefined> {
    return await this.#find(metadata, await storedTable(metadata, this.#finder))
  }

  async #find({ files }: ImageMetadata, table: SegmentTable): Promise<DmDevice | undefined> {
    for (const device of this.#mapped.get(files[0]?.handle ?? '') ?? []) {
      const live = await findTable(device)
      // A handle is one of its filesystem. Blocks tell: a device that was not extended yet has the first ones.
      const [first] = live ?? []
      const [own] = table
      if (first && first.device === own?.device && first.offset === own?.offset) return device
    }
    return undefined
  }

  /** Whether the filesystem with an image's files is mounted, in whatever mount namespace. */
  isHostMounted({ host }: ImageMetadata): Promise<boolean> {
    const key = JSON.stringify(host)
    const found = this.#mounted.get(key) ?? this.#isMounted(host)
    this.#mounted.set(key, found)
    return found
  }

  async #isMounted(host: HostName | null): Promise<boolean> {
    const number = host === null ? undefined : await findHost(host, this.#finder)
    const mounts = await result(native.listMounts())
    return mounts.some(({ major, minor }) => deviceName(major, minor) === number)
  }

  /**
   * Maps an image that is not mapped, whose filesystem is not mounted. Rejects with DMLOOP_DISK_MISSING, with
   * DMLOOP_FILE_CHANGED where the label is not at its place, with DMLOOP_NAME_TAKEN, with DMLOOP_UNFENCED, and with
   * the system's error.
   */
  async map(
    name: string,
    metadata: ImageMetadata,
    { fence = false }: { fence?: boolean } = {},
  ): Promise<{ path: string; wasMapped: boolean }> {
    const table = await storedTable(metadata, this.#finder)
    const found = await this.#find(metadata, table)
    if (found) return { path: await nodeOf(found), wasMapped: true }
    await this.#assertLabel(name, metadata, table)
    const host = await this.#hostOf(metadata)
    const identity = `${host.replace(':', '-')}-h${metadata.files[0]?.handle ?? ''}`
    // Nobody else makes a device with this UUID: the image is locked, and its filesystem is not mounted.
    const undo = new Undo()
    try {
      if (fence) undo.onFailure(() => settleFences([host], []))
      const made = await makeOnce(identity, () =>
        makeDevice(name, uuidOf(identity), {
          segments: table,
          readOnly: metadata.readOnly,
          file: name,
        }),
      )
      undo.onFailure(() => removeDevice(made, DEFAULT_WAIT))
      if (metadata.partitions) await addPartitions(made, identity, metadata, undo)
      if (fence) await fenceOff(host, table)
      log('%s is mapped from its metadata', name)
      return { path: nodePath(made.name), wasMapped: false }
    } catch (error) {
      await undo.rollBack(error)
      throw error
    }
  }

  async #assertLabel(
    name: string,
    { id, label }: ImageMetadata,
    table: SegmentTable,
  ): Promise<void> {
    const number = table.devices[label.disk] ?? ''
    const disk = await this.#openDisk(number)
    if (await hasLabel(disk.fd, id, label.sector * SECTOR)) return
    throw changed(name, 'has other blocks than its metadata say: its label is not at its place')
  }

  #openDisk(number: string): Promise<OpenPath> {
    const open = async (): Promise<OpenPath> =>
      OpenPath.open(await diskNode(number), constants.O_RDONLY | constants.O_DIRECT)
    const found = this.#disks.get(number) ?? open()
    this.#disks.set(number, found)
    return found
  }

  /** The number of the filesystem's device. A wrapper that is not there is made. */
  #hostOf({ host }: ImageMetadata): Promise<string> {
    const key = JSON.stringify(host)
    const found = this.#hosts.get(key) ?? this.#makeHost(host)
    this.#hosts.set(key, found)
    return found
  }

  async #makeHost(host: HostName | null): Promise<string> {
    if (host === null) throw dmloopError('DMLOOP_BAD_METADATA', {}, 'has no filesystem')
    const number = await findHost(host, this.#finder)
    if (number !== undefined) {
      const device = await findDevice(parseDevice(number))
      if (device) await repairNode(device)
      await settleFences([number], [])
      return number
    }
    if (host.by !== 'WRAPPER') throw dmloopError('DMLOOP_DISK_MISSING')
    const node = await diskNode(await this.#finder.find(host.disk))
    const { major, minor } = await wrapDevice(node, { name: host.name })
    return deviceName(major, minor)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const disk of this.#disks.values()) await (await disk)[Symbol.asyncDispose]()
  }
}

/** Fences a table off on the wrapper of the disk that has all of it. */
async function fenceOff(wrapper: string, table: SegmentTable): Promise<void> {
  const wrapped = wrappedBy((await mapperUuid(wrapper)) ?? '')
  if (table.devices.some((device) => device !== wrapped)) {
    const detail = 'cannot be fenced off from its metadata: its wrapper is not over the disk itself'
    throw dmloopError('DMLOOP_UNFENCED', {}, detail)
  }
  const runs = [...table].map(({ offset = 0, length }) => ({ start: offset, length }))
  await raiseFence(wrapper, mergeRuns(runs))
}

/** Makes a device in place of one with its UUID that a crash has left half-made. */
async function makeOnce(identity: string, make: () => Promise<DmDevice>): Promise<DmDevice> {
  try {
    return await make()
  } catch (error) {
    await using _ = await FileLock.take([identity], DEFAULT_WAIT)
    const left = await findDevice({ uuid: uuidOf(identity) })
    if (!left || hasLiveTable(left)) throw error
    await removeDevice(left, DEFAULT_WAIT)
    return await make()
  }
}

/** The node of a device, which is made where a process was killed before it had one. */
export async function nodeOf(device: DmDevice): Promise<string> {
  await repairNode(device)
  return nodePath(device.name)
}

/** The file's mark tells what a record would, once its filesystem is mounted; but not what a partition table does. */
async function addPartitions(
  device: DmDevice,
  identity: string,
  { readOnly, size }: ImageMetadata,
  undo: Undo,
): Promise<void> {
  await using lock = await FileLock.take([identity], DEFAULT_WAIT)
  const { name, uuid, major, minor } = device
  const scope = { offset: 0, readOnly, holes: 'reject', udevScan: true } as const
  const record = newRecord('', [{ path: '', identity }], scope, {
    uuid,
    node: { name, major, minor },
    length: size,
    guard: 'immutable',
    marked: [identity],
    backend: 'linear',
    loops: [],
    fallback: [],
  })
  const request = { ...DEFAULT_WAIT, partitions: true, readOnly, udevScan: true }
  await makePartitions(device, { lock, record, request, undo })
}
