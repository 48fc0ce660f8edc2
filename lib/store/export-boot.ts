// What a boot needs to map the images of a store, from their metadata.
import { mkdir, readdir, readFile, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { invalidValue, isSystemError } from '../kernel/errors.js'
import { identify, replaceFile } from '../kernel/path.js'
import { SECTOR } from '../kernel/segments.js'
import { deviceName } from '../kernel/sysfs.js'
import { DEFAULT_WAIT } from '../kernel/wait.js'
import type { Partition } from '../partitions.js'
import { bootFiles, type BootFile, type BootKind, type BootPlan } from './boot-files.js'
import type { BootDevice, BootDisk, BootWrapper } from './boot-plan.js'
import { BOOT_FOLDER } from './boot-script.js'
import { isSameDisk, nameDisk, type DiskFinder, type DiskName } from './disk-name.js'
import { labelOf } from './label.js'
import type { ImageMetadata } from './metadata.js'
import type { NewWrapper } from './options.js'

/** An image that is to be mapped at boot. */
export interface BootImage {
  name: string
  metadata: ImageMetadata
  partitions: readonly Partition[]
}

/** The plan for some images, and wrappers besides. Rejects with DMLOOP_DISK_MISSING. */
export async function bootPlan(
  images: readonly BootImage[],
  wrappers: readonly NewWrapper[],
  finder: DiskFinder,
): Promise<BootPlan> {
  const names = new Names()
  for (const { device, name } of wrappers) {
    names.wrapper({ name, disk: await nameDisk(await deviceAt(device), DEFAULT_WAIT) })
  }
  const devices = images.map((image) => describe(image, names))
  const disks: BootDisk[] = []
  for (const name of names.disks) disks.push({ ...diskOf(name), number: await finder.find(name) })
  const mapperMajor = await readMapperMajor()
  return {
    disks,
    wrappers: names.wrappers,
    devices,
    ...(mapperMajor === undefined ? {} : { mapperMajor }),
  }
}

/** Disks and wrappers, each of them once. */
class Names {
  readonly disks: DiskName[] = []
  readonly wrappers: BootWrapper[] = []

  disk(name: DiskName): number {
    const found = this.disks.findIndex((disk) => isSameDisk(disk, name))
    return found === -1 ? this.disks.push(name) - 1 : found
  }

  host(host: ImageMetadata['host']): BootDevice['filesystem'] {
    if (host === null) throw invalidValue('metadata.host', 'the name of a device', host)
    return host.by === 'WRAPPER' ? { wrapper: this.wrapper(host) } : { disk: this.disk(host) }
  }

  /** A disk has one wrapper: the first that is named. */
  wrapper({ name, disk: wrapped }: { name: string; disk: DiskName }): number {
    const disk = this.disk(wrapped)
    const found = this.wrappers.findIndex((wrapper) => wrapper.disk === disk)
    return found === -1 ? this.wrappers.push({ name, disk }) - 1 : found
  }
}

/** The number of a block device. */
async function deviceAt(path: string): Promise<string> {
  const { isBlockDevice, major, minor } = await identify(path)
  if (isBlockDevice) return deviceName(major, minor)
  throw invalidValue('options.wrappers', 'the paths of block devices', path)
}

const LVM = 'LVM-'

/** Names of device-mapper are those of logical volumes: what else there is changes. */
function diskOf({ by, value, size }: DiskName): BootDisk {
  if (by !== 'DM') return { by, value, size }
  if (value.startsWith(LVM)) return { by: 'LV', value: value.slice(LVM.length), size }
  throw invalidValue('disk', 'a partition, a filesystem or a logical volume', value)
}

function describe({ name, metadata, partitions }: BootImage, names: Names): BootDevice {
  const { disks, segments, label, id, readOnly, files, host } = metadata
  const numbers = disks.map((disk) => names.disk(disk))
  return {
    name,
    filesystem: names.host(host),
    identity: `h${files[0]?.handle ?? ''}`,
    readOnly,
    segments: segments.map(([, length = 0, disk = 0, offset = 0]) => ({
      length,
      disk: numbers[disk] ?? 0,
      offset,
    })),
    probe: { disk: numbers[label.disk] ?? 0, sector: label.sector, bytes: labelOf(id) },
    partitions: partitions.map(({ number, path, start, size }) => ({
      number,
      name: basename(path),
      start: start / SECTOR,
      length: size / SECTOR,
    })),
  }
}

/** The major number of device-mapper (proc_devices(5)); undefined where it is not loaded. */
async function readMapperMajor(): Promise<number | undefined> {
  const found = /^ *(\d+) device-mapper$/m.exec(await readFile('/proc/devices', 'utf8'))?.[1]
  return found === undefined ? undefined : Number(found)
}

/** Writes the files of a boot below a directory, each in one step, and removes those of an earlier plan. */
export async function writeBootFiles(
  plan: BootPlan,
  kind: BootKind,
  root: string,
): Promise<string[]> {
  const files = bootFiles(plan, kind)
  for (const file of files) await writeBootFile(file, root)
  const written = files.map(({ path }) => join(root, path))
  for (const old of await plannedFiles(join(root, BOOT_FOLDER))) {
    if (!written.includes(old)) await unlink(old)
  }
  return written
}

async function writeBootFile({ path, mode, content }: BootFile, root: string): Promise<void> {
  const target = join(root, path)
  await mkdir(dirname(target), { recursive: true })
  await replaceFile(target, content, mode)
}

/** The tables and blocks in a folder. */
async function plannedFiles(folder: string): Promise<string[]> {
  try {
    const names = await readdir(folder)
    return names
      .filter((name) => /^\d+\.(table|block)$/.test(name))
      .map((name) => join(folder, name))
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return []
    throw error
  }
}
