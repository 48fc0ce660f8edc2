// A device and its underlying devices, in words:
// dm-3 "vg-root" (linear, 3 segments) on sda3 and sdb1.
import { native, result, type DeviceFacts, type DmTable } from './native.js'
import { SEGMENT_COLUMNS } from './segments.js'
import { parseDevice } from './sysfs.js'

/** A target's name by the number that packed segments have for it (native/segments.h). */
const TARGETS: Record<number, string> = { [-1]: 'zero', [-3]: 'striped' }

/** The targets of a table, each once. */
export function targetsOf({ rows, others }: DmTable): string[] {
  const names = new Set(others.map(({ target }) => target))
  for (let row = 2; row < rows.length; row += SEGMENT_COLUMNS) {
    const device = rows[row] as number
    const name = device >= 0 ? 'linear' : TARGETS[device]
    if (name !== undefined) names.add(name)
  }
  return [...names]
}

async function kindOf({ number, ...facts }: DeviceFacts): Promise<string | undefined> {
  const { mapperName, mdLevel, backingFile } = facts
  if (mapperName !== undefined) {
    const table = await result(native.dmTable(parseDevice(number), false), number)
    const count = table.rows.length / SEGMENT_COLUMNS
    return `${targetsOf(table).join(', ')}, ${count} ${count === 1 ? 'segment' : 'segments'}`
  }
  if (mdLevel !== undefined) return `md ${mdLevel}`
  return backingFile === undefined ? undefined : `backed by ${backingFile}`
}

async function describeOne(facts: DeviceFacts): Promise<string> {
  const { number, kernelName = number, mapperName } = facts
  const kind = await kindOf(facts)
  const quoted = mapperName === undefined ? '' : ` "${mapperName}"`
  return `${kernelName}${quoted}${kind === undefined ? '' : ` (${kind})`}`
}

const readDevices = (device: string): Promise<DeviceFacts[]> =>
  result(native.readDevices(device), device)

/** The devices that a device is made of, as "major:minor". */
export const underlyingDevices = async (device: string): Promise<string[]> =>
  (await readDevices(device))[0]?.underlying ?? []

/** Level by level, from the device down. */
export async function describeStack(device: string): Promise<string> {
  const found = new Map((await readDevices(device)).map((facts) => [facts.number, facts]))
  const levels: string[] = []
  for (let level = [device]; level.length > 0;) {
    const devices = level.flatMap((number) => found.get(number) ?? [])
    levels.push((await Promise.all(devices.map(describeOne))).join(' and '))
    level = [...new Set(devices.flatMap(({ underlying }) => underlying))]
  }
  return levels.join(' on ')
}
