// Devices and mounts as sysfs and procfs describe them.
import { readdir, readlink } from 'node:fs/promises'
import { basename } from 'node:path'
import { native, result } from './native.js'

/** A device number as sysfs and device-mapper write it. */
export const deviceName = (major: number, minor: number): string => `${major}:${minor}`

/** A device number as procfs writes it in maps and locks: hexadecimal, at least two digits each. */
export const hexDeviceName = (major: number, minor: number): string =>
  [major, minor].map((number) => number.toString(16).padStart(2, '0')).join(':')

/** A device number as `st_dev` and `st_rdev` carry it, taken apart (glibc's gnu_dev_major). */
export function splitDevice(device: number): { major: number; minor: number } {
  const bits = BigInt(device)
  return {
    major: Number(((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn)),
    minor: Number((bits & 0xffn) | ((bits >> 12n) & ~0xffn)),
  }
}

export function parseDevice(device: string): { major: number; minor: number } {
  const [major = 0, minor = 0] = device.split(':').map(Number)
  return { major, minor }
}

/** The text of the first of some files that exists, trimmed. */
export const readText = async (...paths: string[]): Promise<string | undefined> =>
  (await result(native.readFirst(paths)))?.trim()

const attribute = (device: string, name: string): Promise<string | undefined> =>
  readText(`/sys/dev/block/${device}/${name}`)

/** A device's size, in bytes. */
export async function deviceSize(device: string): Promise<number> {
  return Number((await attribute(device, 'size')) ?? 0) * 512
}

/** A device's logical block size, in bytes. */
export const blockSizeOf = async (device: string): Promise<number> =>
  Number((await attribute(device, 'queue/logical_block_size')) ?? 512)

/** Whether a device is read-only. */
export const isReadOnlyDisk = async (device: string): Promise<boolean> =>
  (await attribute(device, 'ro')) === '1'

/** The kernel's name of a device (sda1, dm-3), if it has one. */
export async function kernelName(device: string): Promise<string | undefined> {
  try {
    return basename(await readlink(`/sys/dev/block/${device}`))
  } catch {
    return undefined
  }
}

/** The kernel's name of a device, or of the disk that it is a partition of. */
export async function diskName(device: string): Promise<string | undefined> {
  if ((await attribute(device, 'partition')) === undefined) return await kernelName(device)
  const disk = await readText(`/sys/dev/block/${device}/../dev`)
  return disk === undefined ? undefined : await kernelName(disk)
}

/** A partition that the kernel itself has on a disk. */
export interface KernelPartition {
  /** The kernel's name: loop0p1. */
  name: string
  number: number
  /** As "major:minor". */
  device: string
  /** Bytes. */
  start: number
  /** Bytes. */
  size: number
}

/** The partitions that the kernel itself has on a disk, in their order. */
export async function kernelPartitions(disk: string): Promise<KernelPartition[]> {
  const folder = `/sys/dev/block/${disk}`
  const name = (await kernelName(disk)) ?? ''
  const found: KernelPartition[] = []
  for (const entry of await readdir(folder).catch(() => [])) {
    if (!entry.startsWith(name)) continue
    const [number, device, start, size] = await Promise.all(
      ['partition', 'dev', 'start', 'size'].map((file) => readText(`${folder}/${entry}/${file}`)),
    )
    if (number === undefined || device === undefined) continue
    const [startBytes = 0, sizeBytes = 0] = [start, size].map((sectors) => Number(sectors) * 512)
    found.push({ name: entry, number: Number(number), device, start: startBytes, size: sizeBytes })
  }
  return found.sort((a, b) => a.number - b.number)
}

/** The kernel's names of the devices that are stacked on a device. */
export const holderNames = (device: string): Promise<string[]> =>
  readdir(`/sys/dev/block/${device}/holders`).catch(() => [])

/** The device-mapper name of a device; undefined for other devices. */
export const mapperName = (device: string): Promise<string | undefined> =>
  attribute(device, 'dm/name')

/** The device-mapper UUID of a device, empty where it was made without; undefined for other devices. */
export const mapperUuid = (device: string): Promise<string | undefined> =>
  attribute(device, 'dm/uuid')

export interface Mount {
  /** The mount's own number. */
  id: number
  /** The filesystem's device, as "major:minor". */
  device: string
  mountPoint: string
  filesystem: string
  /** What was mounted, as mount(8) was told. */
  source: string
  /** Options of the filesystem itself, not of the mount. */
  options: string[]
}

/** Where a device is mounted, as this process sees it (proc_pid_mountinfo(5)). */
export const mountsOf = async (device: string): Promise<Mount[]> =>
  parseMounts((await readText('/proc/self/mountinfo')) ?? '', device)

/** The lines of mountinfo for a device. */
export const parseMounts = (mountinfo: string, device: string): Mount[] =>
  parseMountinfo(mountinfo).filter((mount) => mount.device === device)

/** The lines of mountinfo. */
export const parseMountinfo = (mountinfo: string): Mount[] =>
  mountinfo
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const fields = line.split(' ')
      const [filesystem = '', source = '', superOptions = ''] = fields.slice(
        fields.indexOf('-') + 1,
      )
      return {
        id: Number(fields[0]),
        device: fields[2] ?? '',
        mountPoint: unescapePath(fields[4] ?? ''),
        filesystem,
        source: unescapePath(source),
        options: superOptions.split(','),
      }
    })

/** The kernel writes white space and backslashes in paths as \ooo (octal). */
export const unescapePath = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
