// Who has a device open, as far as this process can see.
import { readlink } from 'node:fs/promises'
import { DmloopError, problem } from './errors.js'
import { parsePartitionUuid } from './kpartx.js'
import { native, result } from './native.js'
import { identify } from './path.js'
import { openFilesOf, describeProcess, describeProcessesWhere, processIds } from './processes.js'
import {
  deviceName,
  holderNames,
  kernelPartitions,
  mapperName,
  mapperUuid,
  parseMountinfo,
  readText,
  unescapePath,
  type Mount,
} from './sysfs.js'
import { nodePath } from './udev.js'

interface Node {
  major: number
  minor: number
}

/** Devices as "major:minor". */
type Devices = ReadonlySet<string>

/**
 * A device and its partitions, the kernel's own and those on device-mapper: an open partition keeps the device
 * open.
 */
async function withPartitions({ major, minor }: Node): Promise<Devices> {
  const device = deviceName(major, minor)
  const partitions = (await kernelPartitions(device)).map((partition) => partition.device)
  const uuid = (await mapperUuid(device)) ?? ''
  for (const name of uuid === '' ? [] : await holderNames(device)) {
    const holder = (await readText(`/sys/class/block/${name}/dev`)) ?? ''
    const found = parsePartitionUuid((await mapperUuid(holder)) ?? '')
    if (found?.parent === uuid) partitions.push(holder)
  }
  return new Set([device, ...partitions])
}

/** Whether a path is that of a node of one of the devices. */
async function isNodeOf(path: string, devices: Devices): Promise<boolean> {
  const found = await identify(path).catch(() => undefined)
  return found?.isBlockDevice === true && devices.has(deviceName(found.major, found.minor))
}

/** Mounts of the devices that a process sees. btrfs has device numbers of its own: there the source tells. */
async function mountsSeenBy(pid: string, devices: Devices): Promise<string[]> {
  const mounts = parseMountinfo((await readText(`/proc/${pid}/mountinfo`).catch(() => '')) ?? '')
  const holds = async ({ device, source }: Mount): Promise<boolean> =>
    devices.has(device) ||
    (source.startsWith('/') && (await isNodeOf(`/proc/${pid}/root${source}`, devices)))
  const found: string[] = []
  for (const mount of mounts) {
    if (await holds(mount)) found.push(`the mount ${mount.mountPoint}`)
  }
  return found
}

/** Mounts in the mount namespaces of all processes; in another than this one's together with such a process. */
async function mountsOn(devices: Devices): Promise<string[]> {
  const found: string[] = []
  const seen = new Set<string>()
  for (const pid of ['self', ...(await processIds())]) {
    const namespace = await readlink(`/proc/${pid}/ns/mnt`).catch(() => undefined)
    if (namespace === undefined || seen.has(namespace)) continue
    seen.add(namespace)
    const mounts = await mountsSeenBy(pid, devices)
    const where = pid === 'self' || mounts.length === 0 ? '' : ` of ${await describeProcess(pid)}`
    found.push(...mounts.map((mount) => mount + where))
  }
  return found
}

/** /proc/swaps (proc(5)): a header, then a line an area, which starts with its path. */
async function swapOn(devices: Devices): Promise<string[]> {
  const found: string[] = []
  for (const area of ((await readText('/proc/swaps')) ?? '').split('\n').slice(1)) {
    const path = unescapePath(area.split(/\s+/)[0] ?? '')
    if (await isNodeOf(path, devices)) found.push(`the swap space on ${path}`)
  }
  return found
}

/** A device-mapper device by its name, any other by its node. */
async function describeDevice(name: string, device: string): Promise<string> {
  const mapped = await mapperName(device)
  return mapped === undefined
    ? `the device /dev/${name}`
    : `the device “${mapped}” (${nodePath(mapped)})`
}

/** Devices that are stacked on these ones. */
async function devicesOn(devices: Devices): Promise<string[]> {
  const found: string[] = []
  for (const device of devices) {
    for (const name of await holderNames(device)) {
      const holder = (await readText(`/sys/class/block/${name}/dev`)) ?? ''
      if (!devices.has(holder)) found.push(await describeDevice(name, holder))
    }
  }
  return found
}

/** Loop devices that are attached to the node of one of these devices. */
async function loopsOn(devices: Devices): Promise<string[]> {
  return (await result(native.loopList()))
    .filter(({ backingDevice: { major, minor } }) => devices.has(deviceName(major, minor)))
    .map(({ number }) => `the loop device /dev/loop${number}`)
}

/** Processes that have one of the devices open. */
const openersOf = (devices: Devices): Promise<string[]> =>
  describeProcessesWhere(async (pid) => {
    for await (const { isBlockDevice, major, minor } of openFilesOf(pid)) {
      if (isBlockDevice && devices.has(deviceName(major, minor))) return true
    }
    return false
  })

/** Describes everything that keeps a device, or a partition on it, open. */
export async function holdersOf(node: Node): Promise<string[]> {
  const devices = await withPartitions(node)
  const kinds = [mountsOn, swapOn, devicesOn, loopsOn, openersOf]
  return (await Promise.all(kinds.map((find) => find(devices)))).flat()
}

/** The error for a device that cannot be removed, with who has it open. `cause` is the call that failed. */
export async function stillOpenError(
  path: string,
  node: Node,
  timeout: number,
  cause: Error,
): Promise<DmloopError> {
  const holders = await holdersOf(node)
  const by = holders.length === 0 ? '' : ` by ${holders.join(', ')}`
  const detail = `is still open${by} after ${timeout} ms`
  return new DmloopError(problem('DMLOOP_STILL_OPEN', { file: path }, detail), undefined, { cause })
}
