// Names of disks that last: device numbers change whenever the machine starts.
import { readdir } from 'node:fs/promises'
import { findDevice, listDevices } from '../kernel/device-mapper.js'
import { dmloopError } from '../kernel/errors.js'
import { deviceName, deviceSize, kernelName, mapperUuid, readText } from '../kernel/sysfs.js'
import { runTool } from '../kernel/tool.js'
import type { WaitLimit } from '../kernel/wait.js'
import { identityOf, partIdentityOf, wrappedBy } from '../plan/names.js'

/** A disk, a partition or a logical volume. */
export interface DiskName {
  /** `DM`: a UUID of device-mapper's, as LVM gives one to each logical volume; `UUID`: that of its filesystem. */
  by: 'PARTUUID' | 'UUID' | 'DM'
  value: string
  /** Bytes. */
  size: number
}

/** Whether two names are of one disk. */
export const isSameDisk = (a: DiskName, b: DiskName): boolean =>
  a.by === b.by && a.value === b.value

/** The UUIDs of a block device, as libblkid reads them from the disk. */
interface Identifiers {
  /** As "major:minor". */
  device: string
  PARTUUID: string | undefined
  UUID: string | undefined
  /** The name that a GPT has for it. */
  PARTLABEL: string | undefined
}

/** Names a disk, given as "major:minor". Rejects with DMLOOP_DISK_MISSING where nothing lasts that tells it apart. */
export async function nameDisk(device: string, limit: WaitLimit): Promise<DiskName> {
  const size = await deviceSize(device)
  const uuid = await mapperUuid(device)
  if (uuid !== undefined && uuid !== '' && !isOwn(uuid)) return { by: 'DM', value: uuid, size }
  const found = await identify(device, limit)
  const by = found.PARTUUID === undefined ? 'UUID' : 'PARTUUID'
  const value = found[by]
  if (value !== undefined) return { by, value, size }
  const file = await diskNode(device)
  throw dmloopError('DMLOOP_DISK_MISSING', { file }, 'has neither a PARTUUID nor a UUID')
}

/** Whether a UUID of device-mapper's is one of this library's: such devices change as well. */
const isOwn = (uuid: string): boolean =>
  (identityOf(uuid) ?? partIdentityOf(uuid) ?? wrappedBy(uuid)) !== undefined

/** Finds named disks again; what is on all disks is read once. */
export class DiskFinder {
  readonly #limit: WaitLimit
  readonly #found = new Map<string, Promise<string>>()
  #all: Promise<Identifiers[]> | undefined

  constructor(limit: WaitLimit) {
    this.#limit = limit
  }

  /**
   * The number of a disk, as "major:minor". Rejects with DMLOOP_DISK_MISSING where there is none, or several, or one
   * of another size.
   */
  find(name: DiskName): Promise<string> {
    const key = `${name.by}=${name.value} ${name.size}`
    const found = this.#found.get(key) ?? this.#search(name)
    this.#found.set(key, found)
    return found
  }

  async #search({ by, value, size }: DiskName): Promise<string> {
    const devices = by === 'DM' ? await mapperDevices(value) : await this.#devices(by, value)
    return await theOnly(devices, `${by}=${value}`, size)
  }

  /** The same for a disk of which it is not known what kind of name it is. */
  async findNamed(name: string, size: number): Promise<string> {
    const kinds = await Promise.all(
      (['PARTLABEL', 'PARTUUID', 'UUID'] as const).map((by) => this.#devices(by, name)),
    )
    return await theOnly([...new Set(kinds.flat())], name, size)
  }

  /** The label of a disk's partition; undefined where it has none, or another has the same. */
  async labelOf(name: DiskName): Promise<string | undefined> {
    const device = await this.find(name)
    const label = (await this.#identified()).find((each) => each.device === device)?.PARTLABEL
    if (label === undefined) return undefined
    return (await this.#devices('PARTLABEL', label)).length === 1 ? label : undefined
  }

  async #devices(by: 'PARTUUID' | 'UUID' | 'PARTLABEL', value: string): Promise<string[]> {
    const all = await this.#identified()
    return all.filter((each) => each[by] === value).map(({ device }) => device)
  }

  #identified(): Promise<Identifiers[]> {
    return (this.#all ??= identifyAll(this.#limit))
  }
}

/** The number of the one disk that has a name, and a size in bytes. Rejects with DMLOOP_DISK_MISSING. */
async function theOnly(devices: readonly string[], name: string, size: number): Promise<string> {
  const [device] = devices
  if (device === undefined || devices.length > 1) {
    const detail = devices.length > 1 ? 'is the name of several disks' : 'is not there'
    throw dmloopError('DMLOOP_DISK_MISSING', {}, `the disk ${name} ${detail}`)
  }
  const now = await deviceSize(device)
  if (now === size) return device
  const detail = `the disk ${name} has ${now} bytes now, and had ${size}`
  throw dmloopError('DMLOOP_DISK_MISSING', {}, detail)
}

async function mapperDevices(uuid: string): Promise<string[]> {
  const found = await findDevice({ uuid })
  return found ? [deviceName(found.major, found.minor)] : []
}

async function identify(device: string, limit: WaitLimit): Promise<Identifiers> {
  const [found] = await blkid([device], limit)
  return found ?? { device, PARTUUID: undefined, UUID: undefined, PARTLABEL: undefined }
}

/** All block devices but those of this library, which show what other devices have. */
async function identifyAll(limit: WaitLimit): Promise<Identifiers[]> {
  const own = new Set(
    (await listDevices())
      .filter(({ uuid }) => isOwn(uuid))
      .map(({ major, minor }) => deviceName(major, minor)),
  )
  const names = await readdir('/sys/class/block')
  const numbers = await Promise.all(names.map((name) => readText(`/sys/class/block/${name}/dev`)))
  const devices: string[] = []
  for (const number of numbers) {
    if (number !== undefined && !own.has(number) && (await deviceSize(number)) > 0) {
      devices.push(number)
    }
  }
  return await blkid(devices, limit)
}

/** The node of a device; the kernel writes `!` for a slash. */
export const diskNode = async (device: string): Promise<string> =>
  `/dev/${((await kernelName(device)) ?? device).replaceAll('!', '/')}`

/** blkid(8) with --probe reads the disks themselves, not its cache. */
async function blkid(devices: readonly string[], limit: WaitLimit): Promise<Identifiers[]> {
  const nodes = new Map<string, string>()
  for (const device of devices) nodes.set(await diskNode(device), device)
  if (nodes.size === 0) return []
  const args = ['--probe', '--output', 'export', ...nodes.keys()]
  // It exits with 2 when it knows nothing of one of them.
  const { stdout } = await runTool('blkid', args, 'util-linux', limit)
  return stdout
    .split('\n\n')
    .map((text) => new Map(text.split('\n').map((line) => pairOf(line))))
    .flatMap((pairs) => {
      const device = nodes.get(pairs.get('DEVNAME') ?? '')
      if (device === undefined) return []
      return [
        {
          device,
          PARTUUID: pairs.get('PART_ENTRY_UUID'),
          UUID: pairs.get('UUID'),
          PARTLABEL: pairs.get('PART_ENTRY_NAME'),
        },
      ]
    })
}

/** KEY=value; what a shell would read has a backslash before it. */
function pairOf(line: string): [key: string, value: string] {
  const at = line.indexOf('=')
  return [line.slice(0, at), line.slice(at + 1).replace(/\\(.)/g, '$1')]
}
