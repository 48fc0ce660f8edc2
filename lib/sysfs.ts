// What sysfs and procfs say of devices and mounts.
import { readFile, readlink } from 'node:fs/promises'
import { basename } from 'node:path'
import { isSystemError } from './errors.js'

/** A device number as sysfs and device-mapper write it. */
export const deviceName = (major: number, minor: number): string => `${major}:${minor}`

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

/** The first of some files that there is, without the white space around it. */
export async function readText(...paths: string[]): Promise<string | undefined> {
  for (const path of paths) {
    try {
      return (await readFile(path, 'utf8')).trim()
    } catch (error) {
      if (!isSystemError(error, 'ENOENT', 'ENOTDIR', 'EINVAL')) throw error
    }
  }
  return undefined
}

const attribute = (device: string, name: string): Promise<string | undefined> =>
  readText(`/sys/dev/block/${device}/${name}`)

/** The logical block size of a device, in bytes; 512 where sysfs does not say. */
export async function logicalBlockSize(device: string): Promise<number> {
  const folder = `/sys/dev/block/${device}`
  // A partition's queue is its disk's.
  const name = 'queue/logical_block_size'
  return Number((await readText(`${folder}/${name}`, `${folder}/../${name}`)) ?? 512)
}

/** A device's size, in bytes. */
export async function deviceSize(device: string): Promise<number> {
  return Number((await attribute(device, 'size')) ?? 0) * 512
}

/** Whether a device takes no writes. */
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

/** The device-mapper name of a device; undefined if it is not device-mapper's. */
export const mapperName = (device: string): Promise<string | undefined> =>
  attribute(device, 'dm/name')

export interface Mount {
  mountPoint: string
  filesystem: string
  /** Options of the filesystem, whatever mount it is seen through. */
  options: string[]
}

/** Where a device is mounted, as this process sees it (proc_pid_mountinfo(5)). */
export async function mountsOf(device: string): Promise<Mount[]> {
  const text = (await readText('/proc/self/mountinfo')) ?? ''
  return text
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => fields[2] === device)
    .map((fields) => {
      const [filesystem = '', , superOptions = ''] = fields.slice(fields.indexOf('-') + 1)
      return {
        mountPoint: unescapePath(fields[4] ?? ''),
        filesystem,
        options: superOptions.split(','),
      }
    })
}

/** The kernel writes white space and backslashes in paths as \ooo. */
export const unescapePath = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
