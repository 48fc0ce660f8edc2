// The table of an image as its metadata have it: with the numbers that its disks have now.
import { type DmloopError, dmloopError } from '../kernel/errors.js'
import { findDevice, hasLiveTable, listDevices } from '../kernel/device-mapper.js'
import { SECTOR, SegmentTable } from '../kernel/segments.js'
import { deviceName, mapperName, mapperUuid } from '../kernel/sysfs.js'
import { identityOf, parseIdentity, wrappedBy, wrapUuidOf } from '../plan/names.js'
import { nameDisk, type DiskFinder, type DiskName } from './disk-name.js'
import type { HostName, ImageMetadata } from './metadata.js'
import type { WaitLimit } from '../kernel/wait.js'
import type { DmDevice } from '../kernel/native.js'

/** The table that an image has now. Rejects with DMLOOP_DISK_MISSING. */
export async function storedTable(
  { segments, disks }: ImageMetadata,
  finder: DiskFinder,
): Promise<SegmentTable> {
  const devices: string[] = []
  for (const disk of disks) devices.push(await finder.find(disk))
  return new SegmentTable(Float64Array.from(segments.flat()), devices)
}

/** Segments as metadata have them, with names for their disks. */
export async function recordedTable(
  table: SegmentTable,
  limit: WaitLimit,
): Promise<Pick<ImageMetadata, 'disks' | 'segments'>> {
  const disks: DiskName[] = []
  for (const device of table.devices) disks.push(await nameDisk(device, limit))
  const segments = [...table].map(({ start, length, device, offset }) => [
    start,
    length,
    table.devices.indexOf(device ?? ''),
    offset ?? 0,
  ])
  return { disks, segments }
}

/** Names the device of a filesystem, given as "major:minor". */
export async function nameHost(device: string, limit: WaitLimit): Promise<HostName> {
  const underlying = wrappedBy((await mapperUuid(device)) ?? '')
  if (underlying === undefined) return await nameDisk(device, limit)
  const name = (await mapperName(device)) ?? ''
  return { by: 'WRAPPER', name, disk: await nameDisk(underlying, limit) }
}

/** The number of that device now; undefined for a wrapper that is not there, or was left half-made. */
export async function findHost(host: HostName, finder: DiskFinder): Promise<string | undefined> {
  if (host.by !== 'WRAPPER') return await finder.find(host)
  const wrapper = await findDevice({ uuid: wrapUuidOf(await finder.find(host.disk)) })
  return wrapper && hasLiveTable(wrapper) ? deviceName(wrapper.major, wrapper.minor) : undefined
}

/** The mappings of this machine, by what identifies their first file within its filesystem. */
export async function mappingsByHandle(): Promise<Map<string, DmDevice[]>> {
  const found = new Map<string, DmDevice[]>()
  for (const device of await listDevices()) {
    const handle = parseIdentity(identityOf(device.uuid) ?? '')?.handle
    if (handle === undefined) continue
    found.set(handle, [...(found.get(handle) ?? []), device])
  }
  return found
}

/** Where two tables of one image differ: bytes of the image. */
export interface Deviation {
  offset: number
  length: number
}

/** All runs of sectors that are not at the same place in both tables. */
export function deviationsOf(recorded: SegmentTable, now: SegmentTable): Deviation[] {
  const found: Deviation[] = []
  const own = [...recorded]
  const other = [...now]
  const sectors = Math.max(recorded.sectors, now.sectors)
  let [a, b] = [0, 0]
  for (let sector = 0; sector < sectors;) {
    const left = own[a]
    const right = other[b]
    const end = Math.min(
      left ? left.start + left.length : sectors,
      right ? right.start + right.length : sectors,
    )
    const same =
      left !== undefined &&
      right !== undefined &&
      left.device === right.device &&
      (left.offset ?? 0) - left.start === (right.offset ?? 0) - right.start
    if (!same) addRun(found, sector * SECTOR, end * SECTOR)
    if (left && left.start + left.length === end) a++
    if (right && right.start + right.length === end) b++
    sector = end
  }
  return found
}

function addRun(runs: Deviation[], start: number, end: number): void {
  const last = runs.at(-1)
  if (last && last.offset + last.length === start) last.length = end - last.offset
  else runs.push({ offset: start, length: end - start })
}

export const changed = (
  file: string,
  detail: string,
  range: Partial<Deviation> = {},
): DmloopError => dmloopError('DMLOOP_FILE_CHANGED', { file, ...range }, detail)
